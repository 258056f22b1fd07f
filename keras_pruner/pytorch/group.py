"""Several pruners, one for each config of a module, seen as one."""

from keras_pruner.config import as_config
from keras_pruner.pruners import PRUNERS, BasePruner, pair_gradients
from keras_pruner.pytorch.context import beside_training


class PrunerGroup(BasePruner):
    """Asks each of its pruners, and adds up what they say.

    Attributes:
        pruners: List of `KerasBasePruner`s, set by the subclass before it initialises
            this class. What cannot be added up, as the schedule, is the first's.
        device: `torch.device` on which their maths runs, set likewise.
    """

    @classmethod
    def complete(cls, config):
        config = as_config(config)
        if config.pruning_type not in PRUNERS:
            raise PRUNERS.unknown(config.pruning_type)
        return PRUNERS[config.pruning_type].complete(config)

    def _beside_training(self):
        return beside_training(self.device)

    # What it holds.

    @property
    def kernels(self):
        return tuple(kernel for pruner in self.pruners for kernel in pruner.kernels)

    @property
    def skipped(self):
        taken = {kernel.path for kernel in self.kernels}
        skipped = {s.path: s for pruner in self.pruners for s in pruner.skipped}
        return tuple(s for path, s in skipped.items() if path not in taken)

    @property
    def masks(self):
        with self._beside_training():
            return _merged(pruner.masks for pruner in self.pruners)

    @property
    def scores(self):
        with self._beside_training():
            return _merged(pruner.scores for pruner in self.pruners)

    @property
    def num_weights(self):
        return sum(pruner.num_weights for pruner in self.pruners)

    @property
    def num_pruned(self):
        return sum(pruner.num_pruned for pruner in self.pruners)

    @property
    def current_sparsity_ratio(self):
        return self.num_pruned / self.num_weights

    @property
    def target_sparsity_ratio(self):
        with self._beside_training():
            targets = [p.target_sparsity_ratio * p.num_weights for p in self.pruners]
        return sum(targets) / self.num_weights

    @property
    def global_step(self):
        return self.pruners[0].global_step

    @property
    def updated_at(self):
        return max(pruner.updated_at for pruner in self.pruners)

    @property
    def next_update(self):
        steps = [pruner.next_update for pruner in self.pruners]
        return min((step for step in steps if step is not None), default=None)

    @property
    def is_done(self):
        return all(pruner.is_done for pruner in self.pruners)

    # The hooks, for a loop without `attach`.

    def schedule_steps(self, total_steps=None, first_step=0):
        with self._beside_training():
            for pruner in self.pruners:
                pruner.schedule_steps(total_steps, first_step)
        self.scheduler = self.pruners[0].scheduler

    def update_masks(self, sparsity=None):
        with self._beside_training():
            for pruner in self.pruners:
                pruner.update_masks(sparsity)

    def update_if_due(self):
        with self._beside_training():
            return any([pruner.update_if_due() for pruner in self.pruners])

    def apply_masks(self):
        with self._beside_training():
            for pruner in self.pruners:
                pruner.apply_masks()

    def mask_gradients(self, gradients):
        owner = {k.path: pruner for pruner in self.pruners for k in pruner.kernels}

        def shape(kernel, gradient):
            shaped = owner[kernel.path].mask_gradients({kernel.path: gradient})
            return shaped[kernel.path]

        with self._beside_training():
            return pair_gradients(self.kernels, gradients, shape)

    def on_train_begin(self):
        super().on_train_begin()
        with self._beside_training():
            for pruner in self.pruners:
                pruner.on_train_begin()

    def on_before_optimizer_step(self, gradients=None):
        """Called between the backward pass and the optimizer's step.

        Args:
            gradients: Dict from a kernel's name to its gradient, or a list in the order
                of `masks`; `None` for those that the parameters hold, which are changed
                in place.

        Returns:
            The same, zero where the weight is pruned; or `None`.
        """
        if gradients is not None:
            return self.mask_gradients(gradients)
        held = {kernel.path: kernel.variable.value for kernel in self.kernels}
        shaped = self.mask_gradients({n: p.grad for n, p in held.items()})
        for name, parameter in held.items():
            if parameter.grad is not None:
                parameter.grad.copy_(shaped[name])
        return None

    def on_after_optimizer_step(self):
        with self._beside_training():
            for pruner in self.pruners:
                pruner.on_after_optimizer_step()


def _merged(dicts):
    return {name: value for part in dicts for name, value in part.items()}

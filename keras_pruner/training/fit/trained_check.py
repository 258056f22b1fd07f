"""Checks in the first batches that the optimizer trains the pruned kernels."""

from absl import logging
from keras import ops

from keras_pruner.backend import trains_eagerly

UNTRAINED = "no gradient reaches it in the training step"

# Batches that a training step of the user's own may take before it steps, if it is
# not compiled.
_EAGER_BATCHES = 10


class TrainedCheck:
    """Checks in the first batches that the optimizer trains the pruned kernels.

    A compiled step shows at its first batch what it trains. An eager step may train
    other weights in each batch, so it has ten batches, or one epoch.

    Args:
        attachment: `FitAttachment`.

    Attributes:
        has_trained: Whether a batch was trained. A run that was killed after the last
            batch of an epoch goes on with an epoch without one.
        has_replayed: Whether a batch was only drawn, because the run that goes on had
            trained it.
    """

    def __init__(self, attachment):
        self.attachment = attachment
        self._is_compiled = not trains_eagerly(attachment.model)
        self._batches_left = 1 if self._is_compiled else _EAGER_BATCHES
        self.has_trained = False
        self.has_replayed = False
        self._before = {}

    @property
    def is_over(self):
        return self._batches_left <= 0

    def keep_weights(self):
        """Copies the weights before an update that prunes, to restore the untrained."""
        if self.is_over or self._before:
            return
        if any(map(_is_about_to_prune, self.attachment.group.pruners)):
            kernels = self._unasked()
            self._before = {id(k): ops.copy(k.variable) for k in kernels}

    def after_batch(self):
        """Counts a batch; at the last one, checks which kernels were trained.

        Returns:
            Whether kernels were released, so that an update is due.

        Raises:
            ValueError: If a compiled step does not use the model's optimizer.
        """
        if getattr(self.attachment.model.train_function, "trains", True):
            self._batches_left -= 1
            self.has_trained = True
        else:
            self.has_replayed = True
        return self.is_over and self._end()

    def after_epoch(self):
        """Checks which kernels were trained; see `after_batch`."""
        if self.is_over or not self.has_trained:
            return False
        self._batches_left = 0
        return self._end()

    def _end(self):
        optimizer = self.attachment.optimizer
        before, self._before = self._before, {}
        if not optimizer.has_stepped:
            self._tell_of_other_optimizer()
            return False
        reached = [optimizer.trained_variables[index] for index in optimizer.reached]
        ids = set(map(id, reached))
        idle = [k for k in self._unasked() if id(k.variable) not in ids]
        group = self.attachment.group
        if not idle:
            return False
        if len(idle) == len(group.kernels):
            self._tell_of_other_optimizer()
            return False
        released = group.release(idle, UNTRAINED)
        if not released:
            return False
        for kernel in released:
            if id(kernel) in before:
                kernel.variable.assign(before[id(kernel)])
        logging.warning(
            "No gradient reaches %s in the training step, so pruning leaves them "
            "dense. To prune them too, name them by `include`.",
            ", ".join(f"'{kernel.path}'" for kernel in released),
        )
        return True

    def _unasked(self):
        """Returns the kernels that no `include` or `layer_types` asks for."""
        return [
            kernel
            for pruner in self.attachment.group.pruners
            if pruner.config.include is None and pruner.config.layer_types is None
            for kernel in pruner.kernels
        ]

    def _tell_of_other_optimizer(self):
        kernels = [kernel.path for kernel in self.attachment.group.kernels]
        names = ", ".join(f"'{path}'" for path in kernels[:3])
        if len(kernels) > 3:
            names += f" and {len(kernels) - 3} more"
        message = (
            "PruningCallback follows `model.optimizer`, but the training step does not "
            f"train the pruned kernels by it: {names}. If the step has optimizers of "
            "its own, as in a GAN, pass the one that trains these kernels to "
            "`super().compile(optimizer=...)` and apply their gradients by "
            "`self.optimizer`; or call the hooks of a `KerasBasePruner` in the step. "
            "If you mean other kernels, name them by `include`."
        )
        if self._is_compiled:
            raise ValueError(message)
        logging.warning(message)


def _is_about_to_prune(pruner):
    due = pruner.next_update
    is_due = due is not None and due <= pruner.global_step
    return is_due and pruner.sparsity_at(due) > 0

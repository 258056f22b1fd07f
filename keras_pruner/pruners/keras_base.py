"""The pruner of Keras models: score -> pattern -> allocation -> mask, compiled."""

import keras
from absl import logging
from keras import ops

from keras_pruner.collect import collect_kernels, fit_pattern
from keras_pruner.compiled import CompiledFunction, no_gradients
from keras_pruner.config import as_config
from keras_pruner.masking import make_masks, score_kernel, zero_groups
from keras_pruner.plan import PruningPlan
from keras_pruner.pruners.base import BasePruner


class KerasBasePruner(BasePruner):
    """Prunes Keras layers by masks that it makes from their weights.

    Use it through `PruningCallback` in `model.fit`, or call its step hooks from a
    training loop of your own; see `BasePruner` for the hooks and attributes.

    An update scores every kernel, reduces the scores to the pattern's groups, divides
    the target over the kernels and selects exactly that many groups, in one compiled
    function. Counts are tensors to it, so a whole schedule is traced once.

    Args:
        config: `PruningConfig`, or a dict for `PruningConfig.from_dict`.
        modules: What to prune: a dict from a name of your choice to a Keras layer, a
            `keras.Variable`, or a `Kernel`; or a model, whose kernels then are named
            by their paths. A layer with one kernel gives that kernel its name; one
            with several adds theirs, `"name/recurrent_kernel"`.

    Attributes:
        kernels: Tuple of the `Kernel`s that are pruned.
        skipped: Tuple of `Skipped`: what is left dense, and why.
        mask_variables: Dict from name to the bool `keras.Variable` of the mask.

    Raises:
        ValueError: If nothing is prunable (naming each layer and why), a layer is not
            built or is quantized, a selector matches nothing, or the caps cannot
            meet the target.
        TypeError: If `modules` holds anything else.
    """

    def __init__(self, config, modules, framework="keras"):
        if framework != "keras":
            raise ValueError(
                f"{type(self).__name__} prunes Keras models: `framework` must be "
                f"'keras'. Received: framework={framework!r}"
            )
        # The base asks for `target_sparsity_ratio`, so the plan comes first.
        config = as_config(config)
        self.kernels, self.skipped = fit_pattern(
            collect_kernels(modules, config), config
        )
        self.plan = PruningPlan(config, self.kernels)
        self._step_variable = None
        self._update_variable = None
        super().__init__(config, modules, framework)
        self.mask_variables = {
            kernel.path: _initial_mask(kernel) for kernel in self.kernels
        }
        self._num_pruned = 0
        self._pinned = None
        self._warned_about_empty = False
        self._compiled = CompiledFunction(self.make_masks)
        self.refresh()

    # What it holds.

    @property
    def masks(self):
        return {name: ops.copy(mask) for name, mask in self.mask_variables.items()}

    @property
    def scores(self):
        scores = {}
        for kernel in self.kernels:
            weight = ops.convert_to_tensor(kernel.variable)
            matrix = score_kernel(self.config, kernel, weight)
            scores[kernel.path] = kernel.layout.from_matrix(matrix)
        return scores

    @property
    def current_sparsity_ratio(self):
        return self._num_pruned / self.num_weights

    @property
    def target_sparsity_ratio(self):
        return self.plan.final_sparsity

    @property
    def num_weights(self):
        """Weights in all kernels that the pruner took."""
        return self.plan.num_weights

    @property
    def num_pruned(self):
        """Weights that the masks zero."""
        return self._num_pruned

    @property
    def trace_count(self):
        """How often the update was traced: once per pruner, whatever the schedule."""
        return self._compiled.trace_count

    # State that a compiled training step shares.

    @property
    def global_step(self):
        if self._step_variable is None:
            return self._global_step
        return int(keras.ops.convert_to_numpy(self._step_variable))

    def bind(self, step, updated_at):
        """Lets a compiled training step count for this pruner.

        Args:
            step: Int variable that counts applied updates, or `None` to keep the
                count and go on by hand.
            updated_at: Int variable that remembers the latest mask update.
        """
        if step is None:
            self._global_step = self.global_step
        self._step_variable = step
        self._update_variable = updated_at
        if updated_at is not None:
            self._updated_at = int(keras.ops.convert_to_numpy(updated_at))

    def _set_updated_at(self, step):
        super()._set_updated_at(step)
        if self._update_variable is not None:
            self._update_variable.assign(step)

    def refresh(self):
        """Counts the masks anew, after they were assigned from outside."""
        kept = sum(
            int(ops.convert_to_numpy(ops.sum(ops.cast(mask, "int32"))))
            for mask in self.mask_variables.values()
        )
        self._num_pruned = self.num_weights - kept

    # Making masks.

    def make_masks(self, weights, counts, target, lower, upper):
        """Makes masks from weights: the pure maths of an update, run compiled.

        A subclass may override it; see `keras_pruner.masking.make_masks` for the
        arguments and what is returned.
        """
        return make_masks(
            self.config, self.kernels, weights, counts, target, lower, upper
        )

    def update_masks(self, sparsity=None):
        """Makes masks of the given sparsity from the weights, and applies them.

        Args:
            sparsity: Target over all kernels, in [0, 1); the config's by default.

        Raises:
            ValueError: If a kernel holds NaN or infinity; no mask or weight changes.
        """
        if sparsity is None:
            sparsity = self.target_sparsity_ratio
        weights = [ops.convert_to_tensor(kernel.variable) for kernel in self.kernels]
        masks, counts, finite = self._compiled(weights, *self._demand(sparsity))
        finite = ops.convert_to_numpy(finite)
        if not finite.all():
            bad = [k.path for k, ok in zip(self.kernels, finite, strict=True) if not ok]
            raise ValueError(
                f"Cannot prune: NaN or infinite weights in {', '.join(bad)}. The masks "
                "are left as they were. Look for a diverging loss, e.g. a learning "
                "rate that is too high."
            )
        for kernel, mask in zip(self.kernels, masks, strict=True):
            self.mask_variables[kernel.path].assign(mask)
            if kernel.wrapper_mask is not None:
                # JAX donates buffers to the training step, each but once.
                kernel.wrapper_mask.assign(ops.copy(mask))
        self._num_pruned = sum(
            int(count) * plan.group_size
            for count, plan in zip(
                ops.convert_to_numpy(counts), self.plan.kernels, strict=True
            )
        )
        self.apply_masks()
        self._warn_about_empty(counts)

    def _demand(self, sparsity):
        """Returns what `make_masks` is asked for, as tensors of fixed shapes."""
        demand = self.plan.demand(sparsity, self._pinned_groups())
        dtype = "int32" if demand.target < 2**31 else "int64"
        return (
            ops.convert_to_tensor(demand.counts, dtype="int32"),
            ops.convert_to_tensor(demand.target, dtype=dtype),
            ops.convert_to_tensor(demand.lower, dtype="int32"),
            ops.convert_to_tensor(demand.upper, dtype="int32"),
        )

    def _pinned_groups(self):
        """Counts, once, the groups that were already zero when pruning began."""
        if not self.config.resume_from_pruned_checkpoint:
            return None
        if self._pinned is None:
            self._pinned = []
            for kernel in self.kernels:
                weight = ops.convert_to_tensor(kernel.variable)
                zero = zero_groups(self.config, kernel, weight)
                count = ops.convert_to_numpy(ops.sum(ops.cast(zero, "int32")))
                self._pinned.append(int(count))
        return self._pinned

    def _warn_about_empty(self, counts):
        empty = [
            plan.path
            for plan, count in zip(
                self.plan.kernels, ops.convert_to_numpy(counts), strict=True
            )
            if int(count) * plan.group_size == plan.num_weights
        ]
        if empty and not self._warned_about_empty:
            self._warned_about_empty = True
            logging.warning(
                "Every weight is pruned in %s: nothing passes through. Lower "
                "`max_sparsity` or `target_sparsity`, or exclude the layer.",
                ", ".join(empty),
            )

    # Applying masks.

    def apply_masks(self):
        with no_gradients():
            for kernel in self.kernels:
                mask = ops.convert_to_tensor(self.mask_variables[kernel.path])
                weight = ops.convert_to_tensor(kernel.variable)
                kernel.variable.assign(ops.where(mask, weight, ops.zeros_like(weight)))

    def mask_gradients(self, gradients):
        def masked(gradient, mask):
            if gradient is None:
                return None
            mask = ops.convert_to_tensor(mask)
            return ops.where(mask, gradient, ops.zeros_like(gradient))

        masks = self.mask_variables
        if isinstance(gradients, dict):
            unknown = sorted(set(gradients) - set(masks))
            if unknown:
                raise ValueError(
                    f"Gradients are given for {', '.join(unknown)}, which is not "
                    f"pruned. Kernels: {', '.join(masks)}"
                )
            return {name: masked(g, masks[name]) for name, g in gradients.items()}
        gradients = list(gradients)
        if gradients and isinstance(gradients[0], tuple):
            mask_of = {id(k.variable): masks[k.path] for k in self.kernels}
            return [
                (masked(g, mask_of[id(v)]) if id(v) in mask_of else g, v)
                for g, v in gradients
            ]
        if len(gradients) != len(masks):
            raise ValueError(
                "Gradients given as a list must be one per pruned kernel, in the order "
                f"of `masks`. Received: {len(gradients)} for {len(masks)} kernels"
            )
        return [masked(g, m) for g, m in zip(gradients, masks.values(), strict=True)]

    @property
    def shrink_functions(self):
        """Dict from a kernel's name to its proximal step; empty without a regularizer.

        A step is a function of the kernel's value and the learning rate.
        """
        if self.config.regularizer is None:
            return {}
        return {kernel.path: self._shrink_function(kernel) for kernel in self.kernels}

    def _shrink_function(self, kernel):
        def shrink(value, learning_rate):
            amount = ops.cast(
                learning_rate * self.config.regularizer_strength, value.dtype
            )
            matrix = self.config.regularizer.shrink(
                kernel.layout.to_matrix(value), amount, kernel, self.pattern
            )
            return kernel.layout.from_matrix(matrix)

        return shrink

    def regularize(self, learning_rate):
        """Takes one proximal step of the config's regularizer on the kernels.

        In `fit` this happens inside the training step. A loop of one's own calls it
        between the optimizer's step and `on_after_optimizer_step`.

        Args:
            learning_rate: Float.
        """
        shrink = self.shrink_functions
        with no_gradients():
            for kernel in self.kernels:
                if kernel.path in shrink:
                    value = ops.convert_to_tensor(kernel.variable)
                    kernel.variable.assign(shrink[kernel.path](value, learning_rate))

    def begin(self):
        """Pins what is zero already, if the config asks for that."""
        if self.config.resume_from_pruned_checkpoint and self._updated_at < 0:
            self.update_masks(0.0)

    def on_train_begin(self):
        super().on_train_begin()
        self.begin()


def _initial_mask(kernel):
    """Returns a mask that keeps all, or the one that a wrapper layer holds already."""
    if kernel.wrapper_mask is None:
        value = ops.ones(kernel.variable.shape, dtype="bool")
    else:
        value = ops.copy(kernel.wrapper_mask)
    return keras.Variable(
        value,
        dtype="bool",
        trainable=False,
        # Where kernels are sharded over devices, their masks are sharded alike.
        layout=getattr(kernel.variable, "_layout", None),
        name=f"{kernel.path.replace('/', '_')}_mask",
    )

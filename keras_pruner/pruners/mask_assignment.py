"""How a pruner takes new masks into its variables: kernel by kernel or all at once."""

from keras import ops

from keras_pruner.backend import call_in_trace, clear_slots
from keras_pruner.masks import as_stored, assign_mask, keep, zero_groups
from keras_pruner.pruners.mask_update import MaskUpdate
from keras_pruner.pruners.training_rule import TrainingRule


class MaskAssignment(MaskUpdate):
    """The part of `KerasBasePruner` that updates the variables of masks and kernels."""

    def update_masks(self, sparsity=None):
        """Makes masks of the given sparsity from the weights, and applies them.

        Args:
            sparsity: Target over all kernels, in [0, 1); the config's by default.

        Raises:
            ValueError: If a kernel, or what its criterion remembers, holds NaN or
                infinity, or the criterion needs gradients and has seen none; no mask
                or weight changes.
        """
        if sparsity is None:
            sparsity = self.target_sparsity_ratio
        if not self._has_gradients():
            if self.plan.demand(sparsity, self._pinned_groups()).target == 0:
                # Nothing is pruned yet, so nothing needs a score.
                return
        self._check_gradients()
        if self._is_updated_at_once:
            self._update_at_once(sparsity)
        else:
            self._update_by_units(sparsity)

    def _update_by_units(self, sparsity):
        """Updates masks by functions of each kind of kernel, which pruners share.

        One kernel at a time is masked, which needs less memory than all.
        """
        result = self.make_masks(self.update_inputs(sparsity), self._compiled)
        self._check_finite(ops.convert_to_numpy(result.finite).tolist())
        self._set_growth(sparsity)
        clear = self.clears_slots and self._optimizer is not None
        for kernel, mask in zip(self.kernels, result.masks, strict=True):
            variable = self.mask_variables[kernel.path]
            if clear:
                pruned = ops.logical_not(self.mask_value(kernel))
                grown = ops.logical_and(mask, pruned)
                clear_slots(self._optimizer, kernel.variable, where=grown)
            assign_mask(variable, mask, self._compiled)
        self._take_in(result)
        self.apply_masks()

    def _update_at_once(self, sparsity):
        """Updates all masks by one function, whose calls cost less than many would."""
        all_states = self.state_variables.values()
        has_dense = any("dense" in states for states in all_states)
        inputs = self.update_inputs(sparsity, with_weights=has_dense or self.has_groups)
        inputs = self.with_groups(inputs, self._compiled)
        result = self._at_once(inputs if has_dense else inputs._replace(weights=[]))
        self._check_finite(ops.convert_to_numpy(result.finite).tolist())
        self._set_growth(sparsity)
        self._take_in(result)

    def _update_values(self, values, inputs):
        """Makes new values of the kernels and mask variables, if all was finite.

        Args:
            values: List of the kernels' values and then those of the mask variables.
            inputs: `UpdateInputs`, without weights where these are the kernels.

        Returns:
            Tuple of a list of as many values, and of an `UpdateResult` without masks.
        """
        if not inputs.weights:
            inputs = inputs._replace(weights=values[: len(self.kernels)])
        result = self.make_masks(inputs, call_in_trace)
        is_finite = ops.all(result.finite)
        made = list(map(keep, inputs.weights, result.masks))
        made += [as_stored(mask, self.config.mask_bits) for mask in result.masks]
        made = [
            ops.where(is_finite, new, old)
            for new, old in zip(made, values, strict=True)
        ]
        return made, result._replace(masks=[])

    def _take_in(self, result):
        """Takes in what an update made besides masks."""
        for kernel, states in zip(self.kernels, result.states, strict=True):
            if kernel.wrapper_mask is not None:
                # JAX donates buffers to the training step, each but once.
                mask = ops.copy(self.mask_value(kernel))
                assign_mask(kernel.wrapper_mask, mask, self._compiled)
            for name, value in states.items():
                self.state_variables[kernel.path][name].assign(value)
        for what, threshold in result.thresholds.items():
            self._forecasts[what].learn(float(ops.convert_to_numpy(threshold)))
        self._count(ops.convert_to_numpy(result.counts).tolist())

    @property
    def _is_updated_at_once(self):
        """Whether one function updates all: of few small kernels, often updated.

        Else each kind of kernel has its own function.
        """
        is_small = len(self.units) <= 8 and self.num_weights <= 2**24
        is_plain = all(
            type(rule).effective is TrainingRule.effective
            for rule in self.rules.values()
        )
        clears = self.clears_slots and self._optimizer is not None
        is_plain = is_plain and not (self.has_caps or clears)
        return is_small and is_plain and self._is_updated_often

    @property
    def _is_updated_often(self):
        plan = self.scheduler
        return plan is not None and plan.last_update - plan.begin >= 20 * plan.frequency

    def _count(self, counts):
        """Counts what was pruned, from the groups that each unit gave."""
        self._num_pruned = sum(
            count * plan.group_size
            for count, plan in zip(counts, self.plan.kernels, strict=True)
        )
        self._warn_about_empty(counts)

    def _set_growth(self, sparsity):
        """Tells a regularizer that grows how far the schedule is, from 0 to 1."""
        regularizer = self.config.regularizer
        if regularizer is None or not regularizer.grows:
            return
        progress = sparsity / max(self.target_sparsity_ratio, 1e-9)
        if self.scheduler is not None:
            length = max(1, self.scheduler.last_update - self.scheduler.begin)
            progress = (self.global_step - self.scheduler.begin) / length
        for states in self.state_variables.values():
            states["growth"].assign(min(1.0, max(0.0, progress)))

    def _pinned_groups(self):
        """Counts, once, the groups that were already zero when pruning began."""
        if not self.config.resume_from_pruned_checkpoint:
            return None
        if self.pinned is None:
            self.pinned = []
            for unit in self.units:
                members = [
                    (self.kernels[i], self.source_value(self.kernels[i]))
                    for i in unit.indices
                ]
                zero = zero_groups(self.config, members)
                count = ops.convert_to_numpy(ops.sum(ops.cast(zero, "int32")))
                self.pinned.append(int(count))
        return self.pinned

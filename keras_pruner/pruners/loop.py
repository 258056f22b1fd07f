"""What a pruner does in a training loop of one's own, step by step and eagerly."""

from keras import ops

from keras_pruner.backend import no_gradients, num_replicas
from keras_pruner.masks import assign_mask, finite_or, keep
from keras_pruner.pruners.training_rule import TrainingRule


class LoopHooks:
    """The part of `KerasBasePruner` that acts between the steps of a loop.

    In `fit`, `PruningOptimizer` does the same by the same rules, compiled.
    """

    def attach_optimizer(self, optimizer):
        """Names the optimizer of the loop, for pruners that clear its slots."""
        self._optimizer = optimizer

    def calibrate(self, probe):
        """Fills what the criterion remembers from a few batches.

        The weights stay as they are; `prune_at_init` does this.

        Args:
            probe: `Probe` of the model, for the pruner's kernels.
        """
        rules = list(self.rules.values())
        states = [self.state_variables[kernel.path] for kernel in self.kernels]
        memories = self.config.criterion.calibrate(
            [
                rule.memory_matrix(ops.zeros(state["memory"].shape))
                for rule, state in zip(rules, states, strict=True)
            ],
            [
                kernel.layout.to_matrix(ops.cast(self.source_value(kernel), "float32"))
                for kernel in self.kernels
            ],
            [rule.pool for rule in rules],
            probe,
        )
        for rule, state, memory in zip(rules, states, memories, strict=True):
            state["memory"].assign(rule.kept_memory(memory, state["memory"]))
        self._has_seen_gradients = True

    def take_over_weights(self):
        """Lets hidden dense weights follow what was trained without it."""
        with no_gradients():
            for kernel in self.kernels:
                rule, path = self.rules[kernel.path], kernel.path
                if not rule.keeps_dense:
                    continue
                states, mask = self.state_variables[path], self.mask_value(kernel)
                dense = ops.convert_to_tensor(states["dense"])
                value = ops.convert_to_tensor(kernel.variable)
                same = value == rule.effective(dense, mask, states)[0]
                changed = rule.dense_of(value, states)
                states["dense"].assign(ops.where(same, dense, changed))

    def apply_masks(self):
        with no_gradients():
            for kernel in self.kernels:
                rule, variable = self.rules[kernel.path], kernel.variable
                weight = self.source_value(kernel)
                mask = self.mask_value(kernel)
                if type(rule).effective is TrainingRule.effective:
                    # What nearly all rules do, so it is worth compiling.
                    variable.assign(self._compiled(keep, weight, mask))
                    continue
                states = self.state_variables[kernel.path]
                value, new_mask = rule.effective(weight, mask, states)
                variable.assign(value)
                if new_mask is not None:
                    kept = self.mask_variables[kernel.path]
                    assign_mask(kept, new_mask, self._compiled)

    def mask_gradients(self, gradients, true_gradients=None):
        """Makes the gradients that the optimizer gets, and remembers the true ones.

        Args:
            gradients: As for `on_before_optimizer_step`.
            true_gradients: Dict from a kernel's name to what criteria see in place of
                its gradient, where that is not what the loss has, e.g. was clipped.

        Returns:
            The same form as `gradients`.
        """
        true_gradients = true_gradients or {}
        replicas = num_replicas()
        if replicas > 1:
            self._check_replicated(replicas)

        def shape(kernel, gradient):
            rule = self.rules[kernel.path]
            mask = self.mask_value(kernel)
            states = self.state_variables[kernel.path]
            weight = self.source_value(kernel)
            if rule.needs_gradients:
                # A copy: on TensorFlow and torch the tensor is the variable itself.
                seen = ops.copy(weight)
                true = true_gradients.get(kernel.path, gradient)
                self._observed[kernel.path] = seen, ops.cast(true, "float32")
                self._has_seen_gradients = True
            if rule.keeps_dense:
                # The optimizer steps on what the mask hides, too.
                self._observed.setdefault(kernel.path, (weight, None))
                kernel.variable.assign(weight)
            # Each replica has a share of the loss, and gradients are summed later.
            share = 1.0 / replicas
            return rule.shape_gradient(gradient, weight, mask, states, share)

        with no_gradients():
            return pair_gradients(self.kernels, gradients, shape)

    def _check_replicated(self, replicas):
        """Raises if something is kept of a gradient that only one replica has seen."""
        if any(r.needs_gradients or r.keeps_dense for r in self.rules.values()):
            raise ValueError(
                f"Pruner '{self.name or type(self).__name__}' with criterion "
                f"'{self.config.criterion.name}' learns from gradients, and its hooks "
                "see those of one replica only. Give a PruningCallback to a "
                "`keras.callbacks.CallbackList` that your loop calls, and let "
                "`model.optimizer` apply the gradients. Received: a step that is "
                f"divided over {replicas} replicas"
            )

    def on_after_optimizer_step(self):
        with no_gradients():
            for kernel in self.kernels:
                rule = self.rules[kernel.path]
                states = self.state_variables[kernel.path]
                weight, gradient = self._observed.get(kernel.path, (None, None))
                if rule.keeps_dense:
                    if weight is None:
                        raise ValueError(
                            f"'{kernel.path}' keeps dense weights: give its gradient to"
                            " `on_before_optimizer_step` at every step."
                        )
                    states["dense"].assign(ops.copy(kernel.variable))
                if gradient is not None:
                    changed = rule.observe(states, weight, gradient)
                    for name, value in changed.items():
                        states[name].assign(finite_or(value, states[name]))
        self._observed = {}
        super().on_after_optimizer_step()

    def regularize(self, learning_rate):
        """Takes one proximal step of the config's regularizer on the kernels.

        In `fit` this happens inside the training step. A loop of one's own calls it
        between the optimizer's step and `on_after_optimizer_step`.

        Args:
            learning_rate: Float; or a dict from a kernel's name to its float.
        """
        with no_gradients():
            for kernel in self.kernels if self.config.regularizer else ():
                path, rate = kernel.path, learning_rate
                if isinstance(rate, dict):
                    rate = rate[path]
                value = self.rules[path].regularize(
                    ops.convert_to_tensor(kernel.variable),
                    self.mask_value(kernel),
                    self.state_variables[path],
                    ops.convert_to_tensor(rate, "float32"),
                )
                kernel.variable.assign(value)


def pair_gradients(kernels, gradients, shape):
    """Changes the gradients of pruned kernels, in whatever form they came.

    Args:
        kernels: The `Kernel`s that are pruned.
        gradients: Pairs of a gradient and its variable; or a dict from a kernel's name
            to its gradient; or a list with one gradient per kernel.
        shape: Function from a `Kernel` and its gradient to the new gradient.

    Returns:
        The same form. Gradients that are `None`, or not of a pruned kernel, are as they
        were.

    Raises:
        ValueError: If a name is not pruned, or a list has another length.
    """

    def changed(kernel, gradient):
        return None if gradient is None else shape(kernel, gradient)

    if isinstance(gradients, dict):
        by_name = {kernel.path: kernel for kernel in kernels}
        unknown = sorted(set(gradients) - set(by_name))
        if unknown:
            raise ValueError(
                f"Gradients are given for {', '.join(unknown)}, which is not "
                f"pruned. Kernels: {', '.join(by_name)}"
            )
        return {name: changed(by_name[name], g) for name, g in gradients.items()}
    gradients = list(gradients)
    if gradients and isinstance(gradients[0], tuple):
        of_variable = {id(kernel.variable): kernel for kernel in kernels}
        return [
            (changed(of_variable[id(v)], g) if id(v) in of_variable else g, v)
            for g, v in gradients
        ]
    if len(gradients) != len(kernels):
        raise ValueError(
            "Gradients given as a list must be one per pruned kernel, in the order "
            f"of `masks`. Received: {len(gradients)} for {len(kernels)} kernels"
        )
    return [changed(k, g) for k, g in zip(kernels, gradients, strict=True)]

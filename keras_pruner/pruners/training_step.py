"""Runs a training step of all pruned kernels, around the optimizer's own step."""

from typing import Any, NamedTuple

from keras import ops

from keras_pruner.backend import call_directly, no_gradients, sum_over_replicas
from keras_pruner.masks import (
    apply_mask,
    apply_mask_if_dense,
    assign_mask,
    finite_or,
    read_mask,
)

# Name of the state that sums a kernel's true gradients while they accumulate.
GRADIENT_SUM = "gradient_sum"


class TrainedKernel(NamedTuple):
    """Holds a masked variable and its parts in a training step.

    Args:
        variable: `keras.Variable` that the optimizer trains.
        mask: Bool `keras.Variable` or `PackedMask`.
        rule: `TrainingRule`; `None` masks the gradient and the weights.
        states: Dict from a name to the `keras.Variable` of a state.
    """

    variable: Any
    mask: Any
    rule: Any = None
    states: dict = {}  # noqa: RUF012


class TrainingStep:
    """Runs the rules of pruned kernels before and after one optimizer step.

    `before` makes the gradient for the optimizer. After the optimizer's step, `after`
    passes the true gradient to each rule, regularizes, and masks the weights.

    `PruningOptimizer` runs it inside the compiled step of `fit`. A pruner runs it
    eagerly, from its hooks in a custom loop or on a torch optimizer.

    Args:
        kernels: Dict from a key to a `TrainedKernel`.
        call: Calls functions of tensors, e.g. a `FunctionCache` that compiles them.

    Example:

    >>> kernel = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    >>> keep = [[True, False], [True, True]]
    >>> mask = keras.Variable(keep, dtype="bool", trainable=False)
    >>> step = TrainingStep({"kernel": TrainedKernel(kernel, mask)})
    >>> ops.convert_to_numpy(step.before("kernel", ops.ones((2, 2)))).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    >>> _ = kernel.assign([[0.5, 1.9], [2.5, 3.5]])  # The optimizer's step.
    >>> step.after()
    >>> ops.convert_to_numpy(kernel).tolist()
    [[0.5, 0.0], [2.5, 3.5]]
    """

    def __init__(self, kernels, call=call_directly):
        self.kernels = kernels
        self._call = call
        # Maps a key to the weights and the true gradient of the current step.
        self._seen = {}
        # Keys of kernels whose variable holds dense weights until `after`.
        self._dense = set()

    def before(self, key, gradient, *, scale=1.0, share=1.0, true_gradient=None):
        """Makes the gradient of one kernel for the optimizer.

        If the rule keeps dense weights, the variable holds them until `after`, so that
        the optimizer steps on them.

        Args:
            key: The kernel's key.
            gradient: Tensor; a sparse gradient of TensorFlow; or `None`.
            scale: Factor in `gradient` by which the loss was multiplied.
            share: Factor in `gradient` for a rule's own terms: the loss scale over the
                number of replicas.
            true_gradient: Gradient that criteria see, if it differs, e.g. because
                `gradient` was clipped.

        Returns:
            The gradient, or `None`.
        """
        variable, mask, rule, states = self.kernels[key]
        mask = read_mask(mask, self._call)
        if rule is None or gradient is None:
            return apply_mask_if_dense(gradient, mask)
        dense = states.get("dense")
        weight = ops.convert_to_tensor(variable if dense is None else dense)
        if rule.needs_gradients:
            # This also converts TensorFlow's sparse gradients.
            gradient = ops.convert_to_tensor(gradient)
            true = gradient if true_gradient is None else true_gradient
            # A copy, because the tensor may be the variable, which the step changes.
            seen = ops.copy(weight) if dense is None else weight
            self._seen[key] = seen, ops.cast(true, "float32") / scale
        if rule.keeps_dense:
            variable.assign(weight)
            self._dense.add(key)
        if hasattr(gradient, "dense_shape"):
            # `after` masks the weights that a sparse gradient changes.
            return gradient
        return rule.shape_gradient(gradient, weight, mask, states, share)

    def after(
        self,
        rate=None,
        *,
        is_frozen=False,
        averages=None,
        newest=1.0,
        ticked=None,
        applied=None,
        accumulated_steps=None,
    ):
        """Ends the step.

        Args:
            rate: Learning rate of the regularizer, a float or tensor; or a dict of
                them by key. `None` skips the regularizer.
            is_frozen: Whether the optimizer left all weights unchanged.
            averages: Dict from a key to the variable of a moving average. It becomes
                that of the weights that the model computes with.
            newest: Share of the trained weights in the averages, a float or tensor.
            ticked: Bool tensor: whether the optimizer accepted the gradients; `None`
                if it always does.
            applied: Bool tensor: whether the optimizer applied a step; `None` if it
                always does.
            accumulated_steps: Batches whose gradients make one step, or `None`.
        """
        self._accumulate(ticked, applied, accumulated_steps)
        averages = averages or {}
        norms = self.unit_norms() if rate is not None and not is_frozen else {}
        if ticked is not None:
            newest = ops.where(ticked, newest, 0.0)
        for key, kernel in self.kernels.items():
            rule, states = kernel.rule, kernel.states
            weight = self._trained_weight(key)
            mask = self.mask_value(key)
            if rule is not None and not is_frozen:
                if rate is not None:
                    own_rate = rate[key] if isinstance(rate, dict) else rate
                    weight = rule.regularize(weight, mask, states, own_rate, norms)
                if rule.keeps_dense:
                    states["dense"].assign(weight)
            self._enforce(kernel, mask, weight, averages.get(key), newest)
        self._seen = {}
        self._dense = set()

    def unit_norms(self):
        """Returns the norms that regularizers of coupled kernels need.

        Returns:
            Dict from the name of a unit to a float32 tensor.
        """
        squares = {}
        for key, kernel in self.kernels.items():
            if kernel.rule is None or not kernel.rule.unit_patterns:
                continue
            own = kernel.rule.unit_squares(self._trained_weight(key))
            for unit, part in own.items():
                squares[unit] = squares[unit] + part if unit in squares else part
        return {unit: ops.sqrt(total) for unit, total in squares.items()}

    def _trained_weight(self, key):
        """Returns the weights that the optimizer stepped on."""
        variable, _, rule, states = self.kernels[key]
        holds_dense = rule is not None and rule.keeps_dense
        is_trained = not holds_dense or key in self._dense
        return ops.convert_to_tensor(variable if is_trained else states["dense"])

    @property
    def has_seen_gradients(self):
        """Whether `before` has seen a true gradient in this step."""
        return bool(self._seen)

    def mask_value(self, key):
        """Returns a kernel's mask as a bool tensor."""
        return read_mask(self.kernels[key].mask, self._call)

    def was_shown(self, key):
        """Whether `before` has seen a gradient of the kernel in this step."""
        return key in self._seen or key in self._dense

    def apply_masks(self):
        """Sets pruned weights to zero."""
        for key, kernel in self.kernels.items():
            source = kernel.states.get("dense", kernel.variable)
            weight = ops.convert_to_tensor(source)
            self._enforce(kernel, self.mask_value(key), weight)

    def _enforce(self, kernel, mask, weight, average=None, newest=1.0):
        """Assigns the weights that the model computes with."""
        variable, kept, rule, states = kernel
        if rule is None:
            variable.assign(apply_mask_if_dense(weight, mask))
        elif rule.only_masks:
            variable.assign(self._call(apply_mask, weight, mask))
        else:
            value, new_mask = rule.forward_weights(weight, mask, states)
            if average is not None:
                # The optimizer averaged the dense weights.
                lost = ops.cast(newest, weight.dtype) * (weight - value)
                average.assign(ops.convert_to_tensor(average) - lost)
            variable.assign(value)
            if new_mask is not None:
                mask = new_mask
                assign_mask(kept, mask, self._call)
        if average is not None:
            average.assign(apply_mask_if_dense(ops.convert_to_tensor(average), mask))

    def _accumulate(self, ticked, applied, accumulated_steps):
        """Passes the true gradients of an applied step to the rules."""
        totals = sum_over_replicas([gradient for _, gradient in self._seen.values()])
        for key, gradient in zip(self._seen, totals, strict=True):
            weight, (_, _, rule, states) = self._seen[key][0], self.kernels[key]
            if GRADIENT_SUM in states:
                sums = states[GRADIENT_SUM]
                old = ops.convert_to_tensor(sums)
                total = old + gradient
                # A batch with non-finite gradients is skipped, not summed.
                kept = ops.where(ticked, total, old)
                sums.assign(ops.where(applied, ops.zeros_like(old), kept))
                gradient = total / accumulated_steps
            for name, value in rule.accumulate(states, weight, gradient).items():
                state = states[name]
                value = finite_or(value, state)
                if applied is not None:
                    value = ops.where(applied, value, ops.convert_to_tensor(state))
                state.assign(value)


def pair_gradients(kernels, gradients, shape):
    """Changes the gradients of pruned kernels, in any form that a loop passes.

    Args:
        kernels: The `Kernel`s that are pruned.
        gradients: Pairs of a gradient and its variable; or a dict from a kernel's name
            to its gradient; or a list with one gradient per kernel.
        shape: Function from a `Kernel` and its gradient to the new gradient.

    Returns:
        The same form. Gradients that are `None`, or not of a pruned kernel, are
        unchanged.

    Raises:
        ValueError: If a name is not pruned, or a list has another length.
    """

    def changed(kernel, gradient):
        return None if gradient is None else shape(kernel, gradient)

    with no_gradients():
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

"""Notices hooks of a custom training loop that are missing or cannot work."""

from absl import logging
from keras import ops

from keras_pruner.backend import is_tracing, reference_to_value, traces_assignments
from keras_pruner.pruners.moments import source_of_scores

# Steps after which a loop that assigns no kernel raises an error.
_MOST_STEPS_UNCHANGED = 10
# Values of each kernel that are compared.
_SAMPLE = 64

_COPIES = (
    "The loop trains copies of the weights, or another model. If it trains by "
    "`stateless_apply`, use `StatelessPruner`, or assign the new values to the "
    "variables before `on_after_optimizer_step`."
)


def refuse_in_trace(hook):
    """Raises an error if a hook that decides on the host is being traced.

    Args:
        hook: Name of the hook.

    Raises:
        ValueError: Inside of a `tf.function` or a `jax.jit`.
    """
    if is_tracing():
        raise ValueError(
            f"`{hook}` decides in Python whether the masks change, so it would run "
            "only once in a compiled function. Call it outside of the `tf.function` "
            f"or `jax.jit`.{_inside()}"
        )


def refuse_in_stateless_trace(hook):
    """Raises an error if a hook of a step is traced where no variable can be assigned.

    Args:
        hook: Name of the hook.

    Raises:
        ValueError: Inside of a `jax.jit`.
    """
    if not traces_assignments() and is_tracing():
        raise ValueError(
            f"`{hook}` reads and assigns variables, which a `jax.jit` would make "
            f"constants. Call it outside of `jax.jit`.{_inside()}"
        )


def _inside():
    if traces_assignments():
        return (
            " Inside, only `on_before_optimizer_step` and `on_after_optimizer_step` "
            "work."
        )
    return " To prune inside of a compiled step, use `StatelessPruner`."


class HookOrder:
    """Notices hooks that are missing in a loop, and weights that it does not train.

    Args:
        pruner: `KerasBasePruner`.

    Attributes:
        advice: Message that says what the latest loop did wrong, or `None`.
    """

    def __init__(self, pruner):
        self.pruner = pruner
        # The loop's first step, or `None` outside of a loop.
        self._first_step = None
        self.advice = None
        self._has_looked = False
        self._values, self._num_unchanged = None, 0
        self._sample = []

    def begin(self):
        """Called when a loop begins."""
        self._first_step = self.pruner.global_step
        self._has_looked, self._num_unchanged, self.advice = False, 0, None
        self._sample = self._sample_weights()
        source = source_of_scores(self.pruner)
        if source is not None:
            logging.info("%r is scored by %s", self.pruner, source)

    def look(self):
        """Called when the loop asks for an update."""
        self._has_looked = True

    def remember_values(self):
        """Called after the pruner has assigned the kernels."""
        values = [reference_to_value(kernel.variable) for kernel in self.pruner.kernels]
        self._values = None if None in values else values

    def check_step(self):
        """Called after each step of the optimizer, before the pruner changes anything.

        Raises:
            ValueError: If an update was due and the loop never asked for it, or if
                nothing has assigned a kernel for several steps.
        """
        self._check_looked()
        if self._are_unchanged():
            self._num_unchanged += 1
        else:
            self._num_unchanged = 0
        if self._num_unchanged == _MOST_STEPS_UNCHANGED:
            raise ValueError(
                f"In {_MOST_STEPS_UNCHANGED} steps, nothing assigned a new value to "
                f"the variables of the pruned kernels. {_COPIES}"
            )

    def _check_looked(self):
        scheduler = self.pruner.scheduler
        if self._has_looked or scheduler is None:
            return
        due = scheduler.latest_update(0 if is_tracing() else self.pruner.global_step)
        if due is None or due <= self.pruner.updated_at:
            return
        message = (
            f"A mask update was due at step {due}, before this step, but the loop has "
            "not called `on_step_begin`. Call it before each step, outside of a "
            "`tf.function`."
        )
        if self._first_step is not None:
            raise ValueError(message)
        # Without `on_train_begin`, the steps may only show gradients to a criterion.
        self._has_looked = True
        logging.warning(message)

    def _are_unchanged(self):
        """Whether nothing has assigned a kernel since `remember_values`."""
        if self._values is None or self.pruner.freezes_weights:
            return False
        kernels = self.pruner.kernels
        return all(
            value() is kernel.variable.value
            and not self.pruner.rules[kernel.path].keeps_dense
            for value, kernel in zip(self._values, kernels, strict=True)
        )

    def end(self):
        """Called when a loop ends; finds out what it did wrong."""
        if self._first_step is not None:
            self.advice = self._missing_hook() or self._untrained()
        self._first_step = None

    def _missing_hook(self):
        if self.pruner.global_step == self._first_step:
            return (
                "No step was counted: call `on_after_optimizer_step` after each step "
                "of the optimizer."
            )
        if not self._has_looked:
            return "`on_step_begin` was never called: call it before each step."
        return None

    def _untrained(self):
        steps = self.pruner.global_step - self._first_step
        if steps < 2 or self.pruner.freezes_weights:
            return None
        masks = [
            _first(self.pruner.mask_value(kernel)) for kernel in self.pruner.kernels
        ]
        for mask, old, new in zip(
            masks, self._sample, self._sample_weights(), strict=True
        ):
            if (old != new)[mask].any():
                return None
        if not any(mask.any() for mask in masks):
            return None
        return f"In {steps} steps, no weight of the pruned kernels changed. {_COPIES}"

    def _sample_weights(self):
        return [_first(kernel.variable) for kernel in self.pruner.kernels]


def _first(tensor):
    """Returns the first values of a tensor as a NumPy array."""
    flat = ops.reshape(ops.convert_to_tensor(tensor), (-1,))
    return ops.convert_to_numpy(flat[:_SAMPLE])

"""Counts the steps of a pruner, on the host or inside of compiled steps."""

import keras
from keras import ops

from keras_pruner.backend import is_tracing, on_devices_of


class StepCount:
    """Counts the optimizer updates that a pruner has seen.

    An eager loop counts on the host. Inside a `tf.function` Python runs only when it
    is traced, so there a variable counts. In `fit` the optimizer's own count is bound.

    Args:
        variable: `keras.Variable` beside which the count is kept.

    Example:

    >>> count = StepCount(keras.Variable(1.0))
    >>> count.advance()
    >>> count.value
    1
    """

    def __init__(self, variable):
        with on_devices_of(variable), keras.name_scope("pruning_optimizer"):
            self._traced = keras.Variable(
                0,
                dtype="int",
                trainable=False,
                aggregation="only_first_replica",
                name="traced_steps",
            )
        self._on_host = 0
        self._is_traced = False
        self._bound = None

    @property
    def value(self):
        """The count. Reading it waits for the device, except in eager loops."""
        if self._bound is not None:
            return _as_int(self._bound)
        return self._on_host + (_as_int(self._traced) if self._is_traced else 0)

    @property
    def is_bound(self):
        """Whether the variable of a compiled step counts."""
        return self._bound is not None

    def advance(self):
        """Counts one step, also inside of a `tf.function`."""
        if is_tracing():
            self._is_traced = True
            self._traced.assign_add(1)
        else:
            self._on_host += 1

    def set(self, value):
        """Sets the count."""
        if self._bound is not None:
            self._bound.assign(value)
        elif self._is_traced:
            self._traced.assign(value - self._on_host)
        else:
            self._on_host = value

    def bind(self, variable):
        """Lets an int variable of a compiled step count; `None` keeps the count."""
        if variable is None:
            value, self._bound = self.value, None
            self.set(value)
        self._bound = variable


def _as_int(variable):
    return int(ops.convert_to_numpy(variable))

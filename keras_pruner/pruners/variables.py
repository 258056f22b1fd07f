"""The variables that a pruner holds for a kernel: its mask and its states."""

import keras
from keras import ops

from keras_pruner.devices import beside, layout_for


def make_mask(kernel):
    """Returns a mask that keeps all, or the one that a wrapper layer holds already."""
    if kernel.wrapper_mask is None:
        value = ops.ones(kernel.variable.shape, dtype="bool")
    else:
        value = ops.copy(kernel.wrapper_mask)
    return _variable(kernel, "mask", value, "bool")


def make_state(kernel, name, spec):
    """Returns the variable of a `StateSpec`."""
    if spec.initial == "weight":
        value = ops.copy(kernel.variable)
    else:
        make = ops.ones if spec.initial == "ones" else ops.zeros
        value = make(spec.shape, dtype=spec.dtype)
    return _variable(kernel, name, value, spec.dtype)


def _variable(kernel, name, value, dtype):
    # As a loaded optimizer names them, for Orbax finds variables by their paths.
    with beside(kernel.variable), keras.name_scope("pruning_optimizer"):
        return keras.Variable(
            value,
            dtype=dtype,
            trainable=False,
            layout=layout_for(value.shape, kernel.variable),
            name=f"{kernel.variable.path.replace('/', '_')}_{name}",
        )

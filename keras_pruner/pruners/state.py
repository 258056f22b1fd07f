"""The variables that a pruner holds for a kernel: its mask and its states."""

import keras
from keras import ops

from keras_pruner.backend import beside, is_divided, layout_for
from keras_pruner.masks import PackedMask, pack, read_mask


def make_mask(kernel, num_bits=8):
    """Returns a mask that keeps all, or as the one that a wrapper layer holds already.

    Args:
        kernel: `Kernel`.
        num_bits: Bits that the mask takes for each weight: 8 or 1.

    Returns:
        Bool `keras.Variable`, or `PackedMask`.

    Raises:
        ValueError: If a mask of one bit a weight cannot live where its kernel lives.
    """
    shape = tuple(kernel.variable.shape)
    if kernel.wrapper_mask is None:
        value = ops.ones(shape, dtype="bool")
    else:
        value = ops.copy(read_mask(kernel.wrapper_mask))
    if num_bits == 8:
        return _variable(kernel, "mask", value, "bool")
    if is_divided(kernel.variable):
        raise ValueError(
            f"'{kernel.path}' is divided over devices, and its mask is with it: a mask "
            "of one bit a weight has no axes to divide. Use `mask_bits=8`, at least "
            "for the divided kernels, by `local_configs`. Received: mask_bits=1"
        )
    return PackedMask(_variable(kernel, "mask", pack(value), "uint8"), shape)


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

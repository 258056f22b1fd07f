"""Creates the variables that a pruner holds for a kernel: its mask and its states."""

import keras
from keras import ops

from keras_pruner.backend import is_divided, layout_for, on_devices_of
from keras_pruner.masks import PackedMask, pack, read_mask


def make_mask(kernel, num_bits=8):
    """Creates a mask that keeps all weights, or copies the mask of a wrapper layer.

    Args:
        kernel: `Kernel`.
        num_bits: Bits of the mask for each weight: 8 or 1.

    Returns:
        Bool `keras.Variable`, or `PackedMask`.

    Raises:
        ValueError: If the kernel is sharded and the mask has 1 bit a weight.
    """
    variable, shape = kernel.variable, tuple(kernel.variable.shape)
    if kernel.wrapper_mask is None:
        value = ops.ones(shape, dtype="bool")
    else:
        value = ops.copy(read_mask(kernel.wrapper_mask))
    if num_bits == 8:
        return _variable(variable, "mask", value, "bool")
    if is_divided(variable):
        raise ValueError(
            f"'{kernel.path}' is divided over devices, and so is its mask. A mask of "
            "one bit a weight has no axes to divide. Use `mask_bits=8`, at least for "
            "the divided kernels, by `local_configs`. Received: mask_bits=1"
        )
    return PackedMask(_variable(variable, "mask", pack(value), "uint8"), shape)


def make_state(variable, name, spec):
    """Creates a `keras.Variable` by a `StateSpec`, on the devices of a variable."""
    if spec.initial == "weight":
        value = ops.copy(variable)
    else:
        make = ops.ones if spec.initial == "ones" else ops.zeros
        value = make(spec.shape, dtype=spec.dtype)
    return _variable(variable, name, value, spec.dtype)


def _variable(variable, name, value, dtype):
    # A loaded optimizer has the same names, and Orbax finds variables by their paths.
    with on_devices_of(variable), keras.name_scope("pruning_optimizer"):
        return keras.Variable(
            value,
            dtype=dtype,
            trainable=False,
            layout=layout_for(value.shape, variable),
            name=f"{variable.path.replace('/', '_')}_{name}",
        )

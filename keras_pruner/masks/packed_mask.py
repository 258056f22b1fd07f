"""Keeps masks at one bit per weight, and reads masks of either kind.

A mask of n weights takes B = ceil(n / 8) bytes. Bit j of byte b is the flat entry
`j * B + b`, and bits beyond n are unused. The entries of one bit are contiguous, so
packing and unpacking use long rows, which compilers fuse into one loop.
"""

import math

import keras
from keras import ops

from keras_pruner.backend import call_directly


class PackedMask:
    """Keeps a bool tensor in a variable with one bit per entry.

    It replaces a bool `keras.Variable`: it has `shape`, `dtype` and `assign`, and Keras
    converts it to tensors and arrays. `read_mask` reads either kind as a tensor, on its
    own device on every backend.

    Args:
        variable: uint8 `keras.Variable` of `packed_size(shape)` bytes.
        shape: Shape of the bool tensor.
    """

    dtype = "bool"

    def __init__(self, variable, shape):
        self.variable = variable
        self.shape = tuple(shape)

    def assign(self, value, call=call_directly):
        """Packs and keeps a new value.

        Args:
            value: Bool tensor or array of `shape`.
            call: See `read_mask`.

        Raises:
            ValueError: If the value has another shape.
        """
        value = ops.convert_to_tensor(value, dtype="bool")
        if tuple(value.shape) != self.shape:
            raise ValueError(
                f"The mask has shape {self.shape}. Received: {tuple(value.shape)}"
            )
        self.variable.assign(call(pack, value))

    def __array__(self, dtype=None, copy=None):
        return ops.convert_to_numpy(read_mask(self)).astype(dtype or bool)

    # Backends call these two methods to convert an object to a tensor.

    def __tf_tensor__(self, dtype=None, name=None):
        return ops.cast(read_mask(self), dtype or "bool")

    def __jax_array__(self):
        return read_mask(self)

    def __repr__(self):
        return f"<PackedMask of {self.shape} in {self.variable.path}>"


def packed_size(shape):
    """Returns the number of bytes of a mask at one bit per entry."""
    return -(-math.prod(shape) // 8)


def pack(mask):
    """Packs a bool tensor of any shape into a uint8 vector.

    Example:

    >>> mask = ops.array([[True, False, True, True], [False, False, False, True]])
    >>> packed = pack(mask)  # 1 + 4 + 8 + 128
    >>> ops.convert_to_numpy(packed).tolist()
    [141]
    >>> ops.convert_to_numpy(unpack(packed, shape=(2, 4))).astype(int).tolist()
    [[1, 0, 1, 1], [0, 0, 0, 1]]
    """
    shape = tuple(mask.shape)
    num_bytes, flat = packed_size(shape), ops.reshape(mask, (-1,))
    missing = 8 * num_bytes - math.prod(shape)
    if missing:
        flat = ops.concatenate([flat, ops.zeros((missing,), "bool")])
    planes = ops.reshape(flat, (8, num_bytes))
    packed = ops.cast(planes[0], "uint8")
    for bit in range(1, 8):
        plane = ops.cast(planes[bit], "uint8")
        packed = ops.bitwise_or(packed, ops.left_shift(plane, bit))
    return packed


def unpack(packed, *, shape):
    """Returns the bool tensor of a shape that `pack` has packed."""
    places = ops.cast(ops.arange(8, dtype="int32"), "uint8")
    bits = ops.left_shift(ops.ones((8, 1), "uint8"), ops.expand_dims(places, 1))
    planes = ops.bitwise_and(ops.expand_dims(packed, 0), bits)
    flat = ops.reshape(planes != 0, (-1,))
    size = math.prod(shape)
    return ops.reshape(flat if flat.shape[0] == size else flat[:size], shape)


def read_mask(mask, call=call_directly):
    """Returns a mask as a bool tensor.

    Args:
        mask: Bool `keras.Variable` or tensor, or `PackedMask`.
        call: Function that calls a function of tensors. A `FunctionCache` compiles it;
            code that is compiled already does not need one.
    """
    if not is_packed(mask):
        return ops.convert_to_tensor(mask)
    return call(unpack, ops.convert_to_tensor(mask.variable), shape=mask.shape)


def assign_mask(mask, value, call=call_directly):
    """Assigns a bool tensor to a mask, of either kind; see `read_mask`."""
    if is_packed(mask):
        mask.assign(value, call)
    else:
        mask.assign(value)


def mask_variable_spec(shape, num_bits):
    """Returns the arguments for the variable of a mask that keeps all weights.

    Args:
        shape: The mask's shape.
        num_bits: Bits per entry: 8 or 1.

    Returns:
        Dict of the arguments `shape`, `dtype` and `initializer`.
    """
    if num_bits == 8:
        return {"shape": tuple(shape), "dtype": "bool", "initializer": "ones"}
    ones = keras.initializers.Constant(255)
    return {"shape": (packed_size(shape),), "dtype": "uint8", "initializer": ones}


def as_stored(mask, num_bits):
    """Converts a bool tensor to the value of a variable that `stored` describes."""
    return mask if num_bits == 8 else pack(mask)


def is_packed(mask):
    return isinstance(mask, PackedMask)


def variable_of(mask):
    """Returns the `keras.Variable` that holds a mask."""
    return mask.variable if is_packed(mask) else mask


def as_mask(variable, shape):
    """Returns the mask in a variable: the variable itself, or a `PackedMask`."""
    is_bool = keras.backend.standardize_dtype(variable.dtype) == "bool"
    return variable if is_bool else PackedMask(variable, shape)

"""Masks that are kept at one bit a weight, and how any mask is read.

A mask of n weights is packed into B = ceil(n / 8) bytes: bit j of byte b is the flat
entry `j * B + b`, and what is beyond n means nothing. So the entries of one bit lie
together, and packing and unpacking go over long rows, which compilers make one loop of.
"""

import math

import keras
from keras import ops

from keras_pruner.backend import call_directly


class PackedMask:
    """A bool tensor that is kept in a variable of one bit an entry.

    It stands where else a bool `keras.Variable` stands: it has `shape`, `dtype` and
    `assign`, and Keras converts it to tensors and arrays. `read_mask` makes a tensor of
    either, on the device where it is on every backend.

    Args:
        variable: uint8 `keras.Variable` of `packed_size(shape)` bytes.
        shape: Shape of the bool tensor.
    """

    dtype = "bool"

    def __init__(self, variable, shape):
        self.variable = variable
        self.shape = tuple(shape)

    def assign(self, value, run=call_directly):
        """Packs and keeps a new value.

        Args:
            value: Bool tensor or array of `shape`.
            run: See `read_mask`.

        Raises:
            ValueError: If it has another shape.
        """
        value = ops.convert_to_tensor(value, dtype="bool")
        if tuple(value.shape) != self.shape:
            raise ValueError(
                f"The mask has shape {self.shape}. Received: {tuple(value.shape)}"
            )
        self.variable.assign(run(pack, value))

    def __array__(self, dtype=None, copy=None):
        return ops.convert_to_numpy(read_mask(self)).astype(dtype or bool)

    # By these two names backends ask an object for a tensor.

    def __tf_tensor__(self, dtype=None, name=None):
        return ops.cast(read_mask(self), dtype or "bool")

    def __jax_array__(self):
        return read_mask(self)

    def __repr__(self):
        return f"<PackedMask of {self.shape} in {self.variable.path}>"


def packed_size(shape):
    """Returns how many bytes a mask of a shape takes at one bit an entry."""
    return -(-math.prod(shape) // 8)


def pack(mask):
    """Packs a bool tensor, of any shape, into a uint8 tensor of one axis."""
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
    """Returns the bool tensor of a shape that `pack` made a tensor of."""
    places = ops.cast(ops.arange(8, dtype="int32"), "uint8")
    bits = ops.left_shift(ops.ones((8, 1), "uint8"), ops.expand_dims(places, 1))
    planes = ops.bitwise_and(ops.expand_dims(packed, 0), bits)
    flat = ops.reshape(planes != 0, (-1,))
    size = math.prod(shape)
    return ops.reshape(flat if flat.shape[0] == size else flat[:size], shape)


def read_mask(mask, run=call_directly):
    """Returns a mask as a bool tensor.

    Args:
        mask: Bool `keras.Variable` or tensor, or `PackedMask`.
        run: Function that calls a function of tensors: a `FunctionCache`, to compile
            it. Inside of what is compiled anyway there is no need.
    """
    if not is_packed(mask):
        return ops.convert_to_tensor(mask)
    return run(unpack, ops.convert_to_tensor(mask.variable), shape=mask.shape)


def assign_mask(mask, value, run=call_directly):
    """Assigns a bool tensor to a mask, of either kind; see `read_mask`."""
    if is_packed(mask):
        mask.assign(value, run)
    else:
        mask.assign(value)


def stored(shape, num_bits):
    """Returns what a variable for a mask that keeps all is made with.

    Args:
        shape: The mask's shape.
        num_bits: Bits that it takes for each entry: 8 or 1.

    Returns:
        Dict of the arguments `shape`, `dtype` and `initializer`.
    """
    if num_bits == 8:
        return {"shape": tuple(shape), "dtype": "bool", "initializer": "ones"}
    ones = keras.initializers.Constant(255)
    return {"shape": (packed_size(shape),), "dtype": "uint8", "initializer": ones}


def as_stored(mask, num_bits):
    """Returns the value that a variable made by `stored` has for a bool tensor."""
    return mask if num_bits == 8 else pack(mask)


def is_packed(mask):
    return isinstance(mask, PackedMask)


def variable_of(mask):
    """Returns the `keras.Variable` that holds a mask."""
    return mask.variable if is_packed(mask) else mask


def as_mask(variable, shape):
    """Returns the mask of a shape that a variable holds: itself, or a `PackedMask`."""
    is_bool = keras.backend.standardize_dtype(variable.dtype) == "bool"
    return variable if is_bool else PackedMask(variable, shape)

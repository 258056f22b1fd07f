"""Integers that order as floats do, so that a search can halve what lies between."""

import keras
from keras import ops

# Keys of the largest finite numbers.
_LARGEST_KEYS = {"float32": 0x7F7FFFFF, "bfloat16": 0x7F7F}


def ordered_keys(scores):
    """Maps float scores to integer keys of the same order and width.

    A float's bits are its sign and its magnitude, which orders as an integer does: the
    key is that magnitude with the sign. `-0.0` and `0.0` get one key.

    Args:
        scores: Tensor of finite values: bfloat16, or else read as float32.

    Returns:
        Int16 tensor for bfloat16, else int32, of the same shape.
    """
    if dtype_of(scores) == "bfloat16":
        integer, largest, width = "int16", 2**15 - 1, 16
    else:
        scores = ops.cast(scores, "float32")
        integer, largest, width = "int32", 2**31 - 1, 32
    # All on integers, since a backend may take the smallest floats for zero.
    bits = _view(scores, integer)
    sign = ops.right_shift(bits, ops.cast(width - 1, integer))
    magnitude = ops.bitwise_and(bits, ops.cast(largest, integer))
    # In two's complement, `(x ^ -1) - -1` is `-x`.
    return ops.bitwise_xor(magnitude, sign) - sign


def values_of(keys, dtype):
    """Returns the numbers, as float32, that keys stand for; see `ordered_keys`.

    Args:
        keys: Int32 tensor. Beyond the largest finite number, that is returned.
        dtype: Dtype of the scores that the keys were made of.
    """
    largest = _LARGEST_KEYS.get(dtype, _LARGEST_KEYS["float32"])
    keys = ops.clip(keys, -largest, largest)
    magnitude = ops.abs(keys)
    if dtype == "bfloat16":
        magnitude = ops.left_shift(magnitude, 16)
    value = _view(magnitude, "float32")
    return ops.where(keys < 0, -value, value)


def keys_of(values, dtype):
    """Returns the keys that numbers have once they are rounded to a dtype.

    Args:
        values: Float32 tensor of finite values.
        dtype: Dtype of the scores that the keys are compared with.

    Returns:
        Int32 tensor; see `ordered_keys`.
    """
    keys = ordered_keys(values)
    if dtype != "bfloat16":
        return keys
    # Rounded by integers, half to even: on CPUs with AVX512-FP16 XLA cannot compile a
    # cast to bfloat16 in a loop, and ends the process.
    magnitude = ops.abs(keys)
    is_odd = ops.bitwise_and(ops.right_shift(magnitude, 16), 1)
    rounded = ops.right_shift(magnitude + 0x7FFF + is_odd, 16)
    return ops.where(keys < 0, -rounded, rounded)


def _view(x, dtype):
    if len(x.shape) == 0:
        # Keras 3.12 cannot view a scalar.
        return ops.view(ops.reshape(x, (1,)), dtype)[0]
    return ops.view(x, dtype)


def dtype_of(scores):
    """Returns the name of a tensor's dtype."""
    return keras.backend.standardize_dtype(scores.dtype)

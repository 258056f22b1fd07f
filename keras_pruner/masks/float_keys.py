"""Maps floats to integers of the same order, so that a search can halve intervals."""

import keras
from keras import ops

# The largest finite numbers have these keys.
_LARGEST_KEYS = {"float32": 0x7F7FFFFF, "bfloat16": 0x7F7F}


def ordered_keys(scores):
    """Maps float scores to integer keys of the same order and width.

    The bits of a float are a sign and a magnitude. Magnitudes order like integers, so
    the key is the magnitude with the sign. `-0.0` and `0.0` have the same key.

    Args:
        scores: Tensor of finite values. Any dtype except bfloat16 is cast to float32.

    Returns:
        Int16 tensor for bfloat16, else int32, of the same shape.

    Example:

    >>> scores = ops.array([[-2.0, -1.0, -0.0, 0.0], [0.5, 1.0, 1.5, 2.0]])
    >>> ops.convert_to_numpy(ordered_keys(scores)).tolist()
    [[-1073741824, -1065353216, 0, 0],
     [1056964608, 1065353216, 1069547520, 1073741824]]
    """
    if dtype_of(scores) == "bfloat16":
        integer, largest, width = "int16", 2**15 - 1, 16
    else:
        scores = ops.cast(scores, "float32")
        integer, largest, width = "int32", 2**31 - 1, 32
    # Only integer operations, because a backend may flush the smallest floats to zero.
    bits = _view(scores, integer)
    sign = ops.right_shift(bits, ops.cast(width - 1, integer))
    magnitude = ops.bitwise_and(bits, ops.cast(largest, integer))
    # In two's complement, `(x ^ -1) - -1` is `-x`.
    return ops.bitwise_xor(magnitude, sign) - sign


def values_of(keys, dtype):
    """Returns the float32 numbers that keys represent; see `ordered_keys`.

    Args:
        keys: Int32 tensor, clipped to the keys of finite numbers.
        dtype: Dtype of the scores that have these keys.
    """
    largest = _LARGEST_KEYS.get(dtype, _LARGEST_KEYS["float32"])
    keys = ops.clip(keys, -largest, largest)
    magnitude = ops.abs(keys)
    if dtype == "bfloat16":
        magnitude = ops.left_shift(magnitude, 16)
    value = _view(magnitude, "float32")
    return ops.where(keys < 0, -value, value)


def keys_of(values, dtype):
    """Rounds numbers to a dtype and returns their keys.

    Args:
        values: Float32 tensor of finite values.
        dtype: Dtype of the scores that you compare the keys with.

    Returns:
        Int32 tensor; see `ordered_keys`.
    """
    keys = ordered_keys(values)
    if dtype != "bfloat16":
        return keys
    # Rounds half to even with integers. On CPUs with AVX512-FP16 XLA cannot compile a
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

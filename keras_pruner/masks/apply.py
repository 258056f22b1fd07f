"""Applies masks to tensors."""

from keras import ops


def apply_mask(value, mask):
    """Sets the entries of a tensor to zero where the mask is `False`.

    Example:

    >>> value = np.array([[1.0, -2.0, 3.0, -4.0], [5.0, -6.0, 7.0, -8.0]])
    >>> mask = np.array([[True, True, False, False], [False, True, True, False]])
    >>> ops.convert_to_numpy(apply_mask(value, mask)).tolist()
    [[1.0, -2.0, 0.0, 0.0], [0.0, -6.0, 7.0, 0.0]]
    """
    value = ops.convert_to_tensor(value)
    zero = ops.zeros((), value.dtype)
    return ops.where(ops.convert_to_tensor(mask), value, zero)


def apply_mask_if_dense(value, mask):
    """Masks a value as `keep` does, unless the value or the mask is `None`.

    TensorFlow's sparse gradients stay unchanged too; their weights are masked later.
    """
    if value is None or mask is None or hasattr(value, "dense_shape"):
        return value
    return apply_mask(value, mask)


def finite_or(value, old):
    """Returns the new value of a state where it is finite, else the old value.

    A single NaN or infinite gradient therefore does not spoil the state.
    """
    old = ops.convert_to_tensor(old)
    return ops.where(ops.isfinite(value), value, old)

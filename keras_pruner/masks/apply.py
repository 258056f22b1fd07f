"""Applies masks to tensors."""

from keras import ops


def keep(value, mask):
    """Sets the entries of a tensor to zero where the mask is `False`."""
    value = ops.convert_to_tensor(value)
    zero = ops.zeros((), value.dtype)
    return ops.where(ops.convert_to_tensor(mask), value, zero)


def keep_if_dense(value, mask):
    """As `keep`; but what has no mask, `None`, and TensorFlow's sparse gradients stay.

    What a sparse gradient changes is masked after the step.
    """
    if value is None or mask is None or hasattr(value, "dense_shape"):
        return value
    return keep(value, mask)


def finite_or(value, old):
    """Returns a new value of a state, and the old one where that is not finite.

    So one gradient that is NaN or infinite is not remembered for ever.
    """
    old = ops.convert_to_tensor(old)
    return ops.where(ops.isfinite(value), value, old)

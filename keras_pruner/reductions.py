"""Sums in a fixed order, so that scores are equal on every backend.

A compiler may add the members of a group in any order, and each order rounds
differently. Scores that differ in the last bit can prune different groups, so groups
are summed by halving: elementwise additions only, which every backend rounds alike.
"""

from keras import ops

REDUCTIONS = ("mean", "sum", "max", "l2")


def ordered_sum(x, axis):
    """Sums over one axis by adding halves: `x[:n/2] + x[n/2:]`, again and again.

    Args:
        x: Float tensor with a static size along `axis`.
        axis: Integer.

    Returns:
        Tensor of the dtype of `x`, without `axis`.
    """
    x = ops.moveaxis(x, axis, 0)
    size = x.shape[0]
    while size > 1:
        half = size // 2
        folded = x[:half] + x[half : 2 * half]
        # (half, ...) plus the odd one out, which waits for the next round.
        x = ops.concatenate([folded, x[2 * half :]]) if size % 2 else folded
        size -= half
    return x[0]


def sum_of_all(x):
    """Sums all elements: pairs of neighbouring rows, again and again, then a row.

    Where rows or columns are divided over devices, neighbours live together until
    little is left. So hardly anything is moved, and the order is still the same.

    Args:
        x: Float tensor of a static shape, with at least one axis.

    Returns:
        Tensor () of the dtype of `x`.
    """
    x = ops.reshape(x, (-1, x.shape[-1]))
    size = x.shape[0]
    while size > 1:
        pairs = ops.reshape(x[: size - size % 2], (size // 2, 2, -1))
        folded = pairs[:, 0] + pairs[:, 1]
        # The odd one out waits for the next round.
        x = ops.concatenate([folded, x[-1:]]) if size % 2 else folded
        size = x.shape[0]
    return ordered_sum(x[0], 0)


def rounded_square(x):
    """Squares float32 values so that a sum of squares is equal on every backend.

    A compiler may fuse a product and a sum into one operation, which rounds once, not
    twice. Clearing the last bit of the square keeps the two apart.
    """
    bits = ops.view(ops.square(x), "int32")
    return ops.view(ops.bitwise_and(bits, -2), "float32")


def reduce_groups(x, axes, reduction):
    """Turns the scores of a group's members into the group's score.

    Args:
        x: Float32 tensor.
        axes: Tuple of axes that run over the members of one group.
        reduction: `"mean"`, `"sum"`, `"max"` or `"l2"` (root of the sum of squares).

    Returns:
        Float32 tensor without `axes`.
    """
    axes = sorted((axis % len(x.shape) for axis in axes), reverse=True)
    size = 1
    for axis in axes:
        size *= x.shape[axis]
    if reduction == "max":
        return ops.max(x, axis=tuple(axes))
    if reduction == "l2":
        x = rounded_square(x)
    for axis in axes:
        x = ordered_sum(x, axis)
    if reduction == "l2":
        return ops.sqrt(x)
    # A product, not a quotient: XLA rewrites division by a constant.
    return x * (1.0 / size) if reduction == "mean" else x


def running_sum(x):
    """Sums from the first element to each, in a fixed order.

    The elements are added in log2(n) rounds of shifted vectors, so that each sum is
    rounded alike on every backend; a compiler's own cumulative sum is not.

    Args:
        x: Float tensor of shape (n,).

    Returns:
        Tensor of the same shape and dtype.
    """
    size, reach = x.shape[0], 1
    while reach < size:
        shifted = ops.concatenate([ops.zeros((reach,), x.dtype), x[:-reach]])
        x = x + shifted
        reach *= 2
    return x

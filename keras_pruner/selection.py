"""The exact k lowest scores of one tensor, or of many tensors ranked together.

Nothing is sorted. A float32 is mapped to an int32 of the same order, and the k-th
smallest key is found by bisection on its bits: at most 32 counting passes, whatever
the number of scores, and exact with ties. Ties are then cut by index.
"""

import keras
from keras import ops


def count_dtype():
    """Integer dtype for counts over several tensors; JAX has no int64 by default."""
    return "int32" if keras.backend.backend() == "jax" else "int64"


def ordered_keys(scores):
    """Maps float scores to integer keys of the same order and width.

    The bits of a non-negative float, read as an integer, are already in order; those
    of a negative one run backwards. `-0.0` and `0.0` get one key.

    Args:
        scores: Tensor of finite values: bfloat16, or else read as float32.

    Returns:
        Int16 tensor for bfloat16, else int32, of the same shape.
    """
    if keras.backend.standardize_dtype(scores.dtype) == "bfloat16":
        integer, largest = "int16", 2**15 - 1
    else:
        scores = ops.cast(scores, "float32")
        integer, largest = "int32", 2**31 - 1
    bits = ops.view(scores, integer)
    # All on integers, since a backend may take the smallest floats for zero.
    backwards = ops.bitwise_xor(bits, ops.cast(largest, integer))
    negative_zero = ops.cast(-largest - 1, integer)
    backwards = ops.where(bits == negative_zero, ops.zeros_like(bits), backwards)
    return ops.where(bits < 0, backwards, bits)


def _middle(low, high):
    """Floor of the mean of two int32, without overflow."""
    return ops.bitwise_and(low, high) + ops.right_shift(ops.bitwise_xor(low, high), 1)


def _bisect(reached, low, high):
    """Smallest int32 key in [low, high] for which the monotone `reached(key)` holds."""

    def step(low, high):
        middle = _middle(low, high)
        enough = reached(middle)
        return (
            ops.where(enough, low, middle + 1),
            ops.where(enough, middle, high),
        )

    low, _ = ops.while_loop(lambda low, high: low < high, step, (low, high))
    return low


def _count(condition, dtype="int32"):
    return ops.cast(ops.sum(ops.cast(condition, "int32")), dtype)


def _extent(keys):
    """Lowest and highest key, as int32."""
    return ops.cast(ops.min(keys), "int32"), ops.cast(ops.max(keys), "int32")


def select_lowest(scores, k):
    """Marks exactly the k lowest scores; equal scores are taken by index.

    Args:
        scores: Float tensor of any shape, finite, at most 2^31 - 1 elements.
        k: Integer or int tensor, clipped to [0, number of scores].

    Returns:
        Bool tensor of the same shape with exactly k `True`.
    """
    shape = scores.shape
    keys = ops.reshape(ordered_keys(scores), (-1,))
    k = ops.clip(ops.cast(k, "int32"), 0, keys.shape[0])
    threshold = _bisect(
        lambda key: _count(keys <= ops.cast(key, keys.dtype)) >= k, *_extent(keys)
    )
    threshold = ops.cast(threshold, keys.dtype)
    below = keys < threshold
    tied = keys == threshold
    num_tied = k - _count(below)

    # Ranks, not a threshold: tied scores must still select exactly k.
    def cut():
        rank = ops.cumsum(ops.cast(tied, "int32"))
        return ops.logical_or(below, ops.logical_and(tied, rank <= num_tied))

    selected = ops.cond(
        _count(tied) == num_tied, lambda: ops.logical_or(below, tied), cut
    )
    return ops.reshape(selected, shape)


def count_lowest_jointly(scores, group_sizes, target, lower, upper):
    """Divides a joint ranking: how many of each tensor's scores are among the lowest.

    All scores are ranked together and taken from the lowest on until their groups hold
    `target` weights. No tensor gives fewer than its `lower` or more than its `upper`
    groups: what a capped tensor does not give, the others give. Ties are taken tensor
    by tensor. Where groups have different sizes and `target` falls inside a group, that
    group is taken if this comes nearer to the target.

    Args:
        scores: List of float tensors, finite.
        group_sizes: List of Python integers: weights in one group of each tensor.
        target: Integer or int tensor: weights to take in all.
        lower: Int tensor of shape (number of tensors,).
        upper: Int tensor of shape (number of tensors,).

    Returns:
        Int tensor of shape (number of tensors,): groups to take from each, for
        `select_lowest`.
    """
    dtype = count_dtype()
    target = ops.cast(target, dtype)
    sizes = ops.convert_to_tensor(group_sizes, dtype=dtype)
    lower, upper = ops.cast(lower, dtype), ops.cast(upper, dtype)
    all_keys = [ordered_keys(score) for score in scores]

    def counts(key, strict=False):
        found = []
        for keys in all_keys:
            bound = ops.cast(key, keys.dtype)
            found.append(_count(keys < bound if strict else keys <= bound, dtype))
        return ops.clip(ops.stack(found), lower, upper)

    lows, highs = zip(*(_extent(keys) for keys in all_keys), strict=True)
    threshold = _bisect(
        lambda key: ops.sum(counts(key) * sizes) >= target,
        ops.min(ops.stack(lows)),
        ops.max(ops.stack(highs)),
    )
    below, available = counts(threshold, strict=True), counts(threshold)
    missing = target - ops.sum(below * sizes)
    taken = []
    for index, size in enumerate(group_sizes):
        room = available[index] - below[index]
        # Nearest number of groups; a tie goes to the smaller one.
        wanted = ops.maximum(missing + (size - 1) // 2, 0) // size
        extra = ops.minimum(room, wanted)
        missing = missing - extra * size
        taken.append(below[index] + extra)
    return ops.stack(taken)

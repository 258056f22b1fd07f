"""Marks an exact number of the lowest scores of one tensor, without sorting it.

`find_bracket` finds the key up to which scores are taken. Ties are then cut by index.
"""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_pruner.backend import as_rows, call_in_trace, sum_blocks
from keras_pruner.masks.float_keys import ordered_keys
from keras_pruner.masks.kth_lowest import count_dtype, demand_of, find_bracket


class Cut(NamedTuple):
    """Determines which scores of one tensor are taken, by keys and for ties by index.

    Args:
        low: Int32 tensor (): all scores with a key up to this are taken.
        high: Int32 tensor (): scores with a key above `low` and up to this are tied.
        last: Int32 tensor (): index of the last tied score that is taken, or -1.
    """

    low: Any
    high: Any
    last: Any


def select_lowest(scores, k):
    """Marks exactly the k lowest scores; equal scores are taken by index.

    Args:
        scores: Float tensor of any shape, finite, at most 2^31 - 1 elements.
        k: Integer or int tensor, clipped to [0, number of scores].

    Returns:
        Bool tensor of the same shape with exactly k `True`.

    Example:

    >>> scores = ops.array([[3.0, 1.0, 2.0, 1.0], [2.0, 0.0, 2.0, 9.0]])
    >>> lowest = select_lowest(scores, 4)  # 0, 1, 1, and the first 2
    >>> ops.convert_to_numpy(lowest).astype(int).tolist()
    [[0, 1, 1, 1], [0, 1, 0, 0]]
    """
    size = math.prod(scores.shape)
    k = ops.clip(ops.cast(k, count_dtype()), 0, size)
    demand = demand_of(k, [1], [0], [size])
    bracket = find_bracket([scores], demand, call=call_in_trace)
    return select_up_to(scores, cut_ties(scores, bracket, k))


class PerOutput(NamedTuple):
    """A target that is divided evenly over the outputs of a kernel.

    Args:
        count: Int tensor (): groups to prune in the whole kernel.
    """

    count: Any


class Chosen(NamedTuple):
    """A target that says which groups to prune, because the host has chosen them.

    Args:
        groups: Bool tensor of the groups; `True` = prune.
    """

    groups: Any


def select_lowest_per_output(scores, k):
    """Marks the k lowest scores, ranked within each output and divided evenly.

    Every column gives `k // N` of its scores, and the first `k % N` columns one more.
    Equal scores are taken by index.

    Example:

    >>> scores = ops.convert_to_tensor([[1.0, 50.0], [2.0, 40.0], [3.0, 30.0]])
    >>> marks = select_lowest_per_output(scores, 3)
    >>> ops.convert_to_numpy(marks).astype(int).tolist()
    [[1, 0], [1, 0], [0, 1]]

    Args:
        scores: Float tensor (K, N), finite.
        k: Integer or int tensor, clipped to [0, K * N].

    Returns:
        Bool tensor (K, N) with exactly k `True`.
    """
    rows, columns = scores.shape
    keys = ops.cast(ordered_keys(scores), "int32")
    k = ops.clip(ops.cast(k, count_dtype()), 0, rows * columns)
    index = ops.arange(columns, dtype="int32")
    more = ops.cast(index < ops.cast(k % columns, "int32"), "int32")
    wanted = ops.cast(k // columns, "int32") + more

    def count(marks):
        return ops.sum(ops.cast(marks, "int32"), axis=0)

    def halve(low, high):
        # The mean of both, rounded down, without their sum.
        half = ops.right_shift(ops.bitwise_xor(low, high), 1)
        middle = ops.bitwise_and(low, high) + half
        is_enough = count(keys <= middle) >= wanted
        return ops.where(is_enough, low, middle), ops.where(is_enough, middle, high)

    # Of every column: fewer than wanted have a key up to `low`, enough up to `high`.
    low, high = ops.while_loop(
        # `high - 1` overflows where nothing is wanted, so that both are the lowest.
        lambda low, high: ops.any(high > low + 1),
        halve,
        (
            ops.full((columns,), -(2**31), dtype="int32"),
            ops.full((columns,), 2**31 - 1, dtype="int32"),
        ),
    )
    below, tied = keys < high, keys == high
    place = ops.cumsum(ops.cast(tied, "int32"), axis=0)
    is_taken = ops.logical_and(tied, place <= wanted - count(below))
    return ops.logical_or(below, is_taken)


def select_up_to(scores, cut):
    """Marks the scores that a `Cut` takes, as a bool tensor of the same shape.

    Example:

    >>> scores = ops.array([[3.0, 1.0, 2.0, 1.0], [2.0, 0.0, 2.0, 9.0]])
    >>> low, high = ordered_keys(ops.array([1.0, 2.0]))
    >>> marked = select_up_to(scores, Cut(low, high, last=4))  # 2s up to index 4
    >>> ops.convert_to_numpy(marked).astype(int).tolist()
    [[0, 1, 1, 1], [1, 1, 0, 0]]
    """
    cut = Cut(*map(ops.convert_to_tensor, cut))
    matrix = as_rows(scores)
    keys = ops.cast(ordered_keys(matrix), "int32")
    index = ops.arange(math.prod(matrix.shape), dtype="int32")
    is_tied = ops.logical_and(
        keys <= cut.high, ops.reshape(index, matrix.shape) <= cut.last
    )
    return ops.reshape(ops.logical_or(keys <= cut.low, is_tied), scores.shape)


def cut_ties(scores, bracket, k):
    """Returns the `Cut` that takes the k lowest scores.

    Args:
        scores: Float tensor.
        bracket: `Bracket` of the scores, found for `k`.
        k: Int tensor (), in [0, number of scores].
    """
    matrix = as_rows(scores)
    rows, columns = matrix.shape
    missing = ops.cast(k - bracket.below[0], "int32")

    def tied(scores):
        keys = ops.cast(ordered_keys(scores), "int32")
        return ops.cast((keys > bracket.low) & (keys <= bracket.high), "int32")

    def search():
        counts, height = sum_blocks(tied, matrix)
        block, before = _locate(ops.sum(counts, axis=1), missing)
        num_blocks = rows // height
        row = ops.where(
            block < num_blocks, block * height, block + (height - 1) * num_blocks
        )
        # At the end the last row is read again, after the one that is sought.
        taken = ops.clip(row + ops.arange(height, dtype="int32"), 0, rows - 1)
        inside = ops.reshape(tied(ops.take(matrix, taken, axis=0)), (-1,))
        place, _ = _locate(inside, missing - before)
        return row * columns + place

    is_known = ops.logical_or(bracket.reached[0] == k, missing == 0)
    known = ops.where(missing == 0, -1, ops.cast(rows * columns - 1, "int32"))
    # A loop that searches once or not at all: TensorFlow runs functions with branches
    # by an executor that is slower for tiny operations.
    unknown = -2
    (last,) = ops.while_loop(
        lambda last: last == unknown,
        lambda last: (search(),),
        (ops.where(is_known, known, unknown),),
    )
    return Cut(bracket.low, bracket.high, last)


def _locate(counts, wanted):
    """Finds the place in a vector where the running sum reaches a number.

    It halves the range, because a running sum compiles longer than the search runs.

    Args:
        counts: Int32 tensor (n,), not negative.
        wanted: Int32 tensor (), at least 1 and at most the sum.

    Returns:
        Tuple of int32 tensors: the first index up to which the counts sum to `wanted`
        or more, and the sum of the counts before it.
    """
    index = ops.arange(counts.shape[0], dtype="int32")

    def halve(first, last, before):
        # The sum of `first` and `last` may overflow.
        middle = first + ops.right_shift(last - first, 1)
        passed = ops.sum(ops.where(index <= middle, counts, 0))
        is_reached = passed >= wanted
        return (
            ops.where(is_reached, first, middle + 1),
            ops.where(is_reached, middle, last),
            ops.where(is_reached, before, passed),
        )

    zero = ops.zeros((), "int32")
    first, _, before = ops.while_loop(
        lambda first, last, before: first < last,
        halve,
        (zero, zero + (counts.shape[0] - 1), zero),
    )
    return first, before

"""The exact k lowest scores of one tensor, without sorting it.

A float32 is mapped to an int32 of the same order, its key. The k-th smallest key lies
in a bracket, `low < key <= high`, which passes over the scores narrow: each counts the
scores below several thresholds at once. A small sample places the first thresholds, and
with it a guess, if there is one; interpolation the later ones; where that gains little,
the bracket is divided evenly. So a few passes find the key, a bad guess only costs
passes, and the result is exact. Ties are then cut by index.

Only counts leave a pass. So the same search ranks many tensors together, and tensors
that are divided over devices; see `ranking.py`.
"""

import math
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_pruner.float_keys import dtype_of, keys_of, ordered_keys, values_of

NUM_THRESHOLDS = 4
# Ends of the widest bracket: beyond every key, and one short of the ends of int32.
_LOWEST_END, _HIGHEST_END = -(2**31) + 1, 2**31 - 2
# Largest float32 that is an int32.
_LARGEST_FLOAT = 2.0**31 - 128
# Largest number of scores that are sorted to place the first thresholds.
SAMPLE_SIZE = 8192


class Bracket(NamedTuple):
    """Where the sought key lies: in `low < key <= high`.

    Args:
        low: Int32 tensor ().
        high: Int32 tensor ().
        below: Int tensor (tensors,): how many keys of each are `<= low`.
        reached: Int tensor (tensors,): how many keys of each are `<= high`.
    """

    low: Any
    high: Any
    below: Any
    reached: Any


def count_dtype():
    """Integer dtype for counts over several tensors; JAX has no int64 by default."""
    return "int32" if keras.backend.backend() == "jax" else "int64"


def count_lowest(scores, thresholds):
    """Counts the scores whose key is at most each threshold, in one pass.

    Args:
        scores: Float tensor of any shape, finite, at most 2^31 - 1 elements.
        thresholds: Int32 tensor of shape (4,).

    Returns:
        Int32 tensor of shape (4,).
    """
    keys = ordered_keys(_as_rows(scores))
    rows, columns = keys.shape
    height = _block_height(rows)
    whole = rows // height * height
    blocks = ops.reshape(keys[:whole], (-1, height, columns))
    packed = ops.sum(_pack(blocks, thresholds), axis=1)
    if whole < rows:
        packed = ops.concatenate([packed, _pack(keys[whole:], thresholds)])
    # (blocks, columns, thresholds)
    shifts = ops.arange(0, 8 * NUM_THRESHOLDS, 8, dtype="int32")
    fields = ops.bitwise_and(ops.right_shift(packed[:, :, None], shifts), 255)
    return ops.cast(ops.sum(fields, axis=(0, 1)), "int32")


def _block_height(rows):
    """How many rows are summed at once: four counters of eight bits share an integer.

    A divisor of their number, if there is one: blocks then end where a device's rows
    end, and none is moved.
    """
    divisors = [height for height in range(16, 256) if rows % height == 0]
    return divisors[-1] if divisors else rows // -(-rows // 255)


def _as_rows(scores):
    """Views a tensor as (rows, columns); the last axis stays, also if it is sharded."""
    return ops.reshape(scores, (-1, scores.shape[-1]))


def _pack(keys, thresholds):
    """Sets bit `8 * i` where a key is at most threshold i."""
    keys = ops.cast(keys, "int32")
    packed = ops.cast(keys <= thresholds[0], "int32")
    for number in range(1, NUM_THRESHOLDS):
        mark = ops.cast(keys <= thresholds[number], "int32")
        packed = packed + mark * 2 ** (8 * number)
    return packed


def open_bracket(num_scores):
    """Returns the `Bracket` of keys that nothing is known of yet.

    Args:
        num_scores: List of the tensors' numbers of scores.
    """
    return Bracket(
        low=ops.convert_to_tensor(_LOWEST_END, dtype="int32"),
        high=ops.convert_to_tensor(_HIGHEST_END, dtype="int32"),
        below=ops.zeros((len(num_scores),), dtype=count_dtype()),
        reached=ops.convert_to_tensor(num_scores, dtype=count_dtype()),
    )


def is_found(bracket, total, target):
    """Whether a bracket needs no further pass.

    Args:
        bracket: `Bracket`.
        total: Function from counts, one per tensor along the first axis, to what is
            compared with the target.
        target: Int tensor ().

    Returns:
        Bool tensor (): the bracket holds one key; or its upper end gives exactly the
        target, or no more than it; or its lower end no less.
    """
    # A difference that wraps around is a wide one.
    width = bracket.high - bracket.low
    is_single = ops.logical_and(width >= 0, width <= 1)
    is_met = ops.logical_or(
        total(bracket.reached) <= target, total(bracket.below) >= target
    )
    return ops.logical_or(is_single, is_met)


def narrow(bracket, thresholds, counts, total, target):
    """Narrows a bracket by what a pass has counted.

    Args:
        bracket: `Bracket` that is not found yet.
        thresholds: Int32 tensor (4,), in any order.
        counts: Int32 tensor (tensors, 4): how many keys of each are at most each
            threshold.
        total: See `is_found`.
        target: See `is_found`.

    Returns:
        Tuple of the new `Bracket` and of whether it is not much narrower, as a bool
        tensor.
    """
    ends = ops.stack([bracket.low, bracket.high])
    keys = ops.concatenate([ends, thresholds])
    counts = ops.concatenate(
        [
            ops.stack([bracket.below, bracket.reached], axis=1),
            ops.cast(counts, bracket.below.dtype),
        ],
        axis=1,
    )
    is_enough = total(counts) >= target
    # Thresholds lie within the bracket, so its own ends are chosen if no other is.
    low = ops.argmax(ops.where(is_enough, -(2**31), keys))
    high = ops.argmin(ops.where(is_enough, keys, 2**31 - 1))
    narrowed = Bracket(
        ops.take(keys, low),
        ops.take(keys, high),
        ops.take(counts, low, axis=1),
        ops.take(counts, high, axis=1),
    )
    return narrowed, _width(narrowed) * 4 > _width(bracket)


def _width(bracket):
    width = bracket.high - bracket.low
    wide = ops.cast(bracket.high, "float32") - ops.cast(bracket.low, "float32")
    # Near 2^32 the difference of the integers wraps; below, it is exact.
    return ops.where(width < 0, wide, ops.cast(width, "float32"))


def place_thresholds(bracket, was_slow, total, target, dtype="float32"):
    """Places the thresholds of the next pass.

    Args:
        bracket: `Bracket` that is not found yet.
        was_slow: Bool tensor (): whether the latest pass gained little.
        total: See `is_found`.
        target: See `is_found`.
        dtype: Dtype of the scores.

    Returns:
        Int32 tensor of shape (4,), within the bracket.
    """
    width = _width(bracket)
    missing = ops.cast(target - total(bracket.below), "float32")
    inside = ops.cast(total(bracket.reached) - total(bracket.below), "float32")
    # As if the scores in the bracket were spread evenly: where the target's would be.
    share = ops.clip((missing - 0.5) / ops.maximum(inside, 1.0), 0.0, 1.0)
    deviation = ops.sqrt(share * (1 - share) / ops.maximum(inside, 1.0))
    # Wide enough for a density that is not quite even.
    far = ops.maximum(3 * deviation, 1 / 32)
    near = 0.7 * deviation
    place = ops.clip(share + ops.stack([-far, -near, near, far]), 0.0, 1.0)
    # Of the numbers, not of their keys: near zero are as many keys as far from it.
    low, high = (values_of(end, dtype) for end in (bracket.low, bracket.high))
    keys = keys_of((1 - place) * low + place * high, dtype)
    evenly = ops.where(width <= 5, _steps(1.0), width * _steps(0.2))
    offset = ops.cast(ops.clip(evenly, 1.0, _LARGEST_FLOAT), "int32")
    is_even = ops.logical_or(was_slow, width <= 5)
    keys = ops.where(is_even, bracket.low + offset, keys)
    # Never an end itself, or nothing would be gained.
    first = bracket.low + 1
    return ops.clip(keys, first, ops.maximum(bracket.high - 1, first))


def _steps(step):
    return ops.array([step, 2 * step, 3 * step, 4 * step], "float32")


def sample_keys(scores, size):
    """Returns the keys of about `size` scores from all over a tensor, as a vector."""
    matrix = _as_rows(scores)
    rows, columns = matrix.shape
    # Neighbours in a row share a cache line, so rather few rows than few columns.
    across = min(16, columns)
    down = max(1, rows * columns // (max(1, size) * across))
    return ops.reshape(ordered_keys(matrix[::down, ::across]), (-1,))


def _first_thresholds(scores, k):
    """Places the thresholds of the first pass around the quantile of a sample."""
    total = math.prod(scores.shape)
    keys = ops.sort(ops.cast(sample_keys(scores, min(total, SAMPLE_SIZE)), "int32"))
    size = keys.shape[0]
    share = ops.cast(k, "float32") / total
    deviation = ops.sqrt(share * (1 - share) * size) + 1
    place = share * size + deviation * ops.array((-3.0, 0.0, 0.0, 3.0), "float32")
    place = ops.clip(ops.cast(place, "int32"), 0, size - 1)
    # The two in the middle catch a key that many scores have.
    return ops.take(keys, place) - ops.array((0, 1, 0, 0), "int32")


class Cut(NamedTuple):
    """What tells which scores of one tensor are taken: keys, and for ties an index.

    Args:
        low: Int32 tensor (): all scores with a key up to this are taken.
        high: Int32 tensor (): of those above it, with a key up to this, some are.
        last: Int32 tensor (): index of the last one of these that is; -1 for none.
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
    """
    k = ops.clip(ops.cast(k, count_dtype()), 0, math.prod(scores.shape))
    return select_up_to(scores, cut_ties(scores, _find(scores, k), k))


def select_up_to(scores, cut):
    """Marks the scores that a `Cut` takes, as a bool tensor of the same shape."""
    cut = Cut(*map(ops.convert_to_tensor, cut))
    matrix = _as_rows(scores)
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
        bracket: Their `Bracket`, found for `k`.
        k: Int tensor (), in [0, number of scores].
    """
    keys = ops.cast(ordered_keys(_as_rows(scores)), "int32")
    tied = ops.logical_and(keys > bracket.low, keys <= bracket.high)
    rows, columns = keys.shape
    missing = ops.cast(k - bracket.below[0], "int32")

    def search():
        row, before = _locate(ops.sum(ops.cast(tied, "int32"), axis=1), missing)
        in_row = ops.cast(ops.take(tied, row, axis=0), "int32")
        column, _ = _locate(in_row, missing - before)
        return row * columns + column

    last = ops.cond(
        ops.logical_or(bracket.reached[0] == k, missing == 0),
        lambda: ops.where(missing == 0, -1, ops.cast(rows * columns - 1, "int32")),
        search,
    )
    return Cut(bracket.low, bracket.high, last)


def _find(scores, k):
    """Narrows the bracket of the k-th lowest score until it needs no further pass."""

    def step(bracket, thresholds):
        counts = ops.expand_dims(count_lowest(scores, thresholds), 0)
        narrowed, was_slow = narrow(bracket, thresholds, counts, _first, k)
        dtype = dtype_of(scores)
        return narrowed, place_thresholds(narrowed, was_slow, _first, k, dtype)

    bracket, _ = ops.while_loop(
        lambda bracket, _: ops.logical_not(is_found(bracket, _first, k)),
        step,
        (open_bracket([math.prod(scores.shape)]), _first_thresholds(scores, k)),
    )
    return bracket


def _first(counts):
    return counts[0]


def _locate(counts, wanted):
    """Finds the place in a vector where the running sum reaches a number.

    By halving: a running sum takes longer to compile than a search to run.

    Args:
        counts: Int32 tensor (n,), not negative.
        wanted: Int32 tensor (), at least 1 and at most the sum.

    Returns:
        Tuple of the first index up to which the counts sum to `wanted` or more, and of
        the sum of what comes before it, as int32 tensors.
    """
    index = ops.arange(counts.shape[0], dtype="int32")

    def halve(first, last, before):
        # The sum of both might not be an int32.
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

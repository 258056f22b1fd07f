"""Searches for the k-th lowest score of one or many tensors, without sorting them.

Each float32 has an int32 key of the same order. A bracket `low < key <= high` holds the
k-th smallest key. Each pass counts the scores below several thresholds and narrows the
bracket. A small sample places the first thresholds, with a guess if there is one, and
interpolation places later ones. If a pass gains little, the next divides the bracket
evenly. A few passes find the key exactly; a bad guess only costs passes.

Only counts and the sample leave a pass. No tensor is moved or joined with another, even
if it is sharded, and each has its own counting function.
"""

import functools
import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import as_rows, call_directly, fuses_loops, sum_blocks
from keras_pruner.masks.float_keys import dtype_of, keys_of, ordered_keys, values_of

NUM_THRESHOLDS = 4


# The widest bracket holds every key and ends one short of the ends of int32.
_LOWEST_END, _HIGHEST_END = -(2**31) + 1, 2**31 - 2

# No larger float32 fits an int32.
_LARGEST_FLOAT = 2.0**31 - 128

# The search sorts about this many scores to place the first thresholds.
SAMPLE_SIZE = 512

# This guess is empty, because no number is between 1 and 0.
NO_GUESS = (0.0, 1.0, 0.0)


class Bracket(NamedTuple):
    """Holds the interval of the sought key, `low < key <= high`.

    Args:
        low: Int32 tensor ().
        high: Int32 tensor ().
        below: Int tensor (tensors,): number of keys of each tensor that are `<= low`.
        reached: Int tensor (tensors,): number of keys of each that are `<= high`.
    """

    low: Any
    high: Any
    below: Any
    reached: Any

    def of_one(self, index):
        """Returns the `Bracket` of one tensor."""
        ends = slice(index, index + 1)
        return self._replace(below=self.below[ends], reached=self.reached[ends])


class DemandTensors(NamedTuple):
    """Holds the targets and bounds of an update, as tensors.

    Args:
        counts: Int tensor (tensors,): groups to take from each, if scores do not
            decide.
        target: Int tensor (): weights to take in total.
        sizes: Int tensor (tensors,): weights in one group of each.
        lower: Int tensor (tensors,): fewest groups to take from each.
        upper: Int tensor (tensors,): most groups to take from each.
    """

    counts: Any
    target: Any
    sizes: Any
    lower: Any
    upper: Any

    def total(self, counts):
        """Returns the weights in counts of groups, clipped to the bounds."""
        shape = (-1,) + (1,) * (len(counts.shape) - 1)
        lower, upper = ops.reshape(self.lower, shape), ops.reshape(self.upper, shape)
        taken = ops.clip(counts, lower, upper) * ops.reshape(self.sizes, shape)
        return ops.sum(taken, axis=0)


def count_dtype():
    """Returns the dtype of counts over tensors; JAX has no int64 by default."""
    return "int32" if keras.backend.backend() == "jax" else "int64"


def demand_of(target, sizes, lower, upper, counts=None):
    """Builds a `DemandTensors` from integers and lists of integers."""
    values = (lower if counts is None else counts, target, sizes, lower, upper)
    return DemandTensors(*map(as_counts, values))


def as_counts(values):
    """Converts an integer or a list of integers to a tensor of `count_dtype`."""
    if isinstance(values, (int, list)):
        # Converting an array takes half the time.
        values = np.array(values, count_dtype())
    return ops.convert_to_tensor(values, dtype=count_dtype())


def find_bracket(scores, demand, guess=NO_GUESS, call=call_directly):
    """Finds the bracket up to which scores are taken, starting from the lowest.

    Args:
        scores: List of float tensors, finite, of at most 2^31 - 1 elements each.
        demand: `DemandTensors`.
        guess: Three numbers, or `NO_GUESS`. The threshold is probably above the first,
            which may have no scores right below it, and between the other two.
        call: Function that calls functions of tensors. A `FunctionCache` compiles each,
            `call_in_trace` serves a caller that is compiled, `call_directly` is eager.

    Returns:
        `Bracket` that needs no further pass. It holds one key, or its upper end takes
        at most the target, or its lower end takes at least the target.
    """
    dtype = dtype_of(scores[0])
    num_scores = [math.prod(score.shape) for score in scores]
    size = functools.partial(_sample_size, total=sum(num_scores))
    samples = [
        call(_sample_keys, score, size=size(number))
        for score, number in zip(scores, num_scores, strict=True)
    ]
    # One sampled key represents this many groups.
    shares = [n / s.shape[0] for n, s in zip(num_scores, samples, strict=True)]
    shares = ops.convert_to_tensor(shares, dtype="float32")
    guess = ops.convert_to_tensor(guess, dtype="float32")
    thresholds = call(_first_thresholds, samples, shares, demand, guess, dtype=dtype)

    def step(bracket, thresholds, found):
        is_in_loop = not call.sees_numbers
        counts = [
            call(count_lowest, score, thresholds, is_in_loop=is_in_loop)
            for score in scores
        ]
        return call(_advance, bracket, thresholds, counts, demand, dtype=dtype)

    bracket = _open_bracket(num_scores)
    state = bracket, thresholds, call(_is_found, bracket, demand)
    bracket, _, _ = call.repeat(
        lambda bracket, thresholds, found: ops.logical_not(found), step, state
    )
    return bracket


def count_lowest(scores, thresholds, is_in_loop=False):
    """Counts the scores whose key is at most each threshold, in one pass.

    Args:
        scores: Float tensor of any shape, finite, at most 2^31 - 1 elements.
        thresholds: Int32 tensor of shape (4,).
        is_in_loop: Whether the pass is compiled as a part of the loop of passes. The
            compiler would otherwise compute all keys before the loop. They take as
            much memory as the scores and save little time.

    Returns:
        Int32 tensor of shape (4,).
    """
    if not fuses_loops():
        keys = ordered_keys(scores)
        if keys.dtype != thresholds.dtype:
            keys = ops.cast(keys, "int32")
        marks = [keys <= thresholds[number] for number in range(NUM_THRESHOLDS)]
        return ops.stack([ops.sum(ops.cast(mark, "int32")) for mark in marks])
    # This zero seems to depend on the loop. If thresholds come from outside the loop,
    # TensorFlow would compile again for each value.
    zero = ops.minimum(ops.bitwise_and(thresholds[0], 1), 0) if is_in_loop else 0
    packed, _ = sum_blocks(
        lambda scores: _pack(scores, thresholds), as_rows(scores), zero
    )
    # (blocks, columns, thresholds)
    shifts = ops.arange(0, 8 * NUM_THRESHOLDS, 8, dtype="int32")
    fields = ops.bitwise_and(ops.right_shift(packed[:, :, None], shifts), 255)
    return ops.cast(ops.sum(fields, axis=(0, 1)), "int32")


def _pack(scores, thresholds):
    """Sets bit `8 * i` if a score's key is at most threshold i."""
    keys = ops.cast(ordered_keys(scores), "int32")
    packed = ops.cast(keys <= thresholds[0], "int32")
    for number in range(1, NUM_THRESHOLDS):
        mark = ops.cast(keys <= thresholds[number], "int32")
        packed = packed + mark * 2 ** (8 * number)
    return packed


def _open_bracket(num_scores):
    """Returns the widest `Bracket`, for the start of a search.

    Args:
        num_scores: List of the number of scores in each tensor.
    """
    return Bracket(
        low=ops.convert_to_tensor(_LOWEST_END, dtype="int32"),
        high=ops.convert_to_tensor(_HIGHEST_END, dtype="int32"),
        below=ops.zeros((len(num_scores),), dtype=count_dtype()),
        reached=ops.convert_to_tensor(num_scores, dtype=count_dtype()),
    )


def _is_found(bracket, demand):
    """Returns whether a bracket needs no further pass; see `find_bracket`."""
    # The difference wraps around if the bracket is wide.
    width = bracket.high - bracket.low
    is_single = ops.logical_and(width >= 0, width <= 1)
    is_met = ops.logical_or(
        demand.total(bracket.reached) <= demand.target,
        demand.total(bracket.below) >= demand.target,
    )
    return ops.logical_or(is_single, is_met)


def _advance(bracket, thresholds, counts, demand, dtype):
    """Narrows a bracket by the counts of a pass, and places the next thresholds.

    Args:
        bracket: `Bracket` that is not found yet.
        thresholds: Int32 tensor (4,), in any order.
        counts: List of int32 tensors (4,): number of keys of each tensor that are at
            most each threshold.
        demand: `DemandTensors`.
        dtype: Dtype of the scores.

    Returns:
        Tuple of the new `Bracket`, the thresholds, and whether the bracket is found.
    """
    bracket, was_slow = _narrow(bracket, thresholds, ops.stack(counts), demand)
    thresholds = _place_thresholds(bracket, was_slow, demand, dtype)
    return bracket, thresholds, _is_found(bracket, demand)


def _narrow(bracket, thresholds, counts, demand):
    """Returns the narrower bracket, and whether it is more than a quarter as wide."""
    ends = ops.stack([bracket.low, bracket.high])
    keys = ops.concatenate([ends, thresholds])
    counts = ops.concatenate(
        [
            ops.stack([bracket.below, bracket.reached], axis=1),
            ops.cast(counts, bracket.below.dtype),
        ],
        axis=1,
    )
    is_enough = demand.total(counts) >= demand.target
    # Thresholds are within the bracket, so its own ends are the fallback.
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
    # The difference of the integers is exact, unless it wraps around.
    return ops.where(width < 0, wide, ops.cast(width, "float32"))


def _place_thresholds(bracket, was_slow, demand, dtype):
    """Returns the thresholds of the next pass, within the bracket.

    Args:
        bracket: `Bracket` that is not found yet.
        was_slow: Bool tensor (): whether the latest pass gained little.
        demand: `DemandTensors`.
        dtype: Dtype of the scores.
    """
    width = _width(bracket)
    below = demand.total(bracket.below)
    missing = ops.cast(demand.target - below, "float32")
    inside = ops.cast(demand.total(bracket.reached) - below, "float32")
    # Assumes that the scores in the bracket are spread evenly.
    share = ops.clip((missing - 0.5) / ops.maximum(inside, 1.0), 0.0, 1.0)
    deviation = ops.sqrt(share * (1 - share) / ops.maximum(inside, 1.0))
    # The outer thresholds allow for a density that is not quite even.
    far = ops.maximum(3 * deviation, 1 / 32)
    near = 0.7 * deviation
    place = ops.clip(share + ops.stack([-far, -near, near, far]), 0.0, 1.0)
    # Interpolates numbers, not keys, because keys are dense near zero.
    low, high = (values_of(end, dtype) for end in (bracket.low, bracket.high))
    keys = keys_of((1 - place) * low + place * high, dtype)
    evenly = ops.where(width <= 5, _steps(1.0), width * _steps(0.2))
    offset = ops.cast(ops.clip(evenly, 1.0, _LARGEST_FLOAT), "int32")
    is_even = ops.logical_or(was_slow, width <= 5)
    keys = ops.where(is_even, bracket.low + offset, keys)
    # A threshold at an end would gain nothing.
    first = bracket.low + 1
    return ops.clip(keys, first, ops.maximum(bracket.high - 1, first))


def _steps(step):
    return ops.array([step, 2 * step, 3 * step, 4 * step], "float32")


def _sample_keys(scores, size):
    """Returns the keys of about `size` scores from all over a tensor, as a vector."""
    matrix = as_rows(scores)
    rows, columns = matrix.shape
    # Neighbours in a row share a cache line, so the sample skips rows first.
    across = min(16, columns)
    down = max(1, rows * columns // (max(1, size) * across))
    return ops.reshape(ordered_keys(matrix[::down, ::across]), (-1,))


def _sample_size(number, total):
    """Returns the sample size of a tensor with `number` of the `total` scores."""
    return max(1, min(number, number * SAMPLE_SIZE // total))


def _first_thresholds(samples, shares, demand, guess, dtype):
    """Places the first thresholds around the quantile of the samples and the guess.

    Args:
        samples: List of the tensors' sampled keys.
        shares: Float32 tensor (tensors,): groups that a sampled key represents.
        demand: `DemandTensors`.
        guess: Float32 tensor (3,), see `find_bracket`.
        dtype: Dtype of the scores.
    """
    total = ops.sum(ops.cast(demand.total(demand.upper), "float32"))
    share = ops.cast(demand.target, "float32") / ops.maximum(total, 1.0)
    share = ops.clip(share, 0.0, 1.0)
    size = sum(keys.shape[0] for keys in samples)
    deviation = ops.sqrt(share * (1 - share) / size) + 1 / size
    place = share + deviation * ops.array((-3.0, 0.0, 0.0, 3.0), "float32")
    keys, index = _places_in(samples, shares * ops.cast(demand.sizes, "float32"), place)
    index = ops.clip(ops.cast(index, "int32"), 0, size - 1)
    first, low, high, last = (ops.take(keys, index[i]) for i in range(4))
    below, least, most = (keys_of(guess, dtype)[i] for i in range(3))
    is_guess = guess[1] <= guess[2]
    # Two thresholds enclose a key that many scores share.
    low = ops.where(is_guess, least, low - 1)
    high = ops.where(is_guess, most, high)
    first = ops.where(is_guess, ops.maximum(first, below), first)
    return ops.stack([first, low, high, last])


def _places_in(samples, weights, places):
    """Returns the sorted keys of samples, and the indices of places in [0, 1].

    Args:
        samples: List of vectors of keys.
        weights: Float32 tensor (tensors,): weight of one key of each sample.
        places: Float32 tensor.
    """
    if len(samples) == 1:
        keys = ops.sort(ops.cast(samples[0], "int32"))
        return keys, places * keys.shape[0]
    keys = ops.concatenate([ops.cast(keys, "int32") for keys in samples])
    weights = ops.concatenate(
        [ops.broadcast_to(weights[i], keys.shape) for i, keys in enumerate(samples)]
    )
    order = ops.argsort(keys)
    passed = ops.cumsum(ops.take(weights, order)) / ops.sum(weights)
    index = ops.sum(ops.expand_dims(passed, 1) < ops.expand_dims(places, 0), axis=0)
    return ops.take(keys, order), index

"""The search for the k-th lowest score over one or many tensors, without sorting them.

A float32 is mapped to an int32 of the same order, its key. The k-th smallest key lies
in a bracket, `low < key <= high`, which passes over the scores narrow: each counts the
scores below several thresholds at once. A small sample places the first thresholds, and
with it a guess, if there is one; interpolation the later ones; where that gains little,
the bracket is divided evenly. So a few passes find the key, a bad guess only costs
passes, and the result is exact.

Only counts and the sample leave a pass. So no tensor is moved or joined with another,
also if it is divided over devices, and each is counted by a function of its own.
"""

import functools
import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import as_rows, call_directly, sum_blocks
from keras_pruner.masks.float_keys import dtype_of, keys_of, ordered_keys, values_of

NUM_THRESHOLDS = 4


# Ends of the widest bracket: beyond every key, and one short of the ends of int32.
_LOWEST_END, _HIGHEST_END = -(2**31) + 1, 2**31 - 2

# Largest float32 that is an int32.
_LARGEST_FLOAT = 2.0**31 - 128

# About how many scores are sorted to place the first thresholds.
SAMPLE_SIZE = 512

# A guess that says nothing: no number lies between its ends.
NO_GUESS = (0.0, 1.0, 0.0)


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

    def of_one(self, index):
        """Returns the `Bracket` of one of the tensors."""
        ends = slice(index, index + 1)
        return self._replace(below=self.below[ends], reached=self.reached[ends])


class DemandTensors(NamedTuple):
    """What is asked for, as tensors.

    Args:
        counts: Int tensor (tensors,): groups to take from each, where scores do not
            decide.
        target: Int tensor (): weights to take in all.
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
        """Weights that counts of groups come to, within the bounds."""
        shape = (-1,) + (1,) * (len(counts.shape) - 1)
        lower, upper = ops.reshape(self.lower, shape), ops.reshape(self.upper, shape)
        taken = ops.clip(counts, lower, upper) * ops.reshape(self.sizes, shape)
        return ops.sum(taken, axis=0)


def count_dtype():
    """Integer dtype for counts over several tensors; JAX has no int64 by default."""
    return "int32" if keras.backend.backend() == "jax" else "int64"


def demand_of(target, sizes, lower, upper, counts=None):
    """Returns a `DemandTensors` of these integers and lists of integers."""
    values = (lower if counts is None else counts, target, sizes, lower, upper)
    return DemandTensors(*map(as_counts, values))


def as_counts(values):
    """Returns an integer, or a list of integers, as a tensor of `count_dtype`."""
    if isinstance(values, (int, list)):
        # Of an array a tensor is made in half the time.
        values = np.array(values, count_dtype())
    return ops.convert_to_tensor(values, dtype=count_dtype())


def find_bracket(scores, demand, guess=NO_GUESS, run=call_directly):
    """Finds the bracket up to which scores are taken, from the lowest on.

    Args:
        scores: List of float tensors, finite, of at most 2^31 - 1 elements each.
        demand: `DemandTensors`.
        guess: Three numbers, or `NO_GUESS`: one that the threshold lies above, since
            nothing may lie right below it; and two that it may lie between.
        run: Calls functions of tensors: a `FunctionCache`, to compile them one by one;
            `call_in_trace`, to be compiled as a whole; or `call_directly`.

    Returns:
        `Bracket` that needs no further pass: it holds one key; or its upper end gives
        exactly the target, or no more than it; or its lower end no less.
    """
    dtype = dtype_of(scores[0])
    num_scores = [math.prod(score.shape) for score in scores]
    size = functools.partial(_sample_size, total=sum(num_scores))
    samples = [
        run(_sample_keys, score, size=size(number))
        for score, number in zip(scores, num_scores, strict=True)
    ]
    # Groups that one sampled key stands for.
    shares = [n / s.shape[0] for n, s in zip(num_scores, samples, strict=True)]
    shares = ops.convert_to_tensor(shares, dtype="float32")
    guess = ops.convert_to_tensor(guess, dtype="float32")
    thresholds = run(_first_thresholds, samples, shares, demand, guess, dtype=dtype)

    def step(bracket, thresholds, found):
        is_in_loop = not run.sees_numbers
        counts = [
            run(count_lowest, score, thresholds, is_in_loop=is_in_loop)
            for score in scores
        ]
        return run(_advance, bracket, thresholds, counts, demand, dtype=dtype)

    bracket = _open_bracket(num_scores)
    state = bracket, thresholds, run(_is_found, bracket, demand)
    bracket, _, _ = run.repeat(
        lambda bracket, thresholds, found: ops.logical_not(found), step, state
    )
    return bracket


def count_lowest(scores, thresholds, is_in_loop=False):
    """Counts the scores whose key is at most each threshold, in one pass.

    Args:
        scores: Float tensor of any shape, finite, at most 2^31 - 1 elements.
        thresholds: Int32 tensor of shape (4,).
        is_in_loop: Whether it is compiled as a part of the loop of passes. A compiler
            would make the keys of all scores before the loop, and keep them: as much
            memory as the scores take, to save what costs next to nothing.

    Returns:
        Int32 tensor of shape (4,).
    """
    # A zero that seems to depend on the loop. Where thresholds come from outside,
    # TensorFlow would compile anew for each.
    zero = ops.minimum(ops.bitwise_and(thresholds[0], 1), 0) if is_in_loop else 0
    packed, _ = sum_blocks(
        lambda scores: _pack(scores, thresholds), as_rows(scores), zero
    )
    # (blocks, columns, thresholds)
    shifts = ops.arange(0, 8 * NUM_THRESHOLDS, 8, dtype="int32")
    fields = ops.bitwise_and(ops.right_shift(packed[:, :, None], shifts), 255)
    return ops.cast(ops.sum(fields, axis=(0, 1)), "int32")


def _pack(scores, thresholds):
    """Sets bit `8 * i` where a score's key is at most threshold i."""
    keys = ops.cast(ordered_keys(scores), "int32")
    packed = ops.cast(keys <= thresholds[0], "int32")
    for number in range(1, NUM_THRESHOLDS):
        mark = ops.cast(keys <= thresholds[number], "int32")
        packed = packed + mark * 2 ** (8 * number)
    return packed


def _open_bracket(num_scores):
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


def _is_found(bracket, demand):
    """Whether a bracket needs no further pass, as a bool tensor; see `find_bracket`."""
    # A difference that wraps around is a wide one.
    width = bracket.high - bracket.low
    is_single = ops.logical_and(width >= 0, width <= 1)
    is_met = ops.logical_or(
        demand.total(bracket.reached) <= demand.target,
        demand.total(bracket.below) >= demand.target,
    )
    return ops.logical_or(is_single, is_met)


def _advance(bracket, thresholds, counts, demand, dtype):
    """Takes in what a pass has counted, and places the thresholds of the next.

    Args:
        bracket: `Bracket` that is not found yet.
        thresholds: Int32 tensor (4,), in any order.
        counts: List of int32 tensors (4,): how many keys of each tensor are at most
            each threshold.
        demand: `DemandTensors`.
        dtype: Dtype of the scores.

    Returns:
        Tuple of the new `Bracket`, of the thresholds, and of whether it is found.
    """
    bracket, was_slow = _narrow(bracket, thresholds, ops.stack(counts), demand)
    thresholds = _place_thresholds(bracket, was_slow, demand, dtype)
    return bracket, thresholds, _is_found(bracket, demand)


def _narrow(bracket, thresholds, counts, demand):
    """Narrows a bracket; returns it and whether it is not much narrower."""
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


def _sample_keys(scores, size):
    """Returns the keys of about `size` scores from all over a tensor, as a vector."""
    matrix = as_rows(scores)
    rows, columns = matrix.shape
    # Neighbours in a row share a cache line, so rather few rows than few columns.
    across = min(16, columns)
    down = max(1, rows * columns // (max(1, size) * across))
    return ops.reshape(ordered_keys(matrix[::down, ::across]), (-1,))


def _sample_size(number, total):
    """How many of a tensor's scores are looked at, of `total` in all."""
    return max(1, min(number, number * SAMPLE_SIZE // total))


def _first_thresholds(samples, shares, demand, guess, dtype):
    """Places the first thresholds around the quantile of the samples, and by a guess.

    Args:
        samples: List of the tensors' sampled keys.
        shares: Float32 tensor (tensors,): groups that a sampled key stands for.
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
    # A key that many scores have is caught from both sides.
    low = ops.where(is_guess, least, low - 1)
    high = ops.where(is_guess, most, high)
    first = ops.where(is_guess, ops.maximum(first, below), first)
    return ops.stack([first, low, high, last])


def _places_in(samples, weights, places):
    """Returns the sorted keys of samples, and the indices of places in [0, 1].

    Args:
        samples: List of vectors of keys.
        weights: Float32 tensor (tensors,): what one key of each sample weighs.
        places: Float32 tensor.
    """
    if len(samples) == 1:
        keys = ops.sort(ops.cast(samples[0], "int32"))
        return keys, places * keys.shape[0]
    keys = ops.concatenate([ops.cast(keys, "int32") for keys in samples])
    weights = ops.concatenate(
        [weights[i] * ops.ones(keys.shape) for i, keys in enumerate(samples)]
    )
    order = ops.argsort(keys)
    passed = ops.cumsum(ops.take(weights, order)) / ops.sum(weights)
    index = ops.sum(ops.expand_dims(passed, 1) < ops.expand_dims(places, 0), axis=0)
    return ops.take(keys, order), index

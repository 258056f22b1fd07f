"""How many of each tensor's scores are among the lowest of all tensors together.

Only counts and a small sample are exchanged between the tensors, so that none is moved
or joined with another, and each is counted by a function of its own.
"""

import functools
import math
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_pruner.compiled import call_directly
from keras_pruner.float_keys import dtype_of, keys_of, values_of
from keras_pruner.selection import (
    SAMPLE_SIZE,
    Bracket,
    Cut,
    count_dtype,
    count_lowest,
    cut_ties,
    is_found,
    narrow,
    open_bracket,
    place_thresholds,
    sample_keys,
)

# A guess that says nothing: no number lies between its ends.
NO_GUESS = (1.0, 0.0)


class Forecast:
    """Foretells where a ranking's threshold lies, from those of the rankings before.

    From one mask update to the next a threshold moves about as far as it did before.
    A forecast that is wrong costs passes over the scores, and changes no result.
    """

    def __init__(self):
        self._latest = self._step = self._error = None

    def guess(self):
        """Returns the pair of numbers between which a threshold is sought first.

        `NO_GUESS` before anything was learnt.
        """
        if self._latest is None:
            return NO_GUESS
        near = self._latest + self._step
        return near - 2 * self._error, near + 2 * self._error

    def learn(self, threshold):
        """Takes in the threshold that a ranking found.

        Args:
            threshold: Float. One near the largest float32 is ignored: nothing, or
                everything, was taken.
        """
        if abs(threshold) > 1e38:
            return
        if self._latest is None:
            self._step, self._error = 0.0, abs(threshold) / 32
        else:
            missed = abs(threshold - self._latest - self._step)
            self._error = max(missed, self._error / 2)
            self._step = threshold - self._latest
        self._latest = threshold


class DemandTensors(NamedTuple):
    """What an update is asked for, as tensors.

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


def check_total(num_weights):
    """Raises if there are more weights than the backend's integers can count.

    Args:
        num_weights: Weights that are ranked together.

    Raises:
        ValueError: If so.
    """
    if num_weights >= 2**31 and count_dtype() == "int32":
        raise ValueError(
            f"{keras.backend.backend()} counts in 32 bits, so at most 2^31 - 1 weights "
            "can be ranked together. Use allocation 'erk' or 'uniform', or prune the "
            f"model in parts by `local_configs`. Received: {num_weights} weights"
        )


def demand_of(target, sizes, lower, upper, counts=None):
    """Returns a `DemandTensors` of these integers and lists of integers."""
    values = (lower if counts is None else counts, target, sizes, lower, upper)
    return DemandTensors(
        *(ops.convert_to_tensor(v, dtype=count_dtype()) for v in values)
    )


def rank_jointly(scores, demand, guess=NO_GUESS, run=call_directly):
    """Divides a joint ranking: how many of each tensor's scores are among the lowest.

    All scores are ranked together and taken from the lowest on until their groups hold
    `demand.target` weights. No tensor gives fewer than its lower or more than its upper
    bound: what a capped tensor does not give, the others give. Ties are taken tensor by
    tensor. Where groups have different sizes and the target falls inside a group, that
    group is taken if this comes nearer to the target.

    Args:
        scores: List of float tensors, finite.
        demand: `DemandTensors`.
        guess: Two numbers that the threshold may lie between, or `NO_GUESS`.
        run: Calls functions of tensors: a `FunctionCache`, to compile them one by one;
            `call_in_trace`, to be compiled as a whole; or `call_directly`.

    Returns:
        Tuple of an int tensor (tensors,), the groups to take from each; of the
        `Bracket` of all; and of the threshold, a float32 tensor ().
    """
    bracket = _find(scores, demand, guess, run)
    dtype = dtype_of(scores[0])
    counts, threshold = run(_divide, bracket, demand, dtype=dtype)
    return counts, bracket, threshold


def cuts_of(scores, counts, bracket, run=call_directly):
    """Returns the `Cut` of each tensor, of a ranking's bracket.

    Where numbers can be looked at, it searches only where it must: a tensor whose
    bounds held it lies elsewhere than the others, and few have ties to cut. Where they
    cannot, in a trace, no bound must have held any.

    Args:
        scores: See `rank_jointly`.
        counts: What `rank_jointly` returned.
        bracket: What `rank_jointly` returned.
        run: See `rank_jointly`.
    """
    if not run.sees_numbers:
        return [
            cut_ties(score, of_one(bracket, index), counts[index])
            for index, score in enumerate(scores)
        ]
    counts = ops.convert_to_numpy(counts).tolist()
    shared = Bracket(*map(ops.convert_to_numpy, bracket))
    cuts = []
    for index, (score, count) in enumerate(zip(scores, counts, strict=True)):
        own = of_one(shared, index)
        size = math.prod(score.shape)
        if not _serves(own, count):
            alone = demand_of(count, [1], [0], [size])
            found = _find([score], alone, NO_GUESS, run)
            own = Bracket(*map(ops.convert_to_numpy, found))
        if count == own.reached[0]:
            cut = Cut(own.low, own.high, np.array(size - 1, "int32"))
        elif count == own.below[0]:
            cut = Cut(own.low, own.high, np.array(-1, "int32"))
        else:
            own = Bracket(*map(ops.convert_to_tensor, own))
            k = ops.convert_to_tensor(count, dtype=count_dtype())
            cut = run(cut_ties, score, own, k)
        cuts.append(cut)
    return cuts


def of_one(bracket, index):
    """Returns the `Bracket` of one of the tensors that were ranked together."""
    ends = slice(index, index + 1)
    return bracket._replace(below=bracket.below[ends], reached=bracket.reached[ends])


def _find(scores, demand, guess, run):
    """Narrows the bracket of a ranking until it needs no further pass."""
    dtype = dtype_of(scores[0])
    num_scores = [math.prod(score.shape) for score in scores]
    size = functools.partial(_sample_size, total=sum(num_scores))
    samples = [
        run(sample_keys, score, size=size(number))
        for score, number in zip(scores, num_scores, strict=True)
    ]
    # Groups that one sampled key stands for.
    shares = [n / s.shape[0] for n, s in zip(num_scores, samples, strict=True)]
    shares = ops.convert_to_tensor(shares, dtype="float32")
    guess = ops.convert_to_tensor(guess, dtype="float32")
    thresholds = run(_first_thresholds, samples, shares, demand, guess, dtype=dtype)

    def step(bracket, thresholds, found):
        counts = [run(count_lowest, score, thresholds) for score in scores]
        return run(_advance, bracket, thresholds, counts, demand, dtype=dtype)

    bracket = open_bracket(num_scores)
    state = bracket, thresholds, run(_is_found, bracket, demand)
    bracket, _, _ = run.repeat(
        lambda bracket, thresholds, found: ops.logical_not(found), step, state
    )
    return bracket


def _serves(bracket, count):
    """Whether the `count` lowest scores of one tensor can be told by a bracket."""
    low, high, below, reached = (int(number.item()) for number in bracket)
    return below <= count <= reached and (count in (below, reached) or high - low == 1)


def _sample_size(number, total):
    """How many of a tensor's scores are looked at, of `total` in all."""
    return max(1, min(number, number * SAMPLE_SIZE // total))


def _first_thresholds(samples, shares, demand, guess, dtype):
    """Places the first thresholds around the quantile of the samples, and by a guess.

    Args:
        samples: List of the tensors' sampled keys.
        shares: Float32 tensor (tensors,): groups that a sampled key stands for.
        demand: `DemandTensors`.
        guess: Float32 tensor (2,), see `rank_jointly`.
        dtype: Dtype of the scores.
    """
    keys = ops.concatenate([ops.cast(keys, "int32") for keys in samples])
    shares = shares * ops.cast(demand.sizes, "float32")
    shares = ops.concatenate(
        [shares[i] * ops.ones(keys.shape) for i, keys in enumerate(samples)]
    )
    order = ops.argsort(keys)
    keys = ops.take(keys, order)
    size = keys.shape[0]
    passed = ops.cumsum(ops.take(shares, order)) / ops.sum(shares)
    total = ops.sum(ops.cast(demand.total(demand.upper), "float32"))
    share = ops.cast(demand.target, "float32") / ops.maximum(total, 1.0)
    share = ops.clip(share, 0.0, 1.0)
    deviation = ops.sqrt(share * (1 - share) / size) + 1 / size
    place = share + deviation * ops.array((-3.0, 0.0, 0.0, 3.0), "float32")
    index = ops.sum(ops.expand_dims(passed, 1) < ops.expand_dims(place, 0), axis=0)
    index = ops.clip(ops.cast(index, "int32"), 0, size - 1)
    first, low, high, last = (ops.take(keys, index[i]) for i in range(4))
    # A key that many scores have is caught from both sides.
    guessed = keys_of(guess, dtype)
    low = ops.where(guess[0] <= guess[1], guessed[0], low - 1)
    high = ops.where(guess[0] <= guess[1], guessed[1], high)
    return ops.stack([first, low, high, last])


def _is_found(bracket, demand):
    return is_found(bracket, demand.total, demand.target)


def _advance(bracket, thresholds, counts, demand, dtype):
    counts = ops.stack(counts)
    bracket, was_slow = narrow(bracket, thresholds, counts, demand.total, demand.target)
    thresholds = place_thresholds(bracket, was_slow, demand.total, demand.target, dtype)
    return bracket, thresholds, _is_found(bracket, demand)


def _divide(bracket, demand, dtype):
    """Returns how many groups each tensor gives, (tensors,), and up to which score."""
    below = ops.clip(bracket.below, demand.lower, demand.upper)
    available = ops.clip(bracket.reached, demand.lower, demand.upper)
    missing = demand.target - ops.sum(below * demand.sizes)
    taken = []
    for index in range(below.shape[0]):
        size, room = demand.sizes[index], available[index] - below[index]
        # Nearest number of groups; a tie goes to the smaller one.
        wanted = ops.maximum(missing + (size - 1) // 2, 0) // size
        extra = ops.minimum(room, wanted)
        missing = missing - extra * size
        taken.append(below[index] + extra)
    return ops.stack(taken), values_of(bracket.high, dtype)

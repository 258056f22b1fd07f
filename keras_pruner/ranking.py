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
from keras_pruner.selection import (
    SAMPLE_SIZE,
    Bracket,
    count_dtype,
    count_lowest,
    is_found,
    narrow,
    open_bracket,
    place_thresholds,
    sample_keys,
)


class JointDemand(NamedTuple):
    """What a joint ranking is asked for.

    Args:
        target: Int tensor (): weights to take in all.
        sizes: Int tensor (tensors,): weights in one group of each.
        lower: Int tensor (tensors,): fewest groups to take from each.
        upper: Int tensor (tensors,): most groups to take from each.
    """

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


def count_lowest_jointly(scores, group_sizes, target, bounds, run=call_directly):
    """Divides a joint ranking: how many of each tensor's scores are among the lowest.

    All scores are ranked together and taken from the lowest on until their groups hold
    `target` weights. No tensor gives fewer than its lower or more than its upper bound:
    what a capped tensor does not give, the others give. Ties are taken tensor by
    tensor. Where groups have different sizes and `target` falls inside a group, that
    group is taken if this comes nearer to the target.

    Args:
        scores: List of float tensors, finite.
        group_sizes: List of integers: weights in one group of each tensor.
        target: Integer: weights to take in all.
        bounds: Pair of lists of integers: fewest and most groups to take from each.
        run: Function that calls a function of tensors, e.g. a `FunctionCache`.

    Returns:
        Tuple of the list of groups to take from each, as integers, and of a list with
        the `Bracket` of each, for `select_lowest`.

    Raises:
        ValueError: If there are more weights than the backend's integers can count.
    """
    num_scores = [math.prod(score.shape) for score in scores]
    _check_total(num_scores, group_sizes)
    demand = _demand(target, group_sizes, *bounds)
    size = functools.partial(_sample_size, total=sum(num_scores))
    samples = [
        run(sample_keys, score, size=size(number))
        for score, number in zip(scores, num_scores, strict=True)
    ]
    shares = [
        np.full(sample.shape, number * group / sample.shape[0], "float32")
        for sample, number, group in zip(samples, num_scores, group_sizes, strict=True)
    ]
    thresholds = run(_first_thresholds, samples, np.concatenate(shares), demand)
    bracket = _find(scores, thresholds, demand, run)
    counts = ops.convert_to_numpy(run(_divide, bracket, demand)).tolist()
    low, high, below, reached = map(ops.convert_to_numpy, bracket)
    brackets = []
    for index, score in enumerate(scores):
        ends = slice(index, index + 1)
        own = Bracket(low, high, below[ends], reached[ends])
        # A capped tensor is cut elsewhere than the others.
        if not _serves(own, counts[index]):
            alone = _demand(counts[index], [1], [0], [num_scores[index]])
            own = _find([score], thresholds, alone, run)
            own = Bracket(*map(ops.convert_to_numpy, own))
        brackets.append(own)
    return counts, brackets


def _demand(*values):
    return JointDemand(
        *(ops.convert_to_tensor(value, dtype=count_dtype()) for value in values)
    )


def _find(scores, thresholds, demand, run):
    """Narrows the bracket of a ranking until it needs no further pass."""
    bracket = open_bracket([math.prod(score.shape) for score in scores])
    found = run(_is_found, bracket, demand)
    while not ops.convert_to_numpy(found):
        counts = [run(count_lowest, score, thresholds) for score in scores]
        bracket, thresholds, found = run(_advance, bracket, thresholds, counts, demand)
    return bracket


def _serves(bracket, count):
    """Whether the `count` lowest scores of one tensor can be told by a bracket."""
    low, high, below, reached = (int(number.item()) for number in bracket)
    return below <= count <= reached and (count in (below, reached) or high - low == 1)


def _check_total(num_scores, group_sizes):
    total = sum(n * size for n, size in zip(num_scores, group_sizes, strict=True))
    if total >= 2**31 and count_dtype() == "int32":
        raise ValueError(
            f"{keras.backend.backend()} counts in 32 bits, so at most 2^31 - 1 weights "
            "can be ranked together. Use allocation 'erk' or 'uniform', or prune the "
            f"model in parts by `local_configs`. Received: {total} weights"
        )


def _sample_size(number, total):
    """How many of a tensor's scores are looked at, of `total` in all."""
    return max(1, min(number, number * SAMPLE_SIZE // total))


def _first_thresholds(samples, shares, demand):
    """Places the first thresholds around the quantile of the samples.

    Args:
        samples: List of the tensors' sampled keys.
        shares: Float32 tensor: how many weights each sampled key stands for.
        demand: `JointDemand`.
    """
    keys = ops.concatenate([ops.cast(keys, "int32") for keys in samples])
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
    # The two in the middle catch a key that many scores have.
    return ops.take(keys, index) - ops.array((0, 1, 0, 0), "int32")


def _is_found(bracket, demand):
    return is_found(bracket, demand.total, demand.target)


def _advance(bracket, thresholds, counts, demand):
    counts = ops.stack(counts)
    bracket, was_slow = narrow(bracket, thresholds, counts, demand.total, demand.target)
    thresholds = place_thresholds(bracket, was_slow, demand.total, demand.target)
    return bracket, thresholds, _is_found(bracket, demand)


def _divide(bracket, demand):
    """Returns how many groups each tensor gives, as an int tensor (tensors,)."""
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
    return ops.stack(taken)

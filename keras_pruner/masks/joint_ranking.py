"""How many of each tensor's scores are among the lowest of all tensors together.

Only counts and a small sample are exchanged between the tensors, so that none is moved
or joined with another, and each is counted by a function of its own.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import call_directly
from keras_pruner.masks.float_keys import dtype_of, values_of
from keras_pruner.masks.kth_lowest import (
    NO_GUESS,
    Bracket,
    count_dtype,
    demand_of,
    find_bracket,
)
from keras_pruner.masks.select_lowest import Cut, cut_ties


class Forecast:
    """Foretells where a ranking's threshold lies, from those of the rankings before.

    From one mask update to the next a threshold moves about as far as it did before.
    A forecast that is wrong costs passes over the scores, and changes no result.
    """

    def __init__(self):
        self._latest = self._step = self._error = None

    def guess(self):
        """Returns a guess for `find_bracket`: `NO_GUESS` before anything was learnt."""
        if self._latest is None:
            return NO_GUESS
        near = self._latest + self._step
        # Up to the latest threshold all was pruned, so that little lies below it.
        return self._latest, near - 2 * self._error, near + 2 * self._error

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
        guess: See `find_bracket`.
        run: Calls functions of tensors: a `FunctionCache`, to compile them one by one;
            `call_in_trace`, to be compiled as a whole; or `call_directly`.

    Returns:
        Tuple of an int tensor (tensors,), the groups to take from each; of the
        `Bracket` of all; and of the threshold, a float32 tensor ().
    """
    bracket = find_bracket(scores, demand, guess, run)
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
            cut_ties(score, bracket.of_one(index), counts[index])
            for index, score in enumerate(scores)
        ]
    counts = ops.convert_to_numpy(counts).tolist()
    shared = Bracket(*map(ops.convert_to_numpy, bracket))
    cuts = []
    for index, (score, count) in enumerate(zip(scores, counts, strict=True)):
        own = shared.of_one(index)
        size = math.prod(score.shape)
        if not _serves(own, count):
            alone = demand_of(count, [1], [0], [size])
            found = find_bracket([score], alone, run=run)
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


def _serves(bracket, count):
    """Whether the `count` lowest scores of one tensor can be told by a bracket."""
    low, high, below, reached = (int(number.item()) for number in bracket)
    return below <= count <= reached and (count in (below, reached) or high - low == 1)


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

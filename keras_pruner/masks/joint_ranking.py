"""Ranks the scores of several tensors together and counts the lowest of each.

The tensors exchange only counts and a small sample. No tensor is moved or joined with
another, and each has its own counting function.
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
    """Predicts the threshold of a ranking from the thresholds of earlier rankings.

    From one mask update to the next a threshold moves about as far as it did before.
    A wrong forecast costs passes over the scores and changes no result.
    """

    def __init__(self):
        self._latest = self._step = self._error = None

    def guess(self):
        """Returns a guess for `find_bracket`; `NO_GUESS` before the first `learn`."""
        if self._latest is None:
            return NO_GUESS
        near = self._latest + self._step
        # Few scores are below the latest threshold, because all of them were pruned.
        return self._latest, near - 2 * self._error, near + 2 * self._error

    def learn(self, threshold):
        """Records the threshold that a ranking found.

        Args:
            threshold: Float. A value near the largest float32 is ignored, because the
                ranking took no scores or all of them.
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
    """Raises an error if the backend's integers cannot count the weights.

    Args:
        num_weights: Number of weights that are ranked together.

    Raises:
        ValueError: If counts are int32 and `num_weights` is 2^31 or more.
    """
    if num_weights >= 2**31 and count_dtype() == "int32":
        raise ValueError(
            f"{keras.backend.backend()} counts in 32 bits, so at most 2^31 - 1 weights "
            "can be ranked together. Use allocation 'erk' or 'uniform', or prune the "
            f"model in parts by `local_configs`. Received: {num_weights} weights"
        )


def rank_jointly(scores, demand, guess=NO_GUESS, call=call_directly):
    """Counts how many scores of each tensor are among the lowest of all tensors.

    It ranks all scores together and takes the lowest until their groups hold
    `demand.target` weights. Each tensor stays within its bounds, and the others make up
    for a capped tensor. Ties are taken tensor by tensor. If groups differ in size and
    the target falls inside a group, that group is taken if this comes nearer to it.

    Args:
        scores: List of float tensors, finite.
        demand: `DemandTensors`.
        guess: See `find_bracket`.
        call: See `find_bracket`.

    Returns:
        Tuple of an int tensor (tensors,), the groups to take from each; of the
        `Bracket` of all; and of the threshold, a float32 tensor ().

    Example:

    >>> scores = [ops.array([[1.0, 2.0, 7.0, 8.0]]), ops.array([[3.0, 4.0, 5.0, 6.0]])]
    >>> demand = demand_of(5, sizes=[1, 1], lower=[0, 0], upper=[4, 4])
    >>> counts, _, threshold = rank_jointly(scores, demand)
    >>> ops.convert_to_numpy(counts).tolist()  # 1, 2 and 3, 4, 5
    [2, 3]
    """
    bracket = find_bracket(scores, demand, guess, call)
    dtype = dtype_of(scores[0])
    counts, threshold = call(_divide, bracket, demand, dtype=dtype)
    return counts, bracket, threshold


def cuts_of(scores, counts, bracket, call=call_directly):
    """Returns the `Cut` of each tensor for a ranking's bracket.

    Outside a trace it searches only tensors that a bound limited or that have ties to
    cut. Inside a trace it cannot read the counts. The cuts are then right only if no
    bound limited a tensor; see `is_unbounded`.

    Args:
        scores: See `rank_jointly`.
        counts: Counts from `rank_jointly`.
        bracket: `Bracket` from `rank_jointly`.
        call: See `rank_jointly`.
    """
    if not call.sees_numbers:
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
            found = find_bracket([score], alone, call=call)
            own = Bracket(*map(ops.convert_to_numpy, found))
        if count == own.reached[0]:
            cut = Cut(own.low, own.high, np.array(size - 1, "int32"))
        elif count == own.below[0]:
            cut = Cut(own.low, own.high, np.array(-1, "int32"))
        else:
            own = Bracket(*map(ops.convert_to_tensor, own))
            k = ops.convert_to_tensor(count, dtype=count_dtype())
            cut = call(cut_ties, score, own, k)
        cuts.append(cut)
    return cuts


def is_unbounded(counts, bracket):
    """Returns whether no bound limited a tensor in a ranking, as a bool tensor ().

    Args:
        counts: Counts from `rank_jointly`.
        bracket: `Bracket` from `rank_jointly`.
    """
    is_inside = ops.logical_and(bracket.below <= counts, counts <= bracket.reached)
    return ops.all(is_inside)


def _serves(bracket, count):
    """Returns whether a bracket determines the `count` lowest scores of one tensor."""
    low, high, below, reached = (int(number.item()) for number in bracket)
    return below <= count <= reached and (count in (below, reached) or high - low == 1)


def _divide(bracket, demand, dtype):
    """Returns the groups to take from each tensor, (tensors,), and the threshold."""
    below = ops.clip(bracket.below, demand.lower, demand.upper)
    available = ops.clip(bracket.reached, demand.lower, demand.upper)
    missing = demand.target - ops.sum(below * demand.sizes)
    taken, count = [], below.shape[0]
    parts = (demand.sizes, available - below, below)
    for size, room, start in zip(*(ops.unstack(p, count) for p in parts), strict=True):
        # Rounds to the nearest number of groups; a tie goes to the smaller one.
        wanted = ops.maximum(missing + (size - 1) // 2, 0) // size
        extra = ops.minimum(room, wanted)
        missing = missing - extra * size
        taken.append(start + extra)
    return ops.stack(taken), values_of(bracket.high, dtype)

"""Chooses how many channels each group loses."""

import heapq
import math

import numpy as np

from keras_pruner.oneshot import lower_hull

# Steps in which a group is divided at most.
_MOST_LEVELS = 128


def choose_counts(curves, cost, budget, *, most=None, multiples=None):
    """Removes channels where the error grows least for the cost that it saves.

    It starts from the whole model. Each step takes from one group the next channels on
    the lower convex hull of its curve: from the group with the smallest

        (rise of the error) / (cost saved, with what the other groups have lost)

    until the cost is at most the budget. Errors of groups are taken to add up.

    Args:
        curves: Dict from the name of a group of n channels to n + 1 errors: that of
            losing 0, 1, ... n channels.
        cost: Function from a dict of counts of removed channels to a number. It never
            rises with a count.
        budget: Highest cost.
        most: Dict from names to the most channels to remove; by default all except one.
        multiples: Dict from names to numbers; a group keeps a multiple of its number of
            channels, or all of them. By default 1.

    Returns:
        Dict from each name to a count. The cost may stay above the budget if no group
        can lose more.

    Example:

    Each channel costs 1; group "a" loses two channels before "b" loses one:

    >>> curves = {"a": [0, 0.1, 0.2, 0.9], "b": [0, 0.3, 0.6, 0.9]}
    >>> choose_counts(curves, lambda counts: 6 - sum(counts.values()), budget=4)
    {'a': 2, 'b': 0}
    >>> choose_counts(curves, lambda counts: 6 - sum(counts.values()), budget=3)
    {'a': 2, 'b': 1}
    """
    most, multiples = most or {}, multiples or {}
    counts = dict.fromkeys(curves, 0)
    levels = {}
    for name, curve in curves.items():
        limit = min(most.get(name, len(curve) - 2), len(curve) - 2)
        levels[name] = _levels(curve, limit, multiples.get(name, 1))
    errors = {name: float(curve[0]) for name, curve in curves.items()}
    now = cost(counts)
    # A rate that was computed before may have risen since: it is looked at again.
    heap = [(0.0, name) for name in curves if levels[name]]
    while now > budget and heap:
        _, name = heapq.heappop(heap)
        rate, after = _rate(name, levels, counts, errors, cost, now)
        if heap and rate > heap[0][0]:
            if rate < math.inf:
                heapq.heappush(heap, (rate, name))
            continue
        if rate == math.inf:
            continue
        (counts[name], errors[name]), now = levels[name].pop(0), after
        if levels[name]:
            rate, _ = _rate(name, levels, counts, errors, cost, now)
            heapq.heappush(heap, (rate, name))
    return counts


def _levels(curve, limit, multiple):
    """Returns `(count, error)` for rising counts, with the errors of the lower hull.

    Between the corners of the hull, channels go one by one or in equal steps, so that
    the cost comes near to the budget.
    """
    size = len(curve) - 1
    allowed = [n for n in range(1, limit + 1) if (size - n) % multiple == 0]
    if not allowed:
        return []
    hull = lower_hull([(0, float(curve[0])), *((n, float(curve[n])) for n in allowed)])
    counts = allowed[:: -(-len(allowed) // _MOST_LEVELS)]
    counts = sorted({*counts, *(count for count, _ in hull[1:])})
    errors = np.interp(counts, *zip(*hull, strict=True))
    return list(zip(counts, errors.tolist(), strict=True))


def _rate(name, levels, counts, errors, cost, now):
    """Returns the error for each unit of cost of a group's next level, and the cost."""
    count, error = levels[name][0]
    after = cost({**counts, name: count})
    rise = error - errors[name]
    return (rise / (now - after) if after < now else math.inf), after

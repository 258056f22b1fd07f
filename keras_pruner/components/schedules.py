"""Schedules: how sparsity grows from a first to a last step.

A `Schedule` is the shape of the curve alone, a pure function of progress in [0, 1].
A `PruningScheduler` places it on the step axis and says when masks are updated.
Steps count applied optimizer updates. Sparsities are Python floats, computed in double
precision, so that the counts that follow from them are exact.
"""

import math

from keras_pruner.checks import check_in_range
from keras_pruner.registry import Component, Registry


class Schedule(Component):
    """Shape of the curve between an initial and a final sparsity."""

    def sparsity(self, progress, initial, target):
        """Returns the sparsity at one point of the way.

        Args:
            progress: Float in [0, 1]: `(step - begin) / (end - begin)`, clipped.
            initial: Sparsity at progress 0, in [0, 1).
            target: Sparsity at progress 1, in [0, 1).

        Returns:
            Float in [0, 1).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `sparsity`.")


SCHEDULES = Registry("schedule", Schedule)


register_schedule = SCHEDULES.register


@register_schedule("polynomial")
class Polynomial(Schedule):
    """`s = target + (initial - target) * (1 - p)^power`: fast at first, then slow.

    Args:
        power: Positive float. 3 is the published curve.

    References:
        [To prune, or not to prune, Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    def __init__(self, power=3.0):
        self.power = check_in_range(power, "`power`", 0, open_low=True)

    def sparsity(self, progress, initial, target):
        return target + (initial - target) * (1.0 - progress) ** self.power

    def get_config(self):
        return {"power": self.power}


@register_schedule("linear")
class Linear(Schedule):
    """`s = initial + (target - initial) * p`."""

    def sparsity(self, progress, initial, target):
        return initial + (target - initial) * progress


@register_schedule("cos")
class Cosine(Schedule):
    """`s = initial + (target - initial) * (1 - cos(pi p / 2))`: slow, then fast."""

    def sparsity(self, progress, initial, target):
        return initial + (target - initial) * (1.0 - math.cos(math.pi * progress / 2))


@register_schedule("exp")
class Exponential(Schedule):
    """`s = 1 - (1 - initial) * ((1 - target) / (1 - initial))^p`.

    Every step removes the same share of the weights that are left.
    """

    def sparsity(self, progress, initial, target):
        return 1.0 - (1.0 - initial) * ((1.0 - target) / (1.0 - initial)) ** progress


@register_schedule("cube")
class Cube(Schedule):
    """`s = initial + (target - initial) * p^3`: the slow start of Intel's pruner."""

    def sparsity(self, progress, initial, target):
        return initial + (target - initial) * progress**3


@register_schedule("constant", "oneshot")
class Constant(Schedule):
    """`s = target` from the first update on."""

    def sparsity(self, progress, initial, target):
        return target

"""Schedules say how sparsity grows from a first to a last step.

A `Schedule` is the shape of the curve, a pure function of progress in [0, 1].
A `PruningScheduler` places it on the step axis and says when masks are updated.
Sparsities are Python floats in double precision, so counts of groups are exact.
"""

import math
from typing import Any

from keras_pruner.checks import check_in_range
from keras_pruner.registry import Component, Registry
from keras_pruner.types import Tensor


class Schedule(Component):
    """Defines a curve from an initial to a final sparsity.

    Example:

    >>> for name in ("polynomial", "linear", "cos", "exp", "cube", "constant"):
    ...     curve = SCHEDULES.get(name)
    ...     values = [curve.sparsity(p, 0.0, 0.9) for p in (0, 0.25, 0.5, 0.75, 1)]
    ...     print(name, [round(value, 4) for value in values])
    polynomial [0.0, 0.5203, 0.7875, 0.8859, 0.9]
    linear [0.0, 0.225, 0.45, 0.675, 0.9]
    cos [0.0, 0.0685, 0.2636, 0.5556, 0.9]
    exp [0.0, 0.4377, 0.6838, 0.8222, 0.9]
    cube [0.0, 0.0141, 0.1125, 0.3797, 0.9]
    constant [0.9, 0.9, 0.9, 0.9, 0.9]
    """

    def sparsity(self, progress: Tensor, initial: Any, target: Any) -> Tensor:
        """Returns the sparsity at one point of the curve.

        Args:
            progress: Float in [0, 1]: `(step - begin) / (end - begin)`, clipped.
            initial: Sparsity at progress 0, in [0, 1).
            target: Sparsity at progress 1, in [0, 1).

        Returns:
            Float in [0, 1).
        """
        raise NotImplementedError(f"{type(self).__name__} must define `sparsity`.")

    def own_scheduler(self) -> Any:
        """Returns a new `PruningScheduler` if the schedule chooses the update steps.

        Most schedules return `None`, and the config says when masks are updated.
        """
        return None


SCHEDULES = Registry("schedule", Schedule)


register_schedule = SCHEDULES.register


@register_schedule("polynomial")
class Polynomial(Schedule):
    """Prunes fast at first, then slowly.

    `s = target + (initial - target) * (1 - p)^power`

    Args:
        power: Positive float. The paper uses 3.

    References:
        [To prune, or not to prune, Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

    def __init__(self, power: float = 3.0) -> None:
        self.power = check_in_range(power, "`power`", 0, open_low=True)

    def sparsity(self, progress: Tensor, initial: Any, target: Any) -> Tensor:
        return target + (initial - target) * (1.0 - progress) ** self.power

    def get_config(self) -> dict[str, Any]:
        return {"power": self.power}


@register_schedule("linear")
class Linear(Schedule):
    """Prunes at a constant rate: `s = initial + (target - initial) * p`."""

    def sparsity(self, progress: Tensor, initial: Any, target: Any) -> Tensor:
        return initial + (target - initial) * progress


@register_schedule("cos")
class Cosine(Schedule):
    """Prunes slowly at first, then fast.

    `s = initial + (target - initial) * (1 - cos(pi p / 2))`
    """

    def sparsity(self, progress: Tensor, initial: Any, target: Any) -> Tensor:
        return initial + (target - initial) * (1.0 - math.cos(math.pi * progress / 2))


@register_schedule("exp")
class Exponential(Schedule):
    """Prunes the same share of the remaining weights at every step, or less and less.

    `s = 1 - (1 - initial) * ((1 - target) / (1 - initial))^(1 - (1 - p)^power)`

    So the logarithm of the density falls as a polynomial.

    Args:
        power: Positive float. With 1 the share is the same at every step; with more it
            is larger at first and smaller at the end, when the last weights go.
    """

    def __init__(self, power: float = 1.0) -> None:
        self.power = check_in_range(power, "`power`", 0, open_low=True)

    def sparsity(self, progress: Tensor, initial: Any, target: Any) -> Tensor:
        done = progress if self.power == 1 else 1.0 - (1.0 - progress) ** self.power
        return 1.0 - (1.0 - initial) * ((1.0 - target) / (1.0 - initial)) ** done

    def get_config(self) -> dict[str, Any]:
        return {"power": self.power}


@register_schedule("cube")
class Cube(Schedule):
    """Starts slowly, as Intel's pruner: `s = initial + (target - initial) * p^3`."""

    def sparsity(self, progress: Tensor, initial: Any, target: Any) -> Tensor:
        return initial + (target - initial) * progress**3


@register_schedule("constant", "oneshot")
class Constant(Schedule):
    """Prunes to the target at the first update: `s = target`."""

    def sparsity(self, progress: Tensor, initial: Any, target: Any) -> Tensor:
        return target

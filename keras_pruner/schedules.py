"""Schedules: how sparsity grows from a first to a last step.

A `Schedule` is the shape of the curve alone, a pure function of progress in [0, 1].
A `PruningScheduler` places it on the step axis and says when masks are updated.
Steps count applied optimizer updates. Sparsities are Python floats, computed in double
precision, so that the counts that follow from them are exact.
"""

import dataclasses
import math

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
        if not power > 0:
            raise ValueError(f"`power` must be positive. Received: power={power}")
        self.power = float(power)

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


class PruningScheduler:
    """A schedule on the step axis.

    Masks are updated at `begin, begin + frequency, ...`, never after `end`. The last
    of these steps takes exactly the target, also where `end - begin` is no multiple of
    `frequency`; `begin == end` is pruning in one shot.

    Args:
        schedule: `Schedule`.
        initial: Sparsity at `begin`, in [0, 1).
        target: Sparsity at the last update, in [0, 1), not below `initial`.
        begin: First step with an update, counted in optimizer updates, >= 0.
        end: Step that no update comes after, >= `begin`.
        frequency: Steps between updates, >= 1.
    """

    def __init__(self, schedule, *, initial, target, begin, end, frequency):
        if not 0 <= begin <= end:
            raise ValueError(
                "Pruning needs 0 <= begin_step <= end_step. "
                f"Received: begin_step={begin}, end_step={end}"
            )
        if frequency < 1:
            raise ValueError(
                f"`frequency` must be >= 1 step. Received: frequency={frequency}"
            )
        self.schedule = schedule
        self.initial = initial
        self.target = target
        self.begin = begin
        self.end = end
        self.frequency = frequency

    @property
    def last_update(self):
        """Step of the last mask update, where the target is reached."""
        whole = (self.end - self.begin) // self.frequency
        return self.begin + whole * self.frequency

    def __call__(self, step):
        """Returns the sparsity that an update at `step` asks for."""
        if step < self.begin:
            return 0.0
        if step >= self.last_update:
            return self.target
        progress = (step - self.begin) / (self.end - self.begin)
        return self.schedule.sparsity(progress, self.initial, self.target)

    def is_update_step(self, step):
        """Returns whether masks are updated when `step` updates have been applied."""
        inside = self.begin <= step <= self.end
        return inside and (step - self.begin) % self.frequency == 0

    def next_update(self, after):
        """Returns the first update step > `after`, or `None` when there is none."""
        if after < self.begin:
            return self.begin
        step = after - (after - self.begin) % self.frequency + self.frequency
        return step if step <= self.end else None

    def latest_update(self, until):
        """Returns the last update step <= `until`, or `None` before the first."""
        if until < self.begin:
            return None
        until = min(until, self.last_update)
        return until - (until - self.begin) % self.frequency

    def __repr__(self):
        return (
            f"PruningScheduler({self.schedule!r}, {self.initial:g} -> {self.target:g}, "
            f"steps {self.begin}..{self.end} every {self.frequency})"
        )


@dataclasses.dataclass(frozen=True)
class Pace:
    """How a pruner likes its steps where the user left them open.

    Args:
        end: Pair (a, b): the last update comes after a / b of the run.
        num_updates: About how many updates there are.
        most_apart: Most steps between two updates, or `None`.
    """

    end: tuple = (3, 4)
    num_updates: int = 100
    most_apart: int | None = 100


def derive_steps(total, begin=0, end=None, frequency=None, pace=Pace()):  # noqa: B008
    """Chooses the steps that a user left open, for a run of known length.

    Unless the pace says otherwise, pruning ends after three quarters of the steps that
    follow `begin`, which leaves a quarter to fine-tune; there are about a hundred
    updates, at most 100 steps apart.

    Args:
        total: Step at which the run ends; read only if `end` is `None`.
        begin: Step of the first update.
        end: Step of the last update, or `None`.
        frequency: Steps between updates, or `None`.
        pace: `Pace`.

    Returns:
        Tuple of integers `(begin, end, frequency)`.
    """
    if end is None:
        part, whole = pace.end
        end = begin + max(0, total - begin) * part // whole
    if frequency is None:
        frequency = max(1, (end - begin) // pace.num_updates)
        if pace.most_apart is not None:
            frequency = min(pace.most_apart, frequency)
    return begin, end, frequency

"""Decides at which steps masks are updated, and to which sparsity."""

import dataclasses

from keras_pruner.components import Schedule


class PruningScheduler:
    """Places a schedule on the step axis.

    Masks are updated at `begin, begin + frequency, ...`, never after `end`. The last
    of these steps reaches exactly the target, also when `end - begin` is no multiple
    of `frequency`. If `begin == end`, pruning is one-shot.

    Args:
        schedule: `Schedule`.
        initial: Sparsity at `begin`, in [0, 1).
        target: Sparsity at the last update, in [0, 1), not below `initial`.
        begin: First step with an update, counted in optimizer updates, >= 0.
        end: Step after which no update comes, >= `begin`.
        frequency: Steps between updates, >= 1.

    Example:

    >>> schedule = SCHEDULES.get("polynomial")
    >>> scheduler = PruningScheduler(
    ...     schedule, initial=0.0, target=0.8, begin=10, end=45, frequency=10
    ... )
    >>> steps = [10, 20, 30, scheduler.last_update]
    >>> [(step, round(scheduler(step), 3)) for step in steps]
    [(10, 0.0), (20, 0.508), (30, 0.737), (40, 0.8)]
    >>> scheduler.next_update(9), scheduler.next_update(10), scheduler.next_update(40)
    (10, 20, None)
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        initial: float,
        target: float,
        begin: int,
        end: int,
        frequency: int,
    ) -> None:
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
    def last_update(self) -> int:
        """Step of the last mask update, which reaches the target."""
        whole = (self.end - self.begin) // self.frequency
        return self.begin + whole * self.frequency

    def __call__(self, step: int) -> float:
        """Returns the sparsity of an update at `step`."""
        if step < self.begin:
            return 0.0
        if step >= self.last_update:
            return self.target
        progress = (step - self.begin) / (self.end - self.begin)
        return self.schedule.sparsity(progress, self.initial, self.target)

    def next_update(self, after: int) -> int | None:
        """Returns the first update step > `after`, or `None` if there is none."""
        if after < self.begin:
            return self.begin
        step = after - (after - self.begin) % self.frequency + self.frequency
        return step if step <= self.end else None

    def latest_update(self, until: int) -> int | None:
        """Returns the last update step <= `until`, or `None` before the first."""
        if until < self.begin:
            return None
        until = min(until, self.last_update)
        return until - (until - self.begin) % self.frequency

    def __repr__(self) -> str:
        return (
            f"PruningScheduler({self.schedule!r}, {self.initial:g} -> {self.target:g}, "
            f"steps {self.begin}..{self.end} every {self.frequency})"
        )


@dataclasses.dataclass(frozen=True)
class Pace:
    """Holds a pruner's defaults for the steps that the user leaves open.

    Args:
        end: Pair (a, b): the last update comes after a / b of the run.
        num_updates: Approximate number of updates.
        max_steps_apart: Most steps between two updates, or `None`.
    """

    end: tuple = (3, 4)
    num_updates: int = 100
    max_steps_apart: int | None = 100


def derive_steps(
    total,
    begin=0,
    end=None,
    frequency=None,
    pace=Pace(),  # noqa: B008
    latest_end=None,
):
    """Chooses the steps that a user left open, for a run of known length.

    By default, pruning ends after three quarters of the steps that follow `begin`,
    which leaves a quarter to fine-tune. About a hundred updates are at most 100 steps
    apart.

    Args:
        total: Step at which the run ends; read only if `end` is `None`.
        begin: Step of the first update.
        end: Step of the last update, or `None`.
        frequency: Steps between updates, or `None`.
        pace: `Pace`.
        latest_end: Step at which an open `end` comes at the latest, or `None`.

    Returns:
        Tuple of integers `(begin, end, frequency)`.

    Example:

    >>> derive_steps(1000)
    (0, 750, 7)
    >>> derive_steps(1000, begin=200, frequency=50)
    (200, 800, 50)
    >>> derive_steps(1000, latest_end=500)
    (0, 500, 5)
    >>> derive_steps(100_000)
    (0, 75000, 100)
    """
    if end is None:
        part, whole = pace.end
        end = begin + max(0, total - begin) * part // whole
        if latest_end is not None:
            end = max(begin, min(end, latest_end))
    if frequency is None:
        frequency = max(1, (end - begin) // pace.num_updates)
        if pace.max_steps_apart is not None:
            frequency = min(pace.max_steps_apart, frequency)
    return begin, end, frequency

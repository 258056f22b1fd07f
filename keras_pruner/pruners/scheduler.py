"""A schedule on the step axis: when masks are updated, and to which sparsity."""

import dataclasses


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
    max_steps_apart: int | None = 100


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
        if pace.max_steps_apart is not None:
            frequency = min(pace.max_steps_apart, frequency)
    return begin, end, frequency

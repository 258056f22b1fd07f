"""Expresses the arguments of tfmot as a `PruningConfig` of this package."""

from keras import ops

from keras_pruner.compat.tfmot.pruning_schedule import ConstantSparsity, PolynomialDecay
from keras_pruner.components import Schedule, Uniform
from keras_pruner.config import PruningConfig
from keras_pruner.pruners import PruningScheduler

# A step that no run reaches.
_NEVER = 2**31 - 1


class EachKernel(Uniform):
    """Prunes every kernel to the same sparsity; each keeps at least one group."""

    name = "each_kernel"
    keeps_total = False


class Repeated(Schedule):
    """Prunes to one sparsity again and again.

    Args:
        target: Sparsity of every update, in [0, 1).
        begin: Step of the first update.
        end: Last possible step of an update.
        frequency: Steps between two updates.
    """

    name = "repeated"

    def __init__(self, target, begin, end, frequency):
        self.target = target
        self.begin = begin
        self.end = end
        self.frequency = frequency

    def sparsity(self, progress, initial, target):
        return target

    def own_scheduler(self):
        return _RepeatedSteps(
            self,
            initial=self.target,
            target=self.target,
            begin=self.begin,
            end=self.end,
            frequency=self.frequency,
        )

    def get_config(self):
        names = ("target", "begin", "end", "frequency")
        return {name: getattr(self, name) for name in names}


class _RepeatedSteps(PruningScheduler):
    @property
    def last_update(self):
        # The first update reaches the target.
        return self.begin

    def latest_update(self, until):
        if until < self.begin:
            return None
        until = min(until, self.end)
        return until - (until - self.begin) % self.frequency


class Asked(Schedule):
    """Asks a `PruningSchedule` at every step whether masks are updated, and how far.

    Args:
        pruning_schedule: `PruningSchedule`, or another function of a step.
        fixed: Sparsity of every update, in place of the schedule's; or `None`.
    """

    name = "asked"

    def __init__(self, pruning_schedule, fixed=None):
        self.pruning_schedule = pruning_schedule
        self.fixed = fixed

    def sparsity(self, progress, initial, target):
        return target

    def own_scheduler(self):
        return _AskedSteps(
            self, initial=0.0, target=0.0, begin=0, end=_NEVER, frequency=1
        )

    def get_config(self):
        asked = self.pruning_schedule
        config = asked.get_config() if hasattr(asked, "get_config") else repr(asked)
        return {"pruning_schedule": config, "fixed": self.fixed}


class _AskedSteps(PruningScheduler):
    def __init__(self, schedule, **steps):
        super().__init__(schedule, **steps)
        self._asked_until, self._due = None, None

    @property
    def last_update(self):
        # Nobody knows, so no message can say that a run ends before it.
        return self.begin

    def __call__(self, step):
        _, sparsity = self.schedule.pruning_schedule(step)
        if self.schedule.fixed is not None:
            return self.schedule.fixed
        return float(ops.convert_to_numpy(sparsity))

    def next_update(self, after):
        return after + 1

    def latest_update(self, until):
        first = until
        if self._asked_until is None or until < self._asked_until:
            # A run goes on here, or begins again.
            self._due = None
        else:
            first = self._asked_until + 1
        for step in range(first, until + 1):
            if bool(ops.convert_to_numpy(self.schedule.pruning_schedule(step)[0])):
                self._due = step
        self._asked_until = until
        return self._due


def as_pruning_config(
    pruning_schedule, block_size, block_pooling_type, sparsity_m_by_n
):
    """Returns the `PruningConfig` of a `PruneLowMagnitude`.

    Args:
        pruning_schedule: `PruningSchedule`.
        block_size: Pair of inputs and outputs of a block.
        block_pooling_type: `"AVG"` or `"MAX"`.
        sparsity_m_by_n: Pair (m, n) to prune m of n inputs, or `None`.

    Raises:
        ValueError: If a value is out of its range.
    """
    inputs, outputs = block_size
    pattern, fixed = f"{outputs}x{inputs}", None
    if sparsity_m_by_n is not None:
        zeros, among = sparsity_m_by_n
        pattern, fixed = f"{zeros}:{among}", zeros / among
    return PruningConfig(
        pattern=pattern,
        criterion="magnitude",
        allocation=EachKernel(),
        group_reduction="max" if block_pooling_type == "MAX" else "mean",
        **_steps(pruning_schedule, fixed),
    )


def _steps(schedule, fixed):
    """Returns the settings of a config that say when masks change, and how far."""
    call = type(schedule).__call__
    is_constant = call is ConstantSparsity.__call__
    is_polynomial = call is PolynomialDecay.__call__
    if is_polynomial and fixed is None and _grows(schedule):
        return {
            "target_sparsity": schedule.final_sparsity,
            "initial_sparsity": schedule.initial_sparsity,
            "begin_step": schedule.begin_step,
            "end_step": schedule.end_step,
            "frequency": schedule.frequency,
            "schedule": {"name": "polynomial", "config": {"power": schedule.power}},
        }
    if is_constant or (is_polynomial and fixed is not None):
        target = schedule.target_sparsity if fixed is None else fixed
        end = _NEVER if schedule.end_step < 0 else schedule.end_step
        own = Repeated(target, schedule.begin_step, end, schedule.frequency)
        return {
            "target_sparsity": target,
            "begin_step": schedule.begin_step,
            "end_step": end,
            "frequency": schedule.frequency,
            "schedule": own,
        }
    highest = getattr(schedule, "initial_sparsity", 0.0)
    target = fixed or max(getattr(schedule, "final_sparsity", 0.0), highest)
    return {
        "target_sparsity": target,
        "begin_step": 0,
        "end_step": _NEVER,
        "frequency": 1,
        "schedule": Asked(schedule, fixed),
    }


def _grows(decay):
    return decay.initial_sparsity <= decay.final_sparsity

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.backend import clear_slots, get_steps, moving_average_of, set_steps
from keras_pruner.checks import check_option
from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.scheduler import Pace
from keras_pruner.pruners.state import make_state
from keras_pruner.pruners.training_rule import StateSpec, TrainingRule


class _WithRewindValue(TrainingRule):
    """Keeps the weights to which training rewinds."""

    def states(self):
        spec = _spec_of(self.kernel.variable)
        # The optimizer's own step count, for learning rate schedules.
        return super().states() | {"rewind": spec, "steps": StateSpec((), "int32")}


def _spec_of(variable):
    return StateSpec(tuple(variable.shape), str(variable.dtype), "weight")


@register_pruner("lottery_ticket")
class LotteryTicket(KerasBasePruner):
    """Finds winning tickets by iterative magnitude pruning with rewinding.

    At `begin_step` it saves all trainable weights of the model: the initial weights if
    the step is 0, else early ones. Each later update prunes to the schedule's sparsity.
    The default, `"exp"`, prunes the same share of the remaining weights each time. Then
    the update restores the saved value of every remaining weight, biases included, and
    of its moving average. It empties the optimizer's slots and resets its step count.

    If steps are open, training has `num_rounds` + 1 equal parts with an update between
    any two, so that the last part trains the ticket.

    Options:
        num_rounds: Rounds of pruning, in [1, 1000], used if `end_step` or `frequency`
            is open. Defaults to 5; never more than the number of steps.

    References:
        [The lottery ticket hypothesis, Frankle & Carbin,
        2019](https://arxiv.org/abs/1803.03635); rewinding to early weights [Frankle et
        al., 2020](https://arxiv.org/abs/1912.05671)
    """

    rule_class = _WithRewindValue
    default_criterion = "magnitude"
    default_schedule = "exp"
    default_options = {"num_rounds": 5}  # noqa: RUF012
    takes_whole_model = True
    rewinds_schedule = True

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        check_option(options, "num_rounds", 1, 1000, integer=True)

    def build(self) -> None:
        super().build()
        kernels = {id(kernel.variable) for kernel in self.kernels}
        self._others = [
            (variable, {"rewind": make_state(variable, "rewind", _spec_of(variable))})
            for variable in trainable_variables(self.modules)
            if id(variable) not in kernels
        ]

    @property
    def pace(self) -> Any:
        rounds = self.options["num_rounds"]
        return Pace((rounds, rounds + 1), num_updates=rounds, max_steps_apart=None)

    def schedule_steps(
        self, total_steps: int | None = None, first_step: int = 0
    ) -> None:
        # Rewinding sets the schedule of the learning rate back, too.
        self.latest_end = None
        super().schedule_steps(total_steps, first_step)
        if None in (self.config.end_step, self.config.frequency):
            # A short run has room for more updates than there are rounds.
            scheduler = self.scheduler
            rounds = self.options["num_rounds"] * scheduler.frequency
            scheduler.end = min(scheduler.end, scheduler.begin + rounds)

    def extra_states(self) -> Any:
        return self._others

    def _all_variables(self):
        for kernel in self.kernels:
            yield kernel.variable, self.state_variables[kernel.path]["rewind"]
        for variable, states in self._others:
            yield variable, states["rewind"]

    def update_if_due(self) -> bool:
        remembers = self._updated_at < 0
        if not super().update_if_due():
            return False
        if remembers:
            for variable, rewind in self._all_variables():
                rewind.assign(ops.copy(variable))
            if self.optimizer is not None:
                for states in self.state_variables.values():
                    steps = get_steps(self.optimizer)
                    states["steps"].assign(ops.cast(steps, "int32"))
        else:
            self.rewind()
        return True

    def rewind(self) -> None:
        """Restores weights, averages and step count, and empties optimizer slots."""
        for variable, rewind in self._all_variables():
            variable.assign(ops.copy(rewind))
        self.apply_masks()
        optimizer = self.optimizer
        if optimizer is None:
            return
        for variable, rewind in self._all_variables():
            clear_slots(optimizer, variable)
            average = moving_average_of(optimizer, variable)
            if average is not None:
                average.assign(ops.copy(rewind))
        set_steps(optimizer, next(iter(self.state_variables.values()))["steps"])


def trainable_variables(modules):
    """Returns the trainable variables of all members of `modules`, each once."""
    members = modules.values() if isinstance(modules, dict) else [modules]
    found = {}
    for member in members:
        # A `Kernel` or a variable has none.
        for variable in getattr(member, "trainable_variables", ()):
            found[id(variable)] = variable
    return list(found.values())

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.checks import check_option
from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.masks import (
    HIGHEST_SCORE,
    UnitResult,
    scores_are_pooled,
    select_lowest,
)
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.scheduler import PruningScheduler
from keras_pruner.pruners.training_rule import StateSpec, TrainingRule


class _WithGoal(TrainingRule):
    """Keeps the goal: the mask that the updates approach."""

    def states(self):
        shape = tuple(self.kernel.variable.shape)
        return super().states() | {"goal": StateSpec(shape, "bool", "ones")}


@register_pruner("progressive")
class Progressive(KerasBasePruner):
    """Moves from one structured mask to the next in unstructured steps.

    A structured update chooses the groups to prune until the next one: the goal. Then
    `num_sub_steps` equally spaced updates prune the leaving weights one by one, lowest
    score first and the same share each time. The last of them is the next structured
    update, which reaches the goal exactly. So a block or channel fades out instead of
    vanishing. Structured updates are `frequency` steps apart, rounded down to a
    multiple of `num_sub_steps`. Between two of them, sparsity is between their values.

    Options:
        num_sub_steps: Sub-steps from one structured mask to the next, in [1, 1000].
            Defaults to 4; never more than `frequency`.

    References:
        Intel Neural Compressor's progressive pruner.
    """

    takes_overlaps = False
    rule_class = _WithGoal
    default_criterion = "magnitude"
    default_options = {"num_sub_steps": 4}  # noqa: RUF012
    masks_in_update = True
    states_in_update = ("goal",)
    # Number of the sub-step that an update makes, or `None` for one outside of the
    # schedule, which makes its structured mask directly.
    _sub_step = None
    _num_sub_steps = 1

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        check_option(options, "num_sub_steps", 1, 1000, integer=True)
        if config.pattern.is_unstructured:
            raise ValueError(
                "Pruner 'progressive' goes between structured masks, and pattern '1x1' "
                "has none. Use pruning_type 'basic', or a pattern of blocks, channels, "
                "heads or n:m."
            )

    def schedule_steps(
        self, total_steps: int | None = None, first_step: int = 0
    ) -> None:
        super().schedule_steps(total_steps, first_step)
        whole = self.scheduler
        self._num_sub_steps = min(self.options["num_sub_steps"], whole.frequency)
        frequency = whole.frequency // self._num_sub_steps
        interval = frequency * self._num_sub_steps
        length = (whole.end - whole.begin) // interval * interval
        self.scheduler = PruningScheduler(
            whole.schedule,
            initial=whole.initial,
            target=whole.target,
            begin=whole.begin,
            end=whole.begin + length,
            frequency=frequency,
        )

    def update_if_due(self) -> bool:
        self.order.look()
        # One update chooses a goal and another reaches it, so none is skipped.
        updated = False
        while True:
            due = self._first_due()
            if due is None:
                return updated
            scheduler = self.scheduler
            if scheduler.begin < scheduler.end:
                if due == scheduler.begin and scheduler.initial > 0:
                    # The initial sparsity is no goal to fade to.
                    self.update_masks(scheduler.initial)
                self._sub_step = (due - scheduler.begin) // scheduler.frequency
            try:
                self.update_masks(self._goal_at(due))
            finally:
                self._sub_step = None
            self._set_updated_at(due)
            updated = True

    def sparsity_at(self, step: int) -> float:
        scheduler = self.scheduler
        interval = scheduler.frequency * self._num_sub_steps
        passed, part = divmod(step - scheduler.begin, interval)
        start = scheduler(scheduler.begin + passed * interval)
        # Every sub-step prunes the same share of the leaving weights.
        return start + (self._goal_at(step) - start) * part / interval

    def _first_due(self):
        """Returns the first due update step that was not made, or `None`."""
        if self.scheduler is None:
            return None
        due = self.scheduler.next_update(self._updated_at)
        if self._updated_at < 0:
            due = self.scheduler.begin
        return due if due is not None and due <= self.global_step else None

    def _goal_at(self, step):
        """Returns the sparsity at the structured update that follows a step."""
        interval = self.scheduler.frequency * self._num_sub_steps
        passed = (step - self.scheduler.begin) // interval
        following = self.scheduler.begin + (passed + 1) * interval
        return self.scheduler(min(following, self.scheduler.last_update))

    def update_extra(self, sparsity: float, demands: Any) -> list[dict[str, Any]]:
        parts = self._num_sub_steps
        step = 0 if self._sub_step is None else self._sub_step % parts
        extra = {
            "is_direct": ops.convert_to_tensor(self._sub_step is None),
            "is_structured": ops.convert_to_tensor(step == 0),
            # This update prunes 1 / (sub-steps left) of the weights still to leave.
            "parts_left": ops.convert_to_tensor(parts - step + 1, dtype="int32"),
        }
        return [extra for _ in self.units]

    def make_unit(self, unit: Any, inputs: Any) -> UnitResult:
        result = super().make_unit(unit, inputs)
        is_direct = inputs.extra["is_direct"]
        is_structured = inputs.extra["is_structured"]
        masks, states = [], []
        for place, scores in enumerate(self.score_unit(unit, inputs)):
            chosen = result.masks[place]
            goal = inputs.states[place]["goal"]
            partial = self._partial(
                unit.kernels[place], inputs.masks[place], goal, scores, inputs
            )
            mask = ops.where(is_structured, goal, partial)
            masks.append(ops.where(is_direct, chosen, mask))
            renewed = ops.logical_or(is_direct, is_structured)
            new_goal = ops.where(renewed, chosen, goal)
            states.append(result.states[place] | {"goal": new_goal})
        return result._replace(masks=masks, states=states)

    def _partial(self, kernel, mask, goal, scores, inputs):
        """Returns the mask after one more unstructured step towards the goal."""
        layout = kernel.layout
        if scores_are_pooled(self.config):
            scores = kernel.pattern.spread(scores, layout)
        leaving = ops.logical_and(mask, ops.logical_not(goal))
        ranked = ops.where(layout.to_matrix(leaving), scores, HIGHEST_SCORE)
        remaining = ops.sum(ops.cast(leaving, "int32"))
        count = remaining // inputs.extra["parts_left"]
        pruned = layout.from_matrix(select_lowest(ranked, count))
        return ops.logical_and(ops.logical_or(mask, goal), ops.logical_not(pruned))

    def count_pruned(self, counts: Any) -> None:
        if self._sub_step is None:
            super().count_pruned(counts)
        else:
            # Between structured masks, groups are partly pruned.
            self.refresh()

"""Defines the base of dynamic sparse training: masks move while sparsity stays."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.checks import check_option
from keras_pruner.config import PruningConfig
from keras_pruner.masks import (
    HIGHEST_SCORE,
    LOWEST_SCORE,
    UnitResult,
    are_finite,
    select_groups,
    select_lowest,
)
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.types import Tensor


class DynamicPruner(KerasBasePruner):
    """Drops the active groups that score lowest, and grows as many elsewhere.

    The first update prunes by the criterion to the schedule's sparsity, by default the
    target (`schedule="constant"`). Each later update drops `drop_fraction(step)` of
    each kernel's active groups, those of the lowest score. Then it grows inactive
    groups by `growth_scores`, the just dropped included, until it meets the schedule's
    sparsity exactly. Weights that grow, and their optimizer slots, start at zero.

    Subclasses define `growth_scores`, and `drop_fraction` if it changes.

    Args:
        config, modules: See `KerasBasePruner`.

    Options:
        drop_fraction: Share of a kernel's active groups to drop, in [0, 1].

    Raises:
        ValueError: If an option is unknown or out of range, if the pattern prunes in
            every group, or if the allocation ranks all kernels jointly.
    """

    takes_overlaps = False
    default_criterion = "magnitude"
    default_schedule = "constant"
    default_allocation = "erk"
    default_options = {"drop_fraction": 0.3}  # noqa: RUF012
    masks_in_update = True
    keeps_zeros = False
    clears_slots = True

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        check_option(options, "drop_fraction", 0, 1)
        if config.pattern.max_sparsity < 1:
            raise ValueError(
                f"Pruner '{cls.name}' moves whole groups, but pattern "
                f"'{config.pattern}' prunes in every group. Use pruning_type 'sr_ste' "
                "or 'ste' for it, or another pattern."
            )
        if config.allocation.ranks_jointly:
            raise ValueError(
                f"Pruner '{cls.name}' keeps each kernel's own number of weights, which "
                f"allocation '{config.allocation.name}' does not say. Use 'erk' or "
                "'uniform'."
            )

    def drop_fraction(self, step: int) -> float:
        """Returns the share of active groups to drop at an update.

        Args:
            step: Optimizer updates since the first mask update.
        """
        return self.options["drop_fraction"]

    def growth_scores(self, kernel: Any, states: Any, extra: Any) -> Tensor:
        """Scores the groups of one kernel for growth.

        Args:
            kernel: `Member`: its layout, its pattern and its path.
            states: Dict of the kernel's states that an update reads.
            extra: Dict of tensors from `update_extra` for the kernel's unit.

        Returns:
            Float32 tensor with one score per group; the highest grow.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `growth_scores`.")

    def update_extra(self, sparsity: float, demands: Any) -> list[dict[str, Any]]:
        fraction = 0.0
        if self._num_pruned and self.scheduler is not None:
            begin = self.scheduler.begin
            fraction = self.drop_fraction(max(0, self.global_step - begin))
        step = ops.convert_to_tensor(self.global_step % 2**31, dtype="int32")
        counts = demands["masks"].counts
        drops = [
            int(fraction * (plan.num_groups - count))
            for plan, count in zip(self.plan.kernels, counts, strict=True)
        ]
        return [
            {"drop": ops.convert_to_tensor(drop, dtype="int32"), "step": step}
            for drop in drops
        ]

    def make_unit(self, unit: Any, inputs: Any) -> UnitResult:
        count = inputs.targets["masks"]
        groups = self.group_unit(unit, inputs)
        # Pruned groups rank lowest, followed by the lowest active ones.
        is_active = self._active(unit.kernels[0], inputs)
        ranked = ops.where(is_active, groups, LOWEST_SCORE)
        free = select_lowest(ranked, count + inputs.extra["drop"])
        growth = [
            self.growth_scores(kernel, states, inputs.extra)
            for kernel, states in zip(unit.kernels, inputs.states, strict=True)
        ]
        growth = sum(growth[1:], growth[0])
        pruned = select_groups(ops.where(free, growth, HIGHEST_SCORE), inputs)
        masks = self.expand_unit(unit, inputs, pruned)
        return UnitResult(masks, [{} for _ in masks], are_finite(inputs, groups))

    def _active(self, kernel, inputs):
        mask = kernel.layout.to_matrix(ops.cast(inputs.masks[0], "float32"))
        return kernel.pattern.group_scores(mask, kernel.layout, "max") > 0

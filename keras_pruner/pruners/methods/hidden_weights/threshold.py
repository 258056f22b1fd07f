"""Defines the base of pruners that lower weights by a threshold for each kernel."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.config import PruningConfig
from keras_pruner.masks import UnitResult
from keras_pruner.pruners.keras_base import KerasBasePruner


class ThresholdPruner(KerasBasePruner):
    """Prunes the lowest scores, and lowers the other weights by a threshold.

    The threshold of a kernel is its highest pruned score. So the kept weights continue
    smoothly from zero.
    """

    takes_overlaps = False
    keeps_zeros = False
    default_criterion = "magnitude"
    default_schedule = "polynomial"
    # What the scores are, for messages.
    ranks_by = "|w|"

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        if not config.pattern.is_unstructured:
            raise ValueError(
                f"Pruner '{cls.name}' thresholds single weights and takes "
                f"pattern '1x1' only. Use another pruner for '{config.pattern}'."
            )
        if config.criterion.name != "magnitude":
            raise ValueError(
                f"Pruner '{cls.name}' ranks by {cls.ranks_by}: leave `criterion` open. "
                f"Received: criterion='{config.criterion.name}'"
            )
        if config.allocation.ranks_within_outputs:
            raise ValueError(
                f"Pruner '{cls.name}' has one threshold for a kernel, but allocation "
                f"'{config.allocation.name}' has one for each output. Use 'global', "
                "'erk' or 'uniform'."
            )

    def make_unit(self, unit: Any, inputs: Any) -> UnitResult:
        result = super().make_unit(unit, inputs)
        (scores,) = self.score_unit(unit, inputs)
        (states,) = result.states
        mask = unit.kernels[0].layout.to_matrix(result.masks[0])
        highest = ops.max(ops.where(mask, 0.0, scores))
        # Slightly more, so that rounding leaves no pruned weight above the threshold.
        return result._replace(states=[states | {"cut": highest * (1 + 2.0**-20)}])

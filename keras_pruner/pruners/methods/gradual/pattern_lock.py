from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.masks import UnitResult, are_finite
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.scheduler import PruningScheduler


@register_pruner("pattern_lock")
class PatternLock(KerasBasePruner):
    """Keeps the zeros of a model, and never adds any.

    Use it to fine-tune a sparse model: 2:4 stays 2:4, blocks stay blocks. It reads the
    zeros once, when training begins. It does not lock weights that become zero later.
    `target_sparsity`, `pattern` and steps in the config have no effect.

    Raises:
        ValueError: When training begins, if no pruned kernel has a zero.
    """

    takes_overlaps = False
    default_criterion = "magnitude"
    default_schedule = "constant"

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        if config.criterion.has_memory:
            raise ValueError(
                "Pruner 'pattern_lock' keeps zeros and scores no weights: leave "
                f"`criterion` open. Received: criterion='{config.criterion.name}'"
            )

    @property
    def target_sparsity_ratio(self) -> float:
        """Share of locked zeros; before training begins, share of zeros."""
        if self._updated_at >= 0:
            return self.current_sparsity_ratio
        zeros = sum(
            int(ops.convert_to_numpy(ops.sum(ops.cast(w == 0, "int32"))))
            for w in map(self.source_value, self.kernels)
        )
        return zeros / self.num_weights

    def schedule_steps(
        self, total_steps: int | None = None, first_step: int = 0
    ) -> None:
        target = self.target_sparsity_ratio
        self.scheduler = PruningScheduler(
            self.config.schedule,  # type: ignore[arg-type]
            initial=target,
            target=target,
            begin=0,
            end=0,
            frequency=1,
        )

    def make_unit(self, unit: Any, inputs: Any) -> UnitResult:
        masks = [weight != 0 for weight in inputs.weights]
        return UnitResult(masks, [{} for _ in masks], are_finite(inputs))

    def update_masks(self, sparsity: float | None = None) -> None:
        """Locks the current zeros; `sparsity` has no effect."""
        if self.target_sparsity_ratio == 0:
            raise ValueError(
                "Pruner 'pattern_lock' keeps the zeros of a model, but the kernels have"
                f" none: {', '.join(self.mask_variables)}. Prune it first, or load the "
                "pruned weights before `fit`."
            )
        super().update_masks(self.config.target_sparsity)

    def count_pruned(self, counts: Any) -> None:
        self.refresh()

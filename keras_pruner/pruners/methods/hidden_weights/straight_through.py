"""Defines pruners that train dense weights through a sparse model."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.checks import check_option
from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.scheduler import Pace
from keras_pruner.pruners.training_rule import TrainingRule


class _StraightThrough(TrainingRule):
    """Moves all dense weights by the gradient at the masked kernel."""

    keeps_dense = True

    def shape_gradient(self, gradient, weight, mask, state, scale):
        return gradient


class _Refined(_StraightThrough):
    """Moves all dense weights, and decays the pruned ones."""

    def shape_gradient(self, gradient, weight, mask, state, scale):
        pruned = ops.logical_not(ops.convert_to_tensor(mask))
        decay = self.options["decay"] * ops.cast(weight, "float32") * scale
        decay = ops.cast(decay, gradient.dtype)
        return gradient + ops.where(pruned, decay, ops.zeros_like(decay))


class StraightThroughPruner(KerasBasePruner):
    """Defines the base of pruners that train dense weights through masked ones.

    By default the magnitudes of the single weights of all kernels are ranked together,
    not divided by the norms of the kernels. Hidden weights do not shrink when they are
    pruned, so their norms do not show how much of a kernel is left.
    """

    takes_overlaps = False
    rule_class: type[TrainingRule] = _StraightThrough
    keeps_zeros = False
    default_criterion = "magnitude"
    default_schedule = "polynomial"

    @classmethod
    def allocation_for(cls, config: PruningConfig) -> str | None:
        scores_magnitude = getattr(config.criterion, "name", "magnitude") == "magnitude"
        if config.pattern.is_unstructured and scores_magnitude:
            return "global"
        return super().allocation_for(config)


@register_pruner("ste")
class STE(StraightThroughPruner):
    """Applies the mask forward, and ignores it backward (straight-through estimation).

    The model's kernels hold `weight * mask`, and the pruner keeps dense weights beside
    them. The gradient at the kernels moves all dense weights. So a pruned weight
    continues to learn, and returns with its learned value when its score rises. It
    needs memory for one more copy of the pruned kernels.

    References:
        [Bengio et al., 2013](https://arxiv.org/abs/1308.3432); for pruning [Dynamic
        model pruning with feedback, Lin et al.,
        2020](https://arxiv.org/abs/2006.07253)
    """


@register_pruner("sr_ste")
class SRSTE(StraightThroughPruner):
    """Trains n:m models from scratch by sparse-refined straight-through estimation.

    `gradient <- gradient + decay * (1 - mask) * weight` decays pruned weights, so that
    masks do not change back and forth. By default the target sparsity holds from the
    first update on, and updates are at most ten steps apart.

    Options:
        decay: Strength of the decay of pruned weights, in [0, 1]. Defaults to 2e-4.

    References:
        [Learning N:M fine-grained structured sparse neural networks from scratch, Zhou
        et al., 2021](https://arxiv.org/abs/2102.04010)
    """

    rule_class = _Refined
    default_schedule = "constant"
    default_options = {"decay": 2e-4}  # noqa: RUF012
    pace = Pace(num_updates=300, max_steps_apart=10)

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        check_option(options, "decay", 0, 1)

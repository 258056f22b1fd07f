from keras import ops

from keras_pruner.components.criteria.base import (
    MeanGradientCriterion,
    register_criterion,
)
from keras_pruner.types import Pool, Tensor


@register_criterion("gradient")
class Gradient(MeanGradientCriterion):
    """Scores a weight, pruned or not, by the size of its latest gradient.

    `scores = |gradient|`
    """

    default_allocation = "erk"

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        return ops.abs(gradient)

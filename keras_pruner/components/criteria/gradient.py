from keras import ops

from keras_pruner.components.criteria.base import (
    MeanGradientCriterion,
    register_criterion,
)


@register_criterion("gradient")
class Gradient(MeanGradientCriterion):
    """Scores a weight by the size of the latest gradient, also where it is pruned.

    `scores = |gradient|`
    """

    default_allocation = "erk"

    def accumulate(self, memory, weight, gradient, pool):
        return ops.abs(gradient)

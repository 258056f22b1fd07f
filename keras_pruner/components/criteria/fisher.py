from keras import ops

from keras_pruner.components.criteria.base import (
    GradientCriterion,
    check_decay,
    register_criterion,
)


@register_criterion("fisher")
class Fisher(GradientCriterion):
    """Scores a weight by the second-order effect of its removal on the loss.

    `scores = weight^2 * E[gradient^2]`

    The diagonal of the empirical Fisher matrix approximates the Hessian. The mean is a
    running mean over the steps.

    Args:
        decay: Share of the old mean that each step keeps, in [0, 1).

    References:
        [Faster gaze prediction with dense networks and Fisher pruning, Theis et al.,
        2018](https://arxiv.org/abs/1801.05787)
    """

    def __init__(self, decay=0.99):
        self.decay = check_decay(decay, "decay")

    def accumulate(self, memory, weight, gradient, pool):
        return self.decay * memory + (1 - self.decay) * ops.square(gradient)

    def scores(self, weight, kernel, memory):
        return ops.square(weight) * memory

    def get_config(self):
        return {"decay": self.decay}

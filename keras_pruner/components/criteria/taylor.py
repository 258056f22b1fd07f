from typing import Any

from keras import ops

from keras_pruner.components.criteria.base import (
    GradientCriterion,
    check_decay,
    register_criterion,
)
from keras_pruner.types import Pool, Tensor


@register_criterion("taylor")
class Taylor(GradientCriterion):
    """Scores a group by the squared first-order effect of removing all of it.

    `scores = E[(sum over the group of weight * gradient)^2]`

    The mean is a running mean over the steps. A group is a block, a channel, the part
    of a head in one kernel, or one weight if the pattern chooses single weights.

    Args:
        decay: Share of the old mean that each step keeps, in [0, 1).

    References:
        [Importance estimation for neural network pruning, Molchanov et al.,
        2019](https://arxiv.org/abs/1906.10771)
    """

    pools = True

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = check_decay(decay, "decay")

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        effect = ops.square(pool(weight * gradient))
        return self.decay * memory + (1 - self.decay) * effect

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}

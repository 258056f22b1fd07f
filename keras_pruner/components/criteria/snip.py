from typing import Any

from keras import ops

from keras_pruner.components.criteria.base import (
    MeanGradientCriterion,
    check_decay,
    register_criterion,
)
from keras_pruner.types import Pool, Tensor


@register_criterion("snip")
class Snip(MeanGradientCriterion):
    """Scores a weight by the first-order effect of its removal on the loss.

    `scores = |weight * gradient|`, with the latest gradient.

    Example:

    >>> weight = ops.convert_to_tensor([[0.5, -2.0, 0.0, 1.0], [3.0, -0.25, 1.0, -1.0]])
    >>> gradient = ops.convert_to_tensor([[4.0, 1.0, 9.0, 0.5], [0.0, 2.0, -1.0, 3.0]])
    >>> memory = Snip().accumulate(ops.zeros((2, 4)), weight, gradient, pool=None)
    >>> scores = Snip().scores(weight, kernel=None, memory=memory)
    >>> ops.convert_to_numpy(scores).tolist()
    [[2.0, 2.0, 0.0, 0.5], [0.0, 0.5, 1.0, 3.0]]

    References:
        [SNIP, Lee et al., 2019](https://arxiv.org/abs/1810.02340)
    """

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        return ops.abs(weight * gradient)


@register_criterion("snip_momentum")
class SnipMomentum(MeanGradientCriterion):
    """Scores by a decaying sum of SNIP's scores, as Intel Neural Compressor does.

    `scores <- decay * scores + |weight * gradient|`

    Args:
        decay: Share of the old score that each step keeps, in [0, 1).
    """

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = check_decay(decay, "decay")

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        return self.decay * memory + ops.abs(weight * gradient)

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}

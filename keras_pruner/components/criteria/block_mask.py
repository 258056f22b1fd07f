from typing import Any

from keras import ops

from keras_pruner.components.criteria.base import (
    GradientCriterion,
    check_decay,
    register_criterion,
)
from keras_pruner.types import Pool, Tensor


@register_criterion("block_mask")
class BlockMask(GradientCriterion):
    """Scores a group by the loss gradient of a mask that multiplies the whole group.

    `scores <- decay * scores + |dL/dmask|`, and at mask 1
    `dL/dmask = sum over the group of weight * gradient`.

    Args:
        decay: Share of the old score that each step keeps, in [0, 1).

    References:
        Intel Neural Compressor's block mask pruner.
    """

    pools = True
    has_pruner = True

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = check_decay(decay, "decay")

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        return self.decay * memory + ops.abs(pool(weight * gradient))

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}

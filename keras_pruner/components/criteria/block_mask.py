from keras import ops

from keras_pruner.components.criteria.base import (
    GradientCriterion,
    check_decay,
    register_criterion,
)


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

    def __init__(self, decay=0.9):
        self.decay = check_decay(decay, "decay")

    def accumulate(self, memory, weight, gradient, pool):
        return self.decay * memory + ops.abs(pool(weight * gradient))

    def get_config(self):
        return {"decay": self.decay}

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_pruner.components.criteria.base import GradientCriterion, register_criterion
from keras_pruner.kernels import ScoredKernel
from keras_pruner.types import Pool, Tensor


@register_criterion("retrain_free")
class RetrainFree(GradientCriterion):
    """Scores channels by the Fisher information of their masks.

    `F = sum over batches of v v^T`, with `v = dL/dmask` of the kernel's channels, and
    `scores = diag(F)`. The memory is the whole matrix, C^2 numbers for C channels,
    because the pruner of the same name rearranges the masks by it.

    References:
        [A fast post-training pruning framework for transformers, Kwon et al.,
        2022](https://arxiv.org/abs/2204.09656)
    """

    pools = True
    has_pruner = True
    default_allocation = "global"

    def check(self, config: Any) -> None:
        if config.pattern.chooses_weights:
            raise ValueError(
                "Criterion 'retrain_free' keeps a number for each pair of groups, so "
                "it needs whole groups: use pattern 'channelx1', '1xchannel' or 'mha'. "
                f"Received: pattern='{config.pattern}'"
            )

    def memory_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        size = 1
        for length in shape:
            size *= length
        return (size, size)

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        effect = ops.reshape(pool(weight * gradient), (-1,))
        return memory + ops.expand_dims(effect, 1) * ops.expand_dims(effect, 0)

    def scores(self, weight: Tensor, kernel: ScoredKernel, memory: Tensor) -> Tensor:
        return ops.diagonal(memory)

from typing import Any

from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.components.criteria.base import (
    Criterion,
    GradientCriterion,
    check_decay,
    register_criterion,
)
from keras_pruner.kernels import ScoredKernel
from keras_pruner.types import Pool, Tensor


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

    def __init__(self, decay: float = 0.99) -> None:
        self.decay = check_decay(decay, "decay")

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        return self.decay * memory + (1 - self.decay) * ops.square(gradient)

    def scores(self, weight: Tensor, kernel: ScoredKernel, memory: Tensor) -> Tensor:
        return ops.square(weight) * memory

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}


@register_criterion("second_moment")
class SecondMoment(Criterion):
    """Scores between `Magnitude` and `Fisher`, by a slot of the optimizer.

    `scores = weight^2 * sqrt(v + damping * mean(v))`

    `v` is the running mean of squared gradients that Adam, AdamW, Nadam, Lamb,
    RMSprop, Adadelta, Adafactor and others keep, without its bias. `mean(v)` is the
    mean over all pruned kernels, zeros included. So the criterion needs no memory, and
    no work in the training step.

    Kernels are compared as `"global_l2"` does: scores are divided by the L2 norm of
    the kernel. Without damping, their order is that of the geometric mean of
    `(weight / norm)^2`, by which magnitudes are ranked, and `weight^2 * v`, the score
    of `Fisher`. The root halves the error of `v`, which is a mean of few gradients,
    on the scale of logarithms. The damping keeps large weights whose gradient is zero.

    Magnitude stands in until the optimizer has taken ten steps, and if it lacks the
    slot for any kernel.

    Args:
        damping: Share of the mean that is added to `v`, >= 0.

    References:
        [Fishers for free?, Li et al., 2025](https://arxiv.org/abs/2507.18807)
    """

    needs = "second_moment"

    def __init__(self, damping: float = 0.1) -> None:
        self.damping = check_in_range(damping, "`damping`", 0)

    def scores(
        self, weight: Tensor, kernel: ScoredKernel, memory: Tensor, mean: Tensor
    ) -> Tensor:
        """Scores one kernel.

        Args:
            weight: Float32 tensor: the kernel's matrix, of shape (K, N).
            kernel: `Kernel` to score; only its path and layout may be read.
            memory: Float32 tensor (K, N): the kernel's second moments.
            mean: Float32 tensor (): their mean over all kernels.

        Returns:
            Float32 tensor of shape (K, N).
        """
        # Not over the mean, which would change no order: XLA merges two divisions that
        # follow each other, and rounds differently.
        return ops.square(weight) * ops.sqrt(memory + self.damping * mean)

    def get_config(self) -> dict[str, Any]:
        return {"damping": self.damping}

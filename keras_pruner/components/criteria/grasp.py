from collections.abc import Iterable, Sequence
from typing import Any

from keras_pruner.components.criteria.base import GradientCriterion, register_criterion
from keras_pruner.types import Pool, Tensor


@register_criterion("grasp")
class Grasp(GradientCriterion):
    """Scores a weight of an untrained model by its effect on the gradient flow.

    `scores = weight * (H g)`

    `g` is the gradient of the loss on all batches, and `H` is its Hessian. The largest
    scores are kept. A weight with a negative score reduces the gradient's norm.

    References:
        [GraSP, Wang et al., 2020](https://arxiv.org/abs/2002.07376)
    """

    at_init_only = True
    default_allocation = "global"

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        """Multiplies by `gradient`, which here is the Hessian times the gradient."""
        return weight * gradient

    def calibration_gradients(self, probe: Any) -> Iterable[Sequence[Tensor]]:
        return [probe.hessian_gradient_products()]

from typing import Any

from keras import ops

from keras_pruner.checks import check_bool, check_in_range
from keras_pruner.components.criteria.base import GradientCriterion, register_criterion
from keras_pruner.types import Pool, Tensor


@register_criterion("movement")
class Movement(GradientCriterion):
    """Scores a weight by how far training moves it away from zero.

    `scores <- scores - learning_rate * gradient * weight`

    The gradient is that of the masked kernel and also updates the scores of pruned
    weights (straight-through). Pruned weights keep their dense value, and return with
    it when their score rises again. Hard movement pruning keeps the highest scores.

    Soft movement pruning keeps the scores above one threshold for all kernels. A
    penalty, `penalty * sum(sigmoid(scores))`, lowers the scores by its derivative. Here
    the target sparsity sets the threshold, so the target is met exactly and the ranking
    must be global.

    Args:
        learning_rate: Step size of the scores, positive. It only scales hard scores,
            and so does not change their ranking.
        soft: Whether the scores are penalised and ranked over all kernels together.
        penalty: Strength of the penalty, >= 0; read only if `soft`.

    References:
        [Movement pruning, Sanh et al., 2020](https://arxiv.org/abs/2005.07683)
    """

    needs_dense_weights = True
    default_allocation = "erk"
    # Published so. With the schedule of others it lost eight points and more on an MLP
    # at 99 % (docs/accuracy.md).
    default_schedule = "polynomial"

    def __init__(
        self, learning_rate: float = 0.01, soft: bool = False, penalty: float = 1e-3
    ) -> None:
        self.learning_rate = check_in_range(
            learning_rate, "`learning_rate`", 0, open_low=True
        )
        self.penalty = check_in_range(penalty, "`penalty`", 0)
        self.soft = check_bool(soft, "`soft`")
        if self.soft:
            self.default_allocation = "global"

    def check(self, config: Any) -> None:
        if self.soft and not config.allocation.ranks_jointly:
            raise ValueError(
                "Soft movement pruning has one threshold for all kernels: use "
                "allocation 'global', or `soft=False`. Received: "
                f"allocation='{config.allocation.name}'"
            )

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        slope = gradient * weight
        if self.soft:
            sigmoid = ops.sigmoid(memory)
            slope = slope + self.penalty * sigmoid * (1 - sigmoid)
        return memory - self.learning_rate * slope

    def get_config(self) -> dict[str, Any]:
        return {
            "learning_rate": self.learning_rate,
            "soft": self.soft,
            "penalty": self.penalty,
        }

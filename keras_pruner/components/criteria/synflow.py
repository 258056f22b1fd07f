from collections.abc import Iterable, Sequence
from typing import Any

from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.components.criteria.base import GradientCriterion, register_criterion
from keras_pruner.types import Pool, Tensor


@register_criterion("synflow")
class SynFlow(GradientCriterion):
    """Scores a weight of an untrained model by its synaptic flow, without data.

    `scores = |w| * dR/d|w|`

    R is the sum of the outputs on an input of ones, with every weight replaced by its
    absolute value and batch normalisation in inference mode. `prune_at_init` prunes in
    rounds of rising sparsity, so that the flow does not break. R grows with every
    layer, so it is computed in float64 and normalised.

    Args:
        num_rounds: Rounds in which `prune_at_init` approaches its target, >= 1.

    References:
        [SynFlow, Tanaka et al., 2020](https://arxiv.org/abs/2006.05467)
    """

    needs = "flow"
    at_init_only = True
    default_allocation = "global"

    def __init__(self, num_rounds: int = 100) -> None:
        self.num_rounds = check_in_range(num_rounds, "`num_rounds`", 1, integer=True)

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
        """Multiplies by `gradient`, here the flow's, with one scale for all kernels."""
        return ops.abs(weight) * gradient

    def calibration_gradients(self, probe: Any) -> Iterable[Sequence[Tensor]]:
        return [probe.flow_gradients()]

    def get_config(self) -> dict[str, Any]:
        return {"num_rounds": self.num_rounds}

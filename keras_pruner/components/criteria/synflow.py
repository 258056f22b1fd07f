from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.components.criteria.base import GradientCriterion, register_criterion


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

    def __init__(self, num_rounds=100):
        self.num_rounds = check_in_range(num_rounds, "`num_rounds`", 1, integer=True)

    def accumulate(self, memory, weight, gradient, pool):
        """Multiplies by `gradient`, here the flow's, with one scale for all kernels."""
        return ops.abs(weight) * gradient

    def calibrate(self, memories, weights, pools, probe):
        return self._accumulate_all(memories, weights, probe.flow_gradients(), pools)

    def get_config(self):
        return {"num_rounds": self.num_rounds}

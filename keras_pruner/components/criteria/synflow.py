from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.components.criteria.base import GradientCriterion, register_criterion


@register_criterion("synflow")
class SynFlow(GradientCriterion):
    """Scores a weight of an untrained model by the synaptic flow through it; no data.

    `scores = |w| * dR/d|w|`, where R is the sum of the outputs on an input of ones,
    with every weight replaced by its absolute value and batch normalisation in
    inference mode. Pruned in rounds, at ever higher sparsity, which keeps the flow from
    breaking. R is computed in float64 and normalised, since it grows with every layer.

    Args:
        num_rounds: Rounds in which `prune_at_init` approaches its target, >= 1.

    References:
        [SynFlow, Tanaka et al., 2020](https://arxiv.org/abs/2006.05467)
    """

    at_init_only = True
    default_allocation = "global"

    def __init__(self, num_rounds=100):
        self.num_rounds = check_in_range(num_rounds, "`num_rounds`", 1, integer=True)

    def accumulate(self, memory, weight, gradient, pool):
        """Here `gradient` is that of the flow, scaled alike for all kernels."""
        return ops.abs(weight) * gradient

    def calibrate(self, memories, weights, pools, probe):
        return self._accumulate_all(memories, weights, probe.flow_gradients(), pools)

    def get_config(self):
        return {"num_rounds": self.num_rounds}

from keras_pruner.components.criteria.base import GradientCriterion, register_criterion


@register_criterion("grasp")
class Grasp(GradientCriterion):
    """Scores a weight of an untrained model by what it does for the gradient flow.

    `scores = weight * (H g)`, where `g` is the gradient of the loss on all batches and
    `H` its Hessian; the largest are kept. A score may be negative: pruning that weight
    makes the gradient's norm grow.

    References:
        [GraSP, Wang et al., 2020](https://arxiv.org/abs/2002.07376)
    """

    at_init_only = True
    default_allocation = "global"

    def accumulate(self, memory, weight, gradient, pool):
        """Here `gradient` is the product of the Hessian and the gradient."""
        return weight * gradient

    def calibrate(self, memories, weights, pools, probe):
        products = probe.hessian_gradient_products()
        return self._accumulate_all(memories, weights, products, pools)

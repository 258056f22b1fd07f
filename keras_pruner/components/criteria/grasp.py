from keras_pruner.components.criteria.base import GradientCriterion, register_criterion


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

    def accumulate(self, memory, weight, gradient, pool):
        """Multiplies by `gradient`, which here is the Hessian times the gradient."""
        return weight * gradient

    def calibrate(self, memories, weights, pools, probe):
        products = probe.hessian_gradient_products()
        return self._accumulate_all(memories, weights, products, pools)

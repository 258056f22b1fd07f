from keras_pruner.components.allocations.base import Allocation, register_allocation


@register_allocation("uniform")
class Uniform(Allocation):
    """Every kernel gets the same sparsity.

    Each kernel's count of groups is `round_half_even(sparsity * groups)`. Where a cap
    binds, the kernels that are free share what the capped one cannot take.
    """

    rounds_each_kernel = True

    def relative_densities(self, plans):
        return [1.0] * len(plans)

from collections.abc import Sequence

from keras_pruner.components.allocations.base import (
    Allocation,
    KernelPlan,
    register_allocation,
)


@register_allocation("uniform", "local")
class Uniform(Allocation):
    """Prunes every kernel to the same sparsity.

    Each kernel loses `round_half_even(sparsity * groups)` groups. If a cap keeps a
    kernel from that, the kernels without a cap share the rest.
    """

    rounds_each_kernel = True

    def relative_densities(self, plans: Sequence[KernelPlan]) -> Sequence[float]:
        return [1.0] * len(plans)

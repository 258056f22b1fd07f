import math
from collections.abc import Sequence

from keras_pruner.components.allocations.base import (
    Allocation,
    KernelPlan,
    register_allocation,
)


@register_allocation("erk")
class ERK(Allocation):
    """Keeps thin kernels denser than large square ones (Erdős-Rényi-Kernel).

    `density = min(1, eps * sum(dimensions) / prod(dimensions))`

    The dimensions are a kernel's window, inputs and outputs, with attention heads
    merged. `eps` is solved so that the total meets the target. Kernels that reach
    density 1 stay dense, and `eps` is solved again for the others.

    References:
        [Rigging the lottery, Evci et al., 2020](https://arxiv.org/abs/1911.11134)
    """

    def relative_densities(self, plans: Sequence[KernelPlan]) -> Sequence[float]:
        return [
            sum(sum(layout.dimensions) for layout in plan.layouts)
            / sum(math.prod(layout.dimensions) for layout in plan.layouts)
            for plan in plans
        ]

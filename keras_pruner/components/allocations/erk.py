import math

from keras_pruner.components.allocations.base import Allocation, register_allocation


@register_allocation("erk")
class ERK(Allocation):
    """Erdős-Rényi-Kernel: thin kernels stay denser than large square ones.

    `density = min(1, eps * sum(dimensions) / prod(dimensions))`

    The dimensions are a kernel's window, inputs and outputs, an attention kernel's
    heads merged. `eps` is solved so that the totals meet the target; kernels that
    reach density 1 stay dense and the others are solved again.

    References:
        [Rigging the lottery, Evci et al., 2020](https://arxiv.org/abs/1911.11134)
    """

    def relative_densities(self, plans):
        return [
            sum(sum(layout.dimensions) for layout in plan.layouts)
            / sum(math.prod(layout.dimensions) for layout in plan.layouts)
            for plan in plans
        ]

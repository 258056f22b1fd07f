"""The base class of allocations, their registry, and the counts they lead to."""

import dataclasses

from keras_pruner.kernels import KernelLayout
from keras_pruner.registry import Component, Registry


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """What an allocation may know of a kernel.

    Args:
        path: The kernel's path.
        layout: `KernelLayout`.
        num_groups: Groups that the pattern makes of it.
        group_size: Weights zeroed when one group is pruned.
        coupled: Layouts of further kernels that lose the same groups; `layout` is that
            of the first.
    """

    path: str
    layout: KernelLayout
    num_groups: int
    group_size: int
    coupled: tuple = ()

    @property
    def layouts(self):
        return (self.layout, *self.coupled)

    @property
    def num_weights(self):
        return sum(layout.size for layout in self.layouts)


class Allocation(Component):
    """How a global sparsity is divided over the kernels.

    A subclass defines `relative_densities`: kernel i gets the density
    `min(1, c * d_i)`, with the one factor `c` that makes the total meet the target.
    """

    # Ranks all scores together on the device instead; see `Global`.
    ranks_jointly = False
    # Gives each kernel its own sparsity, from which the total follows; see `Custom`.
    is_absolute = False
    # Rounds each kernel's count by itself; else the total is what is rounded.
    rounds_each_kernel = False

    def relative_densities(self, plans):
        """Returns one positive float per kernel.

        Args:
            plans: List of `KernelPlan`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define `relative_densities`."
        )


ALLOCATIONS = Registry("allocation", Allocation)


register_allocation = ALLOCATIONS.register

"""Defines the base class of allocations, and their registry."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_pruner.kernels import KernelLayout
from keras_pruner.registry import Component, Registry


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """Describes a kernel to an allocation.

    Args:
        path: The kernel's path.
        layout: `KernelLayout`.
        num_groups: Number of the pattern's groups in the kernel.
        group_size: Weights zeroed when one group is pruned.
        coupled: Layouts of further kernels that lose the same groups, as the heads of
            an attention layer do.
    """

    path: str
    layout: KernelLayout
    num_groups: int
    group_size: int
    coupled: tuple = ()

    @property
    def layouts(self) -> tuple[KernelLayout, ...]:
        return (self.layout, *self.coupled)

    @property
    def num_weights(self) -> int:
        return sum(layout.size for layout in self.layouts)

    @property
    def can_be_empty(self) -> bool:
        """Whether no weight is left if all groups are pruned."""
        return self.num_groups * self.group_size == self.num_weights


class Allocation(Component):
    """Divides a global sparsity over the kernels.

    A subclass defines `relative_densities`. Kernel i gets the density
    `min(1, c * d_i)`, with one factor `c` for all, chosen so that the total meets the
    target.

    Example:

    Kernels of 4 x 4 and 2 x 4 keep 12 weights at a target of 0.5. So `"erk"` has
    `c = 12 / (16 * 0.5 + 8 * 0.75)`. With `"global"` the scores decide.

    >>> shapes = {"a/kernel": (4, 4), "b/kernel": (2, 4)}
    >>> plans = [
    ...     KernelPlan(path, KernelLayout((k, n), (), k, n), k * n, group_size=1)
    ...     for path, (k, n) in shapes.items()
    ... ]
    >>> [ALLOCATIONS.get(name).relative_densities(plans) for name in ("uniform", "erk")]
    [[1.0, 1.0], [0.5, 0.75]]
    >>> [ALLOCATIONS.get(name).ranks_jointly for name in ("uniform", "erk", "global")]
    [False, False, True]
    """

    # Whether it ranks all scores together on the device instead; see `Global`.
    ranks_jointly = False
    # Whether each kernel has its own sparsity, which sets the total; see `Custom`.
    is_absolute = False
    # Whether it rounds each kernel's count by itself, instead of the total.
    rounds_each_kernel = False
    # Whether kernels without a cap make up for those that a cap keeps from their count.
    keeps_total = True
    # Whether groups are ranked within each output of a kernel; see `PerOutput`.
    ranks_within_outputs = False
    # Norm by which a kernel's scores are divided before a ranking: `"l2"` or `None`.
    normalize: str | None = None

    def check(self, config: Any) -> None:
        """Raises a `ValueError` if it cannot work with a `PruningConfig`."""

    def relative_densities(self, plans: Sequence[KernelPlan]) -> Sequence[float]:
        """Returns one positive float per kernel.

        Args:
            plans: List of `KernelPlan`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define `relative_densities`."
        )


ALLOCATIONS = Registry("allocation", Allocation)


register_allocation = ALLOCATIONS.register

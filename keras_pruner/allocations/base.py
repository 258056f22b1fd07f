"""The base class of allocations, their registry, and the counts they lead to."""

import dataclasses
import math

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


def total_weights(plans):
    """Returns the number of weights in all kernels."""
    return sum(plan.num_weights for plan in plans)


def target_weights(sparsity, plans):
    """Returns `round_half_even(sparsity * weights)`, the weights to zero in all."""
    return round(sparsity * total_weights(plans))


def group_bounds(plans, min_sparsity, max_sparsity):
    """Returns the fewest and most groups that the caps let each kernel prune.

    Args:
        plans: List of `KernelPlan`.
        min_sparsity: Lowest sparsity of a kernel, in [0, 1].
        max_sparsity: Highest sparsity of a kernel, in [0, 1].

    Returns:
        Tuple of two lists of integers.
    """
    # A cap of 0.29 means 29 of 100 groups, though 0.29 * 100 < 29 in floating point.
    slack = 1e-9
    lower, upper = [], []
    for plan in plans:
        groups = plan.num_weights / plan.group_size
        lower.append(min(plan.num_groups, math.ceil(min_sparsity * groups - slack)))
        upper.append(min(plan.num_groups, math.floor(max_sparsity * groups + slack)))
    return lower, upper


def allocate_counts(allocation, sparsity, plans, lower, upper):
    """Divides a sparsity over kernels, by an allocation that needs no scores.

    Args:
        allocation: `Allocation` that does not rank jointly.
        sparsity: Target over all kernels, in [0, 1).
        plans: List of `KernelPlan`.
        lower: Fewest groups of each kernel.
        upper: Most groups of each kernel.

    Returns:
        List of integers: groups to prune in each kernel. Their weights add up to
        `round_half_even(sparsity * weights)`, up to what bounds and group sizes allow.
    """
    densities = allocation.relative_densities(plans)
    if allocation.rounds_each_kernel and len(set(densities)) == 1:
        counts = [round(sparsity * p.num_weights / p.group_size) for p in plans]
        # The caps bind, if they do, before anything is rounded away.
        if all(a <= k <= b for a, k, b in zip(lower, counts, upper, strict=True)):
            return counts
    target = target_weights(sparsity, plans)
    ideal = _scale_densities(densities, target, plans, lower, upper)
    return _round_to_total(ideal, target, plans, lower, upper)


def _scale_densities(densities, target, plans, lower, upper):
    """Solves for the factor on the densities that meets the target within bounds."""

    def groups(factor):
        return [
            min(b, max(a, (1 - min(1, factor * d)) * p.num_weights / p.group_size))
            for d, p, a, b in zip(densities, plans, lower, upper, strict=True)
        ]

    def weights(factor):
        return sum(k * p.group_size for k, p in zip(groups(factor), plans, strict=True))

    low, high = 0.0, 1.0 / min(densities)
    # A float64 has 53 bits: more halvings change nothing.
    for _ in range(100):
        factor = (low + high) / 2
        low, high = (factor, high) if weights(factor) > target else (low, factor)
    return groups(high)


def _near_bounds(ideal, plans, lower, upper):
    """Returns the fewest and most groups that rounding may let each kernel prune."""
    fewest, most = [], []
    for x, plan, low, high in zip(ideal, plans, lower, upper, strict=True):
        reach = math.ceil(plan.num_groups / 10)
        least, largest = math.floor(x) - reach, math.ceil(x) + reach
        if x < plan.num_groups:
            largest = min(largest, plan.num_groups - 1)
        fewest.append(max(low, least))
        most.append(max(fewest[-1], min(high, largest)))
    return fewest, most


def _round_to_total(ideal, target, plans, lower, upper):
    """Rounds to whole groups so that the total comes near to the target.

    Large groups are rounded by themselves. The smallest make up for what that leaves,
    by largest remainder; larger ones only where the smaller have no room. So that one
    small kernel does not pay for the rounding of large groups, a kernel gives or is
    spared at most a tenth of its groups on top of its share, and none is emptied; but
    for these reasons the total misses the target by no more than half a group.
    """
    smallest = min(plan.group_size for plan in plans)
    counts = []
    for x, plan, low, high in zip(ideal, plans, lower, upper, strict=True):
        whole = math.floor(x + 1e-9) if plan.group_size == smallest else round(x)
        counts.append(min(high, max(low, whole)))
    near = _near_bounds(ideal, plans, lower, upper)
    made, missing = _make_up(counts, ideal, target, plans, *near)
    if 2 * abs(missing) > max(plan.group_size for plan in plans):
        made, _ = _make_up(counts, ideal, target, plans, lower, upper)
    return made


def _make_up(counts, ideal, target, plans, lower, upper):
    """Moves counts to within bounds, and towards the target.

    Returns:
        Tuple of the counts and of the weights that are missing to the target.
    """
    counts = [
        min(high, max(low, count))
        for count, low, high in zip(counts, lower, upper, strict=True)
    ]
    missing = target - sum(k * p.group_size for k, p in zip(counts, plans, strict=True))
    for size in sorted({plan.group_size for plan in plans}):
        members = [i for i, plan in enumerate(plans) if plan.group_size == size]
        # Largest remainder first, then by index; each gives one group, then any number.
        members.sort(key=lambda i: (counts[i] - ideal[i], i))
        for most in (1, abs(missing)):
            for index in members:
                sign = 1 if missing > 0 else -1
                room = upper[index] - counts[index]
                if missing < 0:
                    room = counts[index] - lower[index]
                nearest = (abs(missing) + (size - 1) // 2) // size
                change = sign * min(most, nearest, room)
                counts[index] += change
                missing -= change * size
    return counts, missing

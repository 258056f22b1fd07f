"""Computes how many groups each kernel loses at a sparsity, on the host."""

import dataclasses
import math

from absl import logging

from keras_pruner.components import KernelPlan

# The share of the remaining weights that the floors of all kernels may take together.
_FLOOR_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class Demand:
    """Holds the targets and bounds of one mask update.

    Args:
        counts: Groups to prune in each kernel; zeros if scores decide.
        target: Weights to prune in total.
        lower: Fewest groups to prune in each kernel.
        upper: Most groups to prune in each kernel.
    """

    counts: list
    target: int
    lower: list
    upper: list


class PruningPlan:
    """Divides sparsities over kernels, within the caps or the floor of a config.

    Args:
        config: `PruningConfig`.
        kernels: The `Kernel`s to prune.

    Attributes:
        kernels: List of `KernelPlan`, one per unit: a kernel, or several that the
            pattern couples.
        idle: Set of the positions in `kernels` of units that stay dense; see `release`.
        final_sparsity: Final sparsity over all kernels. It is below the target if the
            floor leaves no other way.

    Raises:
        ValueError: If the caps contradict each other or cannot meet the target.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.Dense(4), keras.layers.Dense(1)]
    ... )
    >>> config = PruningConfig(target_sparsity=0.75, allocation="uniform")
    >>> plan = PruningPlan(config, find_kernels(model).kernels)  # 8 and 4 weights
    >>> plan.demand(0.5).counts, plan.demand(0.75).counts
    ([4, 2], [6, 3])
    """

    def __init__(self, config, kernels):
        self.config = config
        self.idle = set()
        self.kernels = [
            plan_unit(unit, [kernels[index] for index in unit.indices])
            for unit in config.pattern.units(kernels)
        ]
        lower, upper = self._bounds(config.min_sparsity, config.target_sparsity)
        self._check_bounds(lower, upper)
        if config.allocation.is_absolute:
            self.final_sparsity = self._check_given(lower, upper)
        else:
            self.final_sparsity = self._check_target(lower, upper)

    @property
    def num_weights(self):
        """Weights in all kernels, except idle ones."""
        return total_weights(self._of_active(self.kernels))

    def release(self, units):
        """Lets units stay dense: the target is that of the others from now on.

        Args:
            units: Positions in `kernels`.
        """
        self.idle.update(units)

    def _of_active(self, values):
        return [value for i, value in enumerate(values) if i not in self.idle]

    def demand(self, sparsity, pinned=None):
        """Returns the `Demand` of an update.

        Args:
            sparsity: Target over all kernels, in [0, 1).
            pinned: Groups of each kernel that stay pruned at any target, or `None`.
        """
        config, plans = self.config, self.kernels
        share = sparsity / self.final_sparsity if self.final_sparsity else 1.0
        # Lower caps grow with the schedule, so that they never contradict it.
        lower, upper = self._bounds(config.min_sparsity * share, sparsity)
        for index in self.idle:
            lower[index] = upper[index] = 0
        if pinned is not None:
            lower = list(map(max, lower, pinned))
            upper = list(map(max, lower, upper))
        held = self.weights_in(lower)
        target = max(target_weights(sparsity, self._of_active(plans)), held)
        if config.allocation.ranks_jointly:
            counts = [0] * len(plans)
        elif config.allocation.is_absolute:
            counts = [
                min(b, max(a, round(share * k)))
                for k, a, b in zip(self._given_groups(), lower, upper, strict=True)
            ]
        else:
            effective = max(sparsity, held / max(1, self.num_weights))
            active = map(self._of_active, (plans, lower, upper))
            made = iter(allocate_counts(config.allocation, effective, *active))
            counts = [0 if i in self.idle else next(made) for i in range(len(plans))]
        return Demand(counts, target, lower, upper)

    def _bounds(self, min_sparsity, sparsity):
        """Returns the fewest and most groups of each kernel at a sparsity in all."""
        plans, cap = self.kernels, self.config.max_sparsity
        lower, upper = group_bounds(plans, min_sparsity, 1.0 if cap is None else cap)
        if cap is None and not self.config.allocation.is_absolute:
            floors = iter(floor_groups(self._of_active(plans), sparsity))
            kept = [0 if i in self.idle else next(floors) for i in range(len(plans))]
            upper = [
                max(low, high - groups)
                for low, high, groups in zip(lower, upper, kept, strict=True)
            ]
        return lower, upper

    def weights_in(self, counts):
        """Returns the number of weights in some groups of each kernel."""
        return sum(k * p.group_size for k, p in zip(counts, self.kernels, strict=True))

    def _given_groups(self):
        """Returns a custom allocation's groups of each kernel, before rounding."""
        given = self.config.allocation.kernel_sparsities(
            self.config.target_sparsity, self.kernels
        )
        groups = []
        for sparsity, plan in zip(given, self.kernels, strict=True):
            wanted = sparsity * plan.num_weights / plan.group_size
            if self.config.max_sparsity is None and sparsity < 1 and plan.can_be_empty:
                # Rounding empties no kernel; a sparsity of 1 does.
                wanted = min(wanted, plan.num_groups - 1)
            groups.append(wanted)
        return groups

    def _check_bounds(self, lower, upper):
        for plan, low, high in zip(self.kernels, lower, upper, strict=True):
            if low > high:
                raise ValueError(
                    f"The caps contradict for '{plan.path}': of {plan.num_groups} "
                    f"groups at least {low} and at most {high} would be pruned. Widen "
                    "`min_sparsity` and `max_sparsity`, or exclude the layer."
                )

    def _check_given(self, lower, upper):
        groups = self._given_groups()
        for plan, wanted, low, high in zip(
            self.kernels, groups, lower, upper, strict=True
        ):
            if not low <= round(wanted) <= high:
                size = plan.group_size / plan.num_weights
                raise ValueError(
                    f"The allocation gives '{plan.path}' the sparsity "
                    f"{wanted * size:g}, but the caps and pattern "
                    f"'{self.config.pattern}' allow [{low * size:g}, {high * size:g}]."
                )
        return self.weights_in(groups) / self.num_weights

    def _check_target(self, lower, upper):
        config = self.config
        target = target_weights(config.target_sparsity, self.kernels)
        least, most = self.weights_in(lower), self.weights_in(upper)
        # Whole groups may miss any target by half a group.
        slack = max(plan.group_size for plan in self.kernels) / 2
        if target - most > slack and config.max_sparsity is None:
            without_floor = sum(p.num_groups * p.group_size for p in self.kernels)
            if target - without_floor <= slack:
                return self._limited_by_floor(most / self.num_weights)
        if target - most > slack or least - target > slack:
            raise ValueError(
                f"The caps and pattern '{config.pattern}' allow a sparsity between "
                f"{least / self.num_weights:.4f} and {most / self.num_weights:.4f} "
                "over all kernels, so the target cannot be met. "
                f"Received: target_sparsity={config.target_sparsity}"
            )
        return config.target_sparsity

    def _limited_by_floor(self, sparsity):
        logging.warning(
            "Every kernel keeps at least one group of pattern '%s', so pruning ends at "
            "a sparsity of %.4f, below the target of %s. Lower `target_sparsity`, or "
            "set `max_sparsity=1.0` to let kernels become empty.",
            self.config.pattern,
            sparsity,
            self.config.target_sparsity,
        )
        return sparsity


def plan_unit(unit, kernels):
    """Returns the `KernelPlan` of kernels that lose the same groups together.

    Args:
        unit: Their `CoupledKernels`.
        kernels: List of the `Kernel`s.
    """
    layouts = [kernel.layout for kernel in kernels]
    sizes = [p.group_size(la) for p, la in zip(unit.patterns, layouts, strict=True)]
    return KernelPlan(
        unit.name,
        layouts[0],
        unit.patterns[0].num_groups(layouts[0]),
        sum(sizes),
        coupled=tuple(layouts[1:]),
    )


def total_weights(plans):
    """Returns the number of weights in all kernels."""
    return sum(plan.num_weights for plan in plans)


def target_weights(sparsity, plans):
    """Returns `round_half_even(sparsity * weights)`, the weights to zero in all."""
    return round(sparsity * total_weights(plans))


def group_bounds(plans, min_sparsity, max_sparsity):
    """Returns the fewest and most groups that each kernel may lose under the caps.

    Args:
        plans: List of `KernelPlan`.
        min_sparsity: Lowest sparsity of a kernel, in [0, 1].
        max_sparsity: Highest sparsity of a kernel, in [0, 1].

    Returns:
        Tuple of two lists of integers.

    Example:

    >>> layout = KernelLayout((2, 4), window=(), inputs=2, outputs=4)
    >>> kernel = KernelPlan("dense/kernel", layout, num_groups=4, group_size=2)
    >>> group_bounds([kernel], min_sparsity=0.25, max_sparsity=0.9)
    ([1], [3])
    """
    # A cap of 0.29 means 29 of 100 groups, though 0.29 * 100 < 29 in floating point.
    slack = 1e-9
    lower, upper = [], []
    for plan in plans:
        groups = plan.num_weights / plan.group_size
        lower.append(min(plan.num_groups, math.ceil(min_sparsity * groups - slack)))
        upper.append(min(plan.num_groups, math.floor(max_sparsity * groups + slack)))
    return lower, upper


def floor_groups(plans, sparsity):
    """Returns the fewest groups that each kernel keeps, so that none becomes empty.

    The floor of a kernel is 1 % of its groups, rounded up. All floors together take at
    most half of the weights that the sparsity leaves. Otherwise they shrink by one
    factor, but not below one group.

    Args:
        plans: List of `KernelPlan`.
        sparsity: Target over all kernels, in [0, 1).

    Returns:
        List of integers; 0 for a kernel that no pattern can empty, as under `n:m`.

    Example:

    >>> layout = KernelLayout((50, 20), window=(), inputs=50, outputs=20)
    >>> kernel = KernelPlan("dense/kernel", layout, num_groups=1000, group_size=1)
    >>> [floor_groups([kernel], sparsity) for sparsity in (0.8, 0.98, 0.99, 0.9999)]
    [[10], [10], [5], [1]]
    """
    # Integers, because 0.01 * 700 exceeds 7 in floating point.
    floors = [-(-p.num_groups // 100) if p.can_be_empty else 0 for p in plans]
    left = total_weights(plans) - target_weights(sparsity, plans)
    taken = sum(k * p.group_size for k, p in zip(floors, plans, strict=True))
    shrink = min(1.0, _FLOOR_SHARE * left / max(1, taken))
    return [max(min(k, 1), int(shrink * k)) for k in floors]


def allocate_counts(allocation, sparsity, plans, lower, upper):
    """Divides a sparsity over kernels with an allocation that needs no scores.

    Args:
        allocation: `Allocation` that does not rank jointly.
        sparsity: Target over all kernels, in [0, 1).
        plans: List of `KernelPlan`.
        lower: Fewest groups of each kernel.
        upper: Most groups of each kernel.

    Returns:
        List of integers: groups to prune in each kernel. Their weights add up to
        `round_half_even(sparsity * weights)`, if bounds and group sizes allow it.
    """
    densities = allocation.relative_densities(plans)
    if allocation.rounds_each_kernel and len(set(densities)) == 1:
        counts = [round(sparsity * p.num_weights / p.group_size) for p in plans]
        bounded = [
            min(b, max(a, k)) for a, k, b in zip(lower, counts, upper, strict=True)
        ]
        # Otherwise the kernels without a cap share the rest.
        if bounded == counts or not allocation.keeps_total:
            return bounded
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
    # A float64 has 53 bits, so more halvings change nothing.
    for _ in range(100):
        factor = (low + high) / 2
        low, high = (factor, high) if weights(factor) > target else (low, factor)
    return groups(high)


def _near_bounds(ideal, plans, lower, upper):
    """Returns the fewest and most groups of each kernel that rounding may choose."""
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
    """Rounds to whole groups so that the total comes close to the target.

    Kernels of large groups round by themselves. Kernels of the smallest groups make up
    the difference, by largest remainder; larger groups follow if these have no room.
    No small kernel pays for large groups: a correction is at most a tenth of a kernel's
    groups, and empties no kernel. Only the caps limit a correction if the total would
    otherwise miss the target by more than half of the largest group.
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
    """Clips counts to their bounds, then moves them towards the target.

    Returns:
        Tuple of the counts and of the weights that the target still lacks.
    """
    counts = [
        min(high, max(low, count))
        for count, low, high in zip(counts, lower, upper, strict=True)
    ]
    missing = target - sum(k * p.group_size for k, p in zip(counts, plans, strict=True))
    for size in sorted({plan.group_size for plan in plans}):
        members = [i for i, plan in enumerate(plans) if plan.group_size == size]
        # The order is by largest remainder, then by index. In the first round each
        # kernel changes by one group, in the second by any number.
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

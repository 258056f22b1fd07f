"""How many groups each kernel gives at a sparsity: whole numbers, made on the host."""

import dataclasses

from keras_pruner.allocations.base import (
    KernelPlan,
    allocate_counts,
    group_bounds,
    target_weights,
    total_weights,
)


@dataclasses.dataclass(frozen=True)
class Demand:
    """What one update is asked for.

    Args:
        counts: Groups to prune in each kernel; zeros where scores decide.
        target: Weights to prune in all.
        lower: Fewest groups of each kernel.
        upper: Most groups of each kernel.
    """

    counts: list
    target: int
    lower: list
    upper: list


class PruningPlan:
    """Divides sparsities over kernels, within the caps of a config.

    Args:
        config: `PruningConfig`.
        kernels: The `Kernel`s that are pruned.

    Attributes:
        kernels: List of `KernelPlan`, one per unit: a kernel, or several that the
            pattern couples.
        final_sparsity: Sparsity over all kernels that the config asks for.

    Raises:
        ValueError: If the caps contradict each other or cannot meet the target.
    """

    def __init__(self, config, kernels):
        self.config = config
        self.kernels = [
            _plan_unit(config.pattern, [kernels[index] for index in unit])
            for unit in config.pattern.couple(kernels)
        ]
        lower, upper = group_bounds(
            self.kernels, config.min_sparsity, config.max_sparsity
        )
        self._check_bounds(lower, upper)
        if config.allocation.is_absolute:
            self.final_sparsity = self._check_given(lower, upper)
        else:
            self.final_sparsity = self._check_target(lower, upper)

    @property
    def num_weights(self):
        """Weights in all kernels."""
        return total_weights(self.kernels)

    def demand(self, sparsity, pinned=None):
        """Returns the `Demand` of an update.

        Args:
            sparsity: Target over all kernels, in [0, 1).
            pinned: Groups of each kernel that stay pruned whatever the target, or
                `None`.
        """
        config, plans = self.config, self.kernels
        share = sparsity / self.final_sparsity if self.final_sparsity else 1.0
        # Caps from below grow with the schedule, so that they never contradict it.
        floor = config.min_sparsity * share
        lower, upper = group_bounds(plans, floor, config.max_sparsity)
        if pinned is not None:
            lower = list(map(max, lower, pinned))
            upper = list(map(max, lower, upper))
        held = self._weights_in(lower)
        target = max(target_weights(sparsity, plans), held)
        if config.allocation.ranks_jointly:
            counts = [0] * len(plans)
        elif config.allocation.is_absolute:
            counts = [
                min(b, max(a, round(share * k)))
                for k, a, b in zip(self._given_groups(), lower, upper, strict=True)
            ]
        else:
            effective = max(sparsity, held / self.num_weights)
            counts = allocate_counts(config.allocation, effective, plans, lower, upper)
        return Demand(counts, target, lower, upper)

    def _weights_in(self, counts):
        return sum(k * p.group_size for k, p in zip(counts, self.kernels, strict=True))

    def _given_groups(self):
        """Groups that a custom allocation asks of each kernel, before rounding."""
        given = self.config.allocation.kernel_sparsities(
            self.config.target_sparsity, self.kernels
        )
        return [
            sparsity * plan.num_weights / plan.group_size
            for sparsity, plan in zip(given, self.kernels, strict=True)
        ]

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
        return self._weights_in(groups) / self.num_weights

    def _check_target(self, lower, upper):
        config = self.config
        target = target_weights(config.target_sparsity, self.kernels)
        least, most = self._weights_in(lower), self._weights_in(upper)
        # Whole groups may miss any target by half of one.
        slack = max(plan.group_size for plan in self.kernels) / 2
        if target - most > slack or least - target > slack:
            raise ValueError(
                f"The caps and pattern '{config.pattern}' allow a sparsity between "
                f"{least / self.num_weights:.4f} and {most / self.num_weights:.4f} "
                "over all kernels, so the target cannot be met. "
                f"Received: target_sparsity={config.target_sparsity}"
            )
        return config.target_sparsity


def _plan_unit(pattern, kernels):
    """Returns the `KernelPlan` of kernels that lose the same groups together."""
    layouts = [kernel.layout for kernel in kernels]
    return KernelPlan(
        kernels[0].path if len(kernels) == 1 else kernels[0].attention,
        layouts[0],
        pattern.num_groups(layouts[0]),
        sum(pattern.group_size(layout) for layout in layouts),
        coupled=tuple(layouts[1:]),
    )

"""Chooses groups that share weights, on the host, by what they leave of the model."""

import math

import numpy as np
from absl import logging

from keras_pruner.components import KernelPlan
from keras_pruner.masks.budget import Demand, PruningPlan


class OverlapPlan(PruningPlan):
    """Divides sparsities over units whose groups share weights.

    A weight in a pruned row and in a pruned column is zero once. So the cost of a group
    depends on the other groups that are pruned, and counts are not enough. The plan
    ranks the groups of all units, and `choose` prunes the fewest of them, in this
    order, that reach the target.

    Args:
        config: `PruningConfig` with a pattern that overlaps.
        kernels: The `Kernel`s to prune.

    Attributes:
        kernels: List of `KernelPlan`, one per unit, with the layouts of the scored
            kernels. `group_size` is about the weights of a group.
        idle: See `PruningPlan`.
        final_sparsity: See `PruningPlan`. Sparsity is the share of the pattern's cost:
            of weights, or of multiply-adds.
    """

    def __init__(self, config, kernels):
        self.config, self.idle = config, set()
        units = config.pattern.units(kernels)
        self._sizes = [kernel.layout.size for kernel in kernels]
        self._members = [unit.indices for unit in units]
        # What the target counts, if it is not weights.
        self._cost = config.pattern.cost_of(kernels)
        self.kernels = [
            _plan_unit(unit, [kernels[index] for index in unit.indices])
            for unit in units
        ]
        # For each kernel a dict from an axis to pairs of a unit and its channels there.
        self._axes = [{} for _ in kernels]
        self._shapes = [kernel.layout.shape for kernel in kernels]
        for number, unit in enumerate(units):
            for index, pattern in zip(unit.indices, unit.patterns, strict=True):
                for axis, channels in pattern.channels_on_axes(self._shapes[index]):
                    places = self._axes[index].setdefault(axis, [])
                    places.append((number, channels))
        lower, upper = self._bounds(config.min_sparsity, config.target_sparsity)
        self._check_bounds(lower, upper)
        self.final_sparsity = self._check_target(lower, upper)

    @property
    def num_weights(self):
        return sum(self._sizes[index] for index in self._active_kernels())

    @property
    def _total(self):
        """What the target is a share of."""
        return self.num_weights if self._cost is None else self._cost.total

    def _active_kernels(self):
        active = self._of_active(self._members)
        return sorted({index for indices in active for index in indices})

    def demand(self, sparsity, pinned=None):
        config, plans = self.config, self.kernels
        share = sparsity / self.final_sparsity if self.final_sparsity else 1.0
        lower, upper = self._bounds(config.min_sparsity * share, sparsity)
        if pinned is not None:
            lower = list(map(max, lower, pinned))
        upper = list(map(max, lower, upper))
        for index in self.idle:
            lower[index] = upper[index] = 0
        counts, target = [0] * len(plans), sparsity * self._total
        if config.allocation.is_absolute:
            groups = self._given_groups()
            counts = [
                min(high, max(low, round(share * wanted)))
                for wanted, low, high in zip(groups, lower, upper, strict=True)
            ]
            upper, target = counts, math.inf if any(counts) else 0
        return Demand(counts, target, lower, upper)

    def choose(self, scores, demand):
        """Chooses the groups to prune.

        Args:
            scores: List with a float32 array of the groups' scores for each unit.
            demand: `Demand`, with the cost to prune as its target.

        Returns:
            List with a bool array for each unit; `True` = prune.
        """
        order = [np.argsort(own, kind="stable") for own in scores]
        numbers, ends, keys = [], [], []
        densities = self._densities()
        for unit, own in enumerate(order):
            steps = self._steps(unit, demand.lower[unit], demand.upper[unit])
            ranked = scores[unit][own].astype(np.float64)
            for start, end in zip([0, *steps], steps, strict=False):
                if start < demand.lower[unit]:
                    key = -math.inf
                elif densities is None:
                    key = float(np.mean(ranked[start:end]))
                else:
                    # The density factor below which the allocation prunes the groups.
                    kept = 1 - (start + end) / (2 * len(own))
                    key = -kept / densities[unit]
                numbers.append(unit)
                ends.append(end)
                keys.append(key)
        ranking = np.lexsort((ends, numbers, keys))
        numbers, ends = np.array(numbers, int)[ranking], np.array(ends, int)[ranking]

        def counts(length):
            made = np.zeros(len(scores), int)
            np.maximum.at(made, numbers[:length], ends[:length])
            return made

        def marks(length):
            return [
                np.isin(np.arange(len(own)), own[:count])
                for own, count in zip(order, counts(length), strict=True)
            ]

        # The fewest steps that reach the target, which rounding may miss by a bit.
        target = demand.target * (1 - 1e-9)
        least = int(np.sum(np.isneginf(keys)))
        low, high = least, len(ends)
        while low < high:
            middle = (low + high) // 2
            if self._cost_of(marks(middle)) >= target:
                high = middle
            else:
                low = middle + 1
        return marks(low)

    def _steps(self, unit, lower, upper):
        """Returns the numbers of groups that a unit may lose, ascending, without 0."""
        groups = self.kernels[unit].num_groups
        multiple = self.config.pattern.round_to
        ends = range(groups % multiple or multiple, groups + 1, multiple)
        steps, start = [], 0
        for end in ends:
            if end > upper and start >= lower:
                break
            steps.append(end)
            start = end
        return steps

    def _densities(self):
        allocation = self.config.allocation
        if allocation.ranks_jointly or allocation.is_absolute:
            return None
        return allocation.relative_densities(self.kernels)

    def _cost_of(self, marks):
        """Returns what pruned groups save: weights, or the pattern's cost."""
        if self._cost is not None:
            # A group of zeros only, in a checkpoint, keeps one channel in the count.
            pruned = [np.flatnonzero(own)[: len(own) - 1] for own in marks]
            names = [plan.path for plan in self.kernels]
            return self._cost.removed(dict(zip(names, pruned, strict=True)))
        # An index without a channel in the unit points to the last mark.
        marks = [np.append(own, False) for own in marks]
        total = 0
        for index in self._active_kernels():
            kept = self._sizes[index]
            for axis, places in self._axes[index].items():
                length = self._shapes[index][axis]
                removed = np.zeros(length, bool)
                for unit, channels in places:
                    removed |= marks[unit][channels].any(axis=0)
                kept = kept // length * (length - int(removed.sum()))
            total += self._sizes[index] - kept
        return total

    def _cost_of_counts(self, counts):
        """Returns the cost of the first groups of each unit."""
        return self._cost_of(
            [
                np.arange(plan.num_groups) < count
                for plan, count in zip(self.kernels, counts, strict=True)
            ]
        )

    def _bounds(self, min_sparsity, sparsity):
        """Returns the fewest and most groups of each unit, with one group kept."""
        cap, lower, upper = self.config.max_sparsity, [], []
        for plan in self.kernels:
            groups = plan.num_groups
            kept = math.ceil(self.config.pattern.floor * groups - 1e-9)
            if cap is not None:
                kept = groups - math.floor(cap * groups + 1e-9)
            upper.append(groups - max(1, kept))
            lower.append(math.ceil(min_sparsity * groups - 1e-9))
        return lower, upper

    def _given_groups(self):
        given = self.config.allocation.kernel_sparsities(
            self.config.target_sparsity, self.kernels
        )
        return [
            sparsity * plan.num_groups
            for sparsity, plan in zip(given, self.kernels, strict=True)
        ]

    def _check_target(self, lower, upper):
        config, total = self.config, self._total
        if config.allocation.is_absolute:
            counts = [
                min(high, max(low, round(wanted)))
                for wanted, low, high in zip(
                    self._given_groups(), lower, upper, strict=True
                )
            ]
            return self._cost_of_counts(counts) / total
        least, most = (self._cost_of_counts(c) / total for c in (lower, upper))
        if least > config.target_sparsity:
            raise ValueError(
                f"`min_sparsity` of each group of pattern '{config.pattern}' makes a "
                f"sparsity of {least:.4f} over all, above the target. Lower it. "
                f"Received: target_sparsity={config.target_sparsity}"
            )
        reached = [
            max(self._steps(unit, 0, high), default=0)
            for unit, high in enumerate(upper)
        ]
        most = self._cost_of_counts(reached) / total
        if most >= config.target_sparsity:
            return config.target_sparsity
        if config.max_sparsity is not None:
            raise ValueError(
                f"With `max_sparsity` {config.max_sparsity} of each group, pattern "
                f"'{config.pattern}' reaches a sparsity of at most {most:.4f}, so the "
                "target cannot be met. Change one of them. Received: "
                f"target_sparsity={config.target_sparsity}"
            )
        logging.warning(
            "Each group of pattern '%s' keeps the share `floor=%s` of its channels, "
            "and at least one. So pruning ends at a sparsity of %.4f, below the target "
            "of %s. Lower `target_sparsity`, or the floor.",
            config.pattern,
            config.pattern.floor,
            most,
            config.target_sparsity,
        )
        return most


def plan_for(config, kernels):
    """Returns the `PruningPlan` of the kernels that a config prunes."""
    plan = OverlapPlan if config.pattern.overlaps else PruningPlan
    return plan(config, kernels)


class _GroupsPlan(KernelPlan):
    """A `KernelPlan` whose size of a group is a mean, and includes biases."""

    can_be_empty = True


def _plan_unit(unit, kernels):
    """Returns the `KernelPlan` of a unit, with the layouts of the scored kernels."""
    scored = [kernel.layout for kernel in kernels if kernel.is_scored]
    pairs = zip(unit.patterns, kernels, strict=True)
    return _GroupsPlan(
        unit.name,
        scored[0],
        unit.patterns[0].num_groups(scored[0]),
        sum(pattern.group_size(kernel.layout) for pattern, kernel in pairs),
        coupled=tuple(scored[1:]),
    )

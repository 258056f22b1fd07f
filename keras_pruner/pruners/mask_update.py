"""How a pruner makes masks: unit by unit, compiled once for units that are alike."""

from typing import Any, NamedTuple

from keras import ops

from keras_pruner.backend import call_directly
from keras_pruner.masks import (
    Unit,
    UnitInputs,
    UnitResult,
    are_finite,
    as_counts,
    check_total,
    cuts_of,
    demand_of,
    expand_groups,
    rank_jointly,
    score_groups,
    score_kernels,
    select_groups,
)


class UpdateInputs(NamedTuple):
    """What one mask update is made from.

    Args:
        weights: List of the kernels' values.
        masks: List of their masks, if the pruner asks for them, else empty.
        states: List of dicts of the states that the pruner asks for.
        demands: Dict from what is made, `"masks"` or a state, to its `DemandTensors`.
        extra: List with a dict of further tensors for each unit.
        guesses: Dict from what is made to where a joint ranking looks first; see
            `find_bracket`.
        groups: List of `UnitInputs.groups`, of each unit, if made already.
    """

    weights: list
    masks: list
    states: list
    demands: dict
    extra: list
    guesses: dict
    groups: list = ()


class UpdateResult(NamedTuple):
    """What one mask update makes.

    Args:
        masks: List of bool masks, each of its kernel's shape; `True` = keep.
        counts: Int tensor (units,): groups pruned in each unit.
        finite: Bool tensor (2, kernels): whether all of a kernel's weights, and all of
            what its criterion remembers, are finite.
        states: List of dicts of the states that change.
        thresholds: Dict from what is made to the threshold that a joint ranking found,
            a float32 tensor ().
    """

    masks: list
    counts: Any
    finite: Any
    states: list
    thresholds: dict


class MaskUpdate:
    """The part of `KerasBasePruner` that makes masks from weights.

    `score_unit`, `group_unit` and `make_unit` are pure maths on the tensors of one
    unit, and run compiled: once for all units that are alike. A subclass may override
    each of them.
    """

    # Names of the states that an update reads, besides the criterion's memory.
    states_in_update = ()
    # Whether an update reads the masks as they are.
    masks_in_update = False

    def make_units(self):
        """Returns the list of the `Unit`s that the pattern makes of the kernels."""
        units = []
        for indices in self.pattern.couple(self.kernels):
            kernels = [self.kernels[index] for index in indices]
            rules = [self.rules[kernel.path] for kernel in kernels]
            units.append(Unit(indices, kernels, rules))
        return units

    # Of one unit, compiled.

    def score_unit(self, unit, inputs):
        """Scores the kernels of a unit.

        Args:
            unit: `Unit`.
            inputs: `UnitInputs`.

        Returns:
            List of float32 tensors, one per kernel; see `masking.score_kernel`.
        """
        return score_kernels(self.config, unit, inputs)

    def group_unit(self, unit, inputs):
        """Returns the scores by which the groups of a unit are ranked."""
        if inputs.groups:
            return inputs.groups[0]
        scores = self.score_unit(unit, inputs)
        return score_groups(self.config, unit, inputs.weights, scores)

    def make_unit(self, unit, inputs):
        """Makes the masks of a unit, with as many groups pruned as asked for.

        Args:
            unit: `Unit`.
            inputs: `UnitInputs`.

        Returns:
            `UnitResult`.
        """
        groups = self.group_unit(unit, inputs)
        masks = self.expand_unit(unit, inputs, select_groups(groups, inputs))
        states = [{} for _ in masks]
        if "doomed" in inputs.targets:
            doomed = select_groups(groups, inputs, "doomed")
            kept = self.expand_unit(unit, inputs, doomed)
            states = [{"doomed": ops.logical_not(mask)} for mask in kept]
        return UnitResult(masks, states, are_finite(inputs))

    def expand_unit(self, unit, inputs, pruned):
        """Turns the chosen groups of a unit into the masks of its kernels."""
        return expand_groups(self.config, unit, pruned, self.score_unit(unit, inputs))

    # Of all units.

    @property
    def has_caps(self):
        """Whether a unit may have to give more or less than the ranking says."""
        config = self.config
        is_capped = config.min_sparsity > 0 or config.max_sparsity < 1
        return is_capped or config.resume_from_pruned_checkpoint

    def demands(self, sparsity):
        """Returns a dict from what an update makes to its `plan.Demand`.

        Args:
            sparsity: Target over all kernels, in [0, 1).
        """
        pinned = self._pinned_groups()
        demands = {"masks": self.plan.demand(sparsity, pinned)}
        regularizer = self.config.regularizer
        if regularizer is not None and regularizer.grows:
            demands["doomed"] = self.plan.demand(self.target_sparsity_ratio, pinned)
        return demands

    def update_extra(self, sparsity, demands):
        """Returns a list with a dict of further tensors for each unit.

        Args:
            sparsity: Target over all kernels, in [0, 1).
            demands: What `demands` returned.
        """
        return [{} for _ in self.units]

    def update_inputs(self, sparsity, with_weights=True):
        """Returns the `UpdateInputs` of an update.

        Args:
            sparsity: Target over all kernels, in [0, 1).
            with_weights: Whether the weights are read, or left out.
        """
        names = set(self.states_in_update)
        if self.config.criterion.needs_gradients:
            names.add("memory")
        states = [
            {
                name: ops.convert_to_tensor(state)
                for name, state in self.state_variables[kernel.path].items()
                if name in names
            }
            for kernel in self.kernels
        ]
        weights, masks = [], []
        if with_weights:
            weights = [self.source_value(kernel) for kernel in self.kernels]
        if self.masks_in_update:
            masks = [self.mask_value(kernel) for kernel in self.kernels]
        demands = self.demands(sparsity)
        return UpdateInputs(
            weights=weights,
            masks=masks,
            states=states,
            demands={what: self._as_tensors(d) for what, d in demands.items()},
            extra=self.update_extra(sparsity, demands),
            guesses={what: self._forecasts[what].guess() for what in demands},
        )

    def _as_tensors(self, demand):
        target = 0
        if self.config.allocation.ranks_jointly:
            check_total(self.num_weights)
            target = demand.target
        sizes = [plan.group_size for plan in self.plan.kernels]
        lists = (sizes, demand.lower, demand.upper, demand.counts)
        return demand_of(target, *map(self._list_as_tensor, lists))

    def _list_as_tensor(self, counts):
        # Bounds seldom change, and to make tensors costs more than to keep them.
        counts = tuple(counts)
        if counts not in self._lists:
            if len(self._lists) == 8:
                self._lists.clear()
            self._lists[counts] = as_counts(list(counts))
        return self._lists[counts]

    def make_masks(self, inputs, run=call_directly):
        """Makes masks from weights.

        Args:
            inputs: `UpdateInputs`.
            run: See `rank_jointly`. With caps it cannot be compiled as a whole.

        Returns:
            `UpdateResult`.
        """
        units = [self.unit_inputs(number, inputs) for number in range(len(self.units))]
        if self.config.allocation.ranks_jointly:
            counts, thresholds = self._rank_jointly(units, inputs, run)
        else:
            counts, thresholds = self._count_alone(units, inputs), {}
        masks, states = [None] * len(self.kernels), [None] * len(self.kernels)
        places = [0] * len(self.kernels)
        results = []
        for number, unit in enumerate(self.units):
            unit_inputs = self._with_groups(unit, units[number], run)
            results.append(run(self.make_unit, unit_inputs, about=unit))
            # What was ranked is not needed any more.
            units[number] = unit_inputs = None
        num_placed = 0
        for unit, result in zip(self.units, results, strict=True):
            for place, index in enumerate(unit.indices):
                masks[index] = result.masks[place]
                states[index] = result.states[place]
                places[index] = num_placed + place
            num_placed += len(unit.indices)
        finite = ops.concatenate([result.finite for result in results], axis=1)
        finite = ops.take(finite, places, axis=1)
        return UpdateResult(masks, counts, finite, states, thresholds)

    def unit_inputs(self, number, inputs):
        """Returns the `UnitInputs` of one of the units.

        Args:
            number: Its position in `units`.
            inputs: `UpdateInputs`.
        """
        indices = self.units[number].indices
        return UnitInputs(
            weights=[inputs.weights[index] for index in indices],
            masks=[inputs.masks[index] for index in indices if inputs.masks],
            states=[inputs.states[index] for index in indices],
            targets={},
            extra=inputs.extra[number],
            groups=inputs.groups[number] if inputs.groups else (),
        )

    @property
    def has_groups(self):
        """Whether anything larger than single weights is ranked."""
        return any(map(self._has_groups, self.units))

    def _has_groups(self, unit):
        return any(
            self.pattern.num_groups(kernel.layout) < kernel.layout.size
            for kernel in unit.kernels
        )

    def with_groups(self, inputs, run):
        """Adds the scores of the groups of all units to an update's inputs.

        In one function with the masks, of which many rows are made of each row of
        groups, XLA would add up the groups anew for each.

        Args:
            inputs: `UpdateInputs`.
            run: See `make_masks`.
        """
        if not self.has_groups:
            return inputs
        units = [self.unit_inputs(number, inputs) for number in range(len(self.units))]
        groups = [
            self._with_groups(unit, unit_inputs, run).groups
            for unit, unit_inputs in zip(self.units, units, strict=True)
        ]
        return inputs._replace(groups=groups)

    def _with_groups(self, unit, inputs, run):
        if inputs.groups or not self._has_groups(unit):
            return inputs
        return inputs._replace(groups=[run(self.group_unit, inputs, about=unit)])

    def _count_alone(self, units, inputs):
        """Tells each unit how many groups it gives, where scores do not decide.

        Args:
            units: List of `UnitInputs`, changed in place.
            inputs: `UpdateInputs`.

        Returns:
            Int tensor (units,): the groups that each gives to the masks.
        """
        for what, demand in inputs.demands.items():
            counts = ops.unstack(ops.cast(demand.counts, "int32"), len(units))
            for unit_inputs, count in zip(units, counts, strict=True):
                unit_inputs.targets[what] = count
        return inputs.demands["masks"].counts

    def _rank_jointly(self, units, inputs, run):
        """Ranks all units together: tells each where its scores are cut.

        Args:
            units: List of `UnitInputs`, changed in place.
            inputs: `UpdateInputs`.
            run: See `make_masks`.

        Returns:
            Tuple of the groups that each unit gives to the masks, as an int tensor
            (units,), and of a dict from what is made to its threshold.
        """
        groups = [
            run(self.group_unit, unit_inputs, about=unit)
            for unit, unit_inputs in zip(self.units, units, strict=True)
        ]
        all_counts, thresholds = {}, {}
        for what, demand in inputs.demands.items():
            counts, bracket, threshold = rank_jointly(
                groups, demand, inputs.guesses[what], run
            )
            all_counts[what], thresholds[what] = counts, threshold
            cuts = cuts_of(groups, counts, bracket, run)
            for unit_inputs, cut in zip(units, cuts, strict=True):
                unit_inputs.targets[what] = cut
        units[:] = [
            unit_inputs._replace(groups=[scores])
            for unit_inputs, scores in zip(units, groups, strict=True)
        ]
        return all_counts["masks"], thresholds

"""How a pruner makes masks: unit by unit, compiled once for units that are alike."""

from typing import NamedTuple

from keras import ops

from keras_pruner.compiled import call_directly
from keras_pruner.masking import (
    Unit,
    UnitInputs,
    UnitResult,
    are_finite,
    expand_groups,
    score_groups,
    score_kernels,
    select_groups,
)
from keras_pruner.ranking import count_lowest_jointly


class UpdateInputs(NamedTuple):
    """What one mask update is made from.

    Args:
        weights: List of the kernels' values.
        masks: List of their masks, if the pruner asks for them, else empty.
        states: List of dicts of the states that the pruner asks for.
        demands: Dict from what is made, `"masks"` or a state, to its `Demand`.
        extra: List with a dict of further tensors for each unit.
    """

    weights: list
    masks: list
    states: list
    demands: dict
    extra: list


class UpdateResult(NamedTuple):
    """What one mask update makes.

    Args:
        masks: List of bool masks, each of its kernel's shape; `True` = keep.
        counts: List of integers: groups pruned in each unit.
        finite: List of two lists of bools: whether all of a kernel's weights, and all
            of what its criterion remembers, are finite.
        states: List of dicts of the states that change.
    """

    masks: list
    counts: list
    finite: list
    states: list


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
        if "doomed" in inputs.counts:
            doomed = select_groups(groups, inputs, "doomed")
            kept = self.expand_unit(unit, inputs, doomed)
            states = [{"doomed": ops.logical_not(mask)} for mask in kept]
        return UnitResult(masks, states, are_finite(inputs))

    def expand_unit(self, unit, inputs, pruned):
        """Turns the chosen groups of a unit into the masks of its kernels."""
        return expand_groups(self.config, unit, pruned, self.score_unit(unit, inputs))

    # Of all units.

    def demands(self, sparsity):
        """Returns a dict from what an update makes to its `Demand`.

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

    def update_inputs(self, sparsity):
        """Returns the `UpdateInputs` of an update.

        Args:
            sparsity: Target over all kernels, in [0, 1).
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
        masks = []
        if self.masks_in_update:
            masks = [self.mask_value(kernel) for kernel in self.kernels]
        demands = self.demands(sparsity)
        return UpdateInputs(
            weights=[self.source_value(kernel) for kernel in self.kernels],
            masks=masks,
            states=states,
            demands=demands,
            extra=self.update_extra(sparsity, demands),
        )

    def make_masks(self, inputs, run=call_directly):
        """Makes masks from weights.

        Args:
            inputs: `UpdateInputs`.
            run: Function that calls a function of tensors: a `FunctionCache`, to
                compile it.

        Returns:
            `UpdateResult`.
        """
        units = [self.unit_inputs(number, inputs) for number in range(len(self.units))]
        if self.config.allocation.ranks_jointly:
            counts = self._rank_jointly(units, inputs.demands, run)
        else:
            counts = inputs.demands["masks"].counts
        masks, states = [None] * len(self.kernels), [None] * len(self.kernels)
        finite = [[True] * len(self.kernels) for _ in range(2)]
        results = []
        for number, unit in enumerate(self.units):
            results.append(run(self.make_unit, units[number], about=unit))
            # What was ranked is not needed any more.
            units[number] = None
        for unit, result in zip(self.units, results, strict=True):
            found = ops.convert_to_numpy(result.finite)
            for place, index in enumerate(unit.indices):
                masks[index] = result.masks[place]
                states[index] = result.states[place]
                for row in range(2):
                    finite[row][index] = bool(found[row, place])
        return UpdateResult(masks, counts, finite, states)

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
            counts={
                what: ops.convert_to_tensor(demand.counts[number], dtype="int32")
                for what, demand in inputs.demands.items()
            },
            extra=inputs.extra[number],
        )

    def _rank_jointly(self, units, demands, run):
        """Ranks all units together: fills in counts and brackets, and the scores.

        Args:
            units: List of `UnitInputs`, changed in place.
            demands: Dict from what is made to its `Demand`.
            run: See `make_masks`.

        Returns:
            List of integers: groups that each unit gives to the masks.
        """
        groups = [
            run(self.group_unit, inputs, about=unit)
            for unit, inputs in zip(self.units, units, strict=True)
        ]
        sizes = [plan.group_size for plan in self.plan.kernels]
        found = {
            what: count_lowest_jointly(
                groups, sizes, demand.target, (demand.lower, demand.upper), run
            )
            for what, demand in demands.items()
        }
        for number, inputs in enumerate(units):
            units[number] = inputs._replace(
                groups=[groups[number]],
                counts={
                    what: ops.convert_to_tensor(counts[number], dtype="int32")
                    for what, (counts, _) in found.items()
                },
                brackets={what: part[number] for what, (_, part) in found.items()},
            )
        return found["masks"][0]

"""Makes the masks of all kernels from tensors, unit by unit."""

from typing import Any, NamedTuple

from keras import ops

from keras_pruner.backend import call_directly
from keras_pruner.masks import (
    Chosen,
    PerOutput,
    Unit,
    UnitInputs,
    cuts_of,
    is_unbounded,
    rank_jointly,
    weight_scores,
)
from keras_pruner.pruners.moments import moments_of


class UpdateInputs(NamedTuple):
    """Holds the tensors from which an update makes its masks.

    Args:
        weights: List of the kernels' values.
        masks: List of their masks if the pruner needs them, else empty.
        states: List of dicts of the states that the pruner needs.
        demands: Dict from a result, `"masks"` or a state, to its `DemandTensors`; to
            its `Demand` if the pattern overlaps.
        extra: List with a dict of further tensors for each unit.
        guesses: Dict from a result to the guess of a joint ranking; see
            `find_bracket`.
        groups: List of `UnitInputs.groups` of each unit, if they exist already.
    """

    weights: list
    masks: list
    states: list
    demands: dict
    extra: list
    guesses: dict
    groups: Any = ()


class UpdateResult(NamedTuple):
    """Holds the results of one mask update.

    Args:
        masks: List of bool masks, each of its kernel's shape; `True` = keep.
        counts: Int tensor (units,): groups pruned in each unit.
        finite: Bool tensor (3, kernels): whether all of a kernel's weights, all of its
            criterion state, and all of its scores are finite.
        states: List of dicts of the states that change.
        thresholds: Dict from a result to the threshold of its joint ranking, a float32
            tensor ().
        is_exact: Bool tensor (): whether the masks prune `counts`. If a bound limited a
            unit of a joint ranking, masks made inside a trace do not.
    """

    masks: list
    counts: Any
    finite: Any
    states: list
    thresholds: dict
    is_exact: Any


class MaskMaker:
    """Makes the masks of all kernels from tensors.

    The pruner defines the pure functions of one unit, `group_unit` and `make_unit`.
    The maker calls them for all units, and divides the demand between the units. It
    changes no variable.

    Args:
        pruner: `KerasBasePruner`.

    Attributes:
        units: List of the `Unit`s in which the pattern couples the kernels.
    """

    def __init__(self, pruner):
        self.pruner = pruner
        self.units = []
        for unit in pruner.pattern.units(pruner.kernels):
            kernels = [pruner.kernels[index] for index in unit.indices]
            rules = [pruner.rules[kernel.path] for kernel in kernels]
            self.units.append(Unit(unit.indices, kernels, rules, unit.patterns))
            if len(rules) > 1 or pruner.pattern.overlaps:
                for rule, pattern in zip(rules, unit.patterns, strict=True):
                    rule.join_unit(unit.name, pattern)

    def scores(self):
        """Returns a dict from a kernel's name to the scores of its weights."""
        pruner, scores = self.pruner, {}
        for kernel, moment in zip(pruner.kernels, moments_of(pruner), strict=True):
            if not kernel.is_scored:
                continue
            path = kernel.path
            weight = pruner.source_value(kernel)
            state = pruner.state_variables[path] | moment
            rule = pruner.rules[path]
            matrix = weight_scores(pruner.config, kernel, rule, weight, state)
            scores[path] = ops.copy(kernel.layout.from_matrix(matrix))
        return scores

    def make_masks(self, inputs, call=call_directly):
        """Makes the masks of all kernels.

        Args:
            inputs: `UpdateInputs`.
            call: See `rank_jointly`.

        Returns:
            `UpdateResult`.
        """
        pruner = self.pruner
        units = [self.unit_inputs(number, inputs) for number in range(len(self.units))]
        thresholds, is_exact = {}, ops.convert_to_tensor(True)
        if pruner.pattern.overlaps:
            counts = self._choose_on_host(units, inputs, call)
        elif pruner.config.allocation.ranks_jointly:
            counts, thresholds, is_exact = self._rank_jointly(units, inputs, call)
        else:
            counts = self._count_alone(units, inputs)
        results = []
        for number, unit in enumerate(self.units):
            unit_inputs = self._with_groups(unit, units[number], call)
            results.append(call(pruner.make_unit, unit_inputs, about=unit))
            # The scores are no longer needed.
            units[number] = unit_inputs = None
        return UpdateResult(*self._joined(results, counts), thresholds, is_exact)

    def _joined(self, results, counts):
        """Joins the results of all units: a kernel keeps what all its units keep.

        Returns:
            Tuple of the masks, the given counts, `UpdateResult.finite` and the states.
        """
        number = len(self.pruner.kernels)
        masks, states = [None] * number, [None] * number
        places, num_placed = [[] for _ in range(number)], 0
        for unit, result in zip(self.units, results, strict=True):
            for place, index in enumerate(unit.indices):
                if masks[index] is None:
                    masks[index], states[index] = result.masks[place], {}
                else:
                    masks[index] = ops.logical_and(masks[index], result.masks[place])
                for name, value in result.states[place].items():
                    if name in states[index]:
                        # The one state of a kernel in several units marks weights.
                        value = ops.logical_or(states[index][name], value)
                    states[index][name] = value
                places[index].append(num_placed + place)
            num_placed += len(unit.indices)
        finite = ops.concatenate([result.finite for result in results], axis=1)
        most = max(map(len, places))
        places = [own + own[:1] * (most - len(own)) for own in places]
        finite = ops.all(ops.take(finite, places, axis=1), axis=2)
        return masks, counts, finite, states

    def unit_inputs(self, number, inputs):
        """Returns the `UnitInputs` of one unit.

        Args:
            number: Position of the unit in `units`.
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
        """Whether a unit ranks groups that are larger than single weights."""
        return any(map(self._has_groups, self.units))

    def _has_groups(self, unit):
        return any(
            kernel.pattern.num_groups(kernel.layout) < kernel.layout.size
            for kernel in unit.kernels
        )

    def with_groups(self, inputs, call):
        """Adds the scores of the groups of all units to an update's inputs.

        Compiled together with the masks, XLA would recompute each group's sum for
        every row of the mask that uses it.

        Args:
            inputs: `UpdateInputs`.
            call: See `make_masks`.
        """
        if not self.has_groups:
            return inputs
        units = [self.unit_inputs(number, inputs) for number in range(len(self.units))]
        groups = [
            self._with_groups(unit, unit_inputs, call).groups
            for unit, unit_inputs in zip(self.units, units, strict=True)
        ]
        return inputs._replace(groups=groups)

    def _with_groups(self, unit, inputs, call):
        if inputs.groups or not self._has_groups(unit):
            return inputs
        groups = call(self.pruner.group_unit, inputs, about=unit)
        return inputs._replace(groups=[groups])

    def _count_alone(self, units, inputs):
        """Sets how many groups each unit prunes, if scores do not decide it.

        Args:
            units: List of `UnitInputs`, changed in place.
            inputs: `UpdateInputs`.

        Returns:
            Int tensor (units,): number of groups that the masks of each unit prune.
        """
        for what, demand in inputs.demands.items():
            counts = ops.unstack(ops.cast(demand.counts, "int32"), len(units))
            if self.pruner.config.allocation.ranks_within_outputs:
                counts = map(PerOutput, counts)
            for unit_inputs, count in zip(units, counts, strict=True):
                unit_inputs.targets[what] = count
        return inputs.demands["masks"].counts

    def _choose_on_host(self, units, inputs, call):
        """Chooses the groups of units that share weights, by the plan of the pruner.

        Args:
            units: List of `UnitInputs`, changed in place.
            inputs: `UpdateInputs`, whose demands are `Demand`s.

        Returns:
            Int tensor (units,): number of groups that the masks of each unit prune.
        """
        groups = [
            call(self.pruner.group_unit, unit_inputs, about=unit)
            for unit, unit_inputs in zip(self.units, units, strict=True)
        ]
        scores = [ops.convert_to_numpy(ops.cast(part, "float32")) for part in groups]
        for what, demand in inputs.demands.items():
            chosen = self.pruner.plan.choose(scores, demand)
            for unit_inputs, marks in zip(units, chosen, strict=True):
                unit_inputs.targets[what] = Chosen(ops.convert_to_tensor(marks))
            if what == "masks":
                counts = [int(marks.sum()) for marks in chosen]
        units[:] = [
            unit_inputs._replace(groups=[part])
            for unit_inputs, part in zip(units, groups, strict=True)
        ]
        return ops.convert_to_tensor(counts, dtype="int32")

    def _rank_jointly(self, units, inputs, call):
        """Ranks all units together, and sets the cut of each unit's scores.

        Args:
            units: List of `UnitInputs`, changed in place.
            inputs: `UpdateInputs`.
            call: See `make_masks`.

        Returns:
            Tuple of an int tensor (units,), the number of groups that each unit's masks
            prune; of a dict from a result to its threshold; and of
            `UpdateResult.is_exact`.
        """
        groups = [
            call(self.pruner.group_unit, unit_inputs, about=unit)
            for unit, unit_inputs in zip(self.units, units, strict=True)
        ]
        all_counts, thresholds = {}, {}
        is_exact = ops.convert_to_tensor(True)
        for what, demand in inputs.demands.items():
            counts, bracket, threshold = rank_jointly(
                groups, demand, inputs.guesses[what], call
            )
            all_counts[what], thresholds[what] = counts, threshold
            cuts = cuts_of(groups, counts, bracket, call)
            if not call.sees_numbers:
                is_exact = ops.logical_and(is_exact, is_unbounded(counts, bracket))
            for unit_inputs, cut in zip(units, cuts, strict=True):
                unit_inputs.targets[what] = cut
        units[:] = [
            unit_inputs._replace(groups=[scores])
            for unit_inputs, scores in zip(units, groups, strict=True)
        ]
        return all_counts["masks"], thresholds, is_exact


def signature_of(pruner):
    """Returns a hashable of all that the functions of a unit read from a pruner.

    Pruners of one signature share compiled functions. It is `None` if a class from
    outside of this package takes part, because such a class may read more.
    """
    config, package = pruner.config, __name__.partition(".")[0]
    components = (config.criterion, config.pattern, config.allocation)
    for part in (pruner, *components):
        if type(part).__module__.partition(".")[0] != package:
            return None
    switches = (
        config.group_reduction,
        config.low_memory_usage,
        config.resume_from_pruned_checkpoint,
    )
    return type(pruner), repr(sorted(pruner.options.items())), components, switches

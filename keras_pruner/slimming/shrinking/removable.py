"""Finds the channels that can be removed without changing a model."""

import dataclasses

import numpy as np
from keras import ops

from keras_pruner.backend import all_layers, trainables_in
from keras_pruner.comparison import compare_outputs, runnable_inputs
from keras_pruner.slimming.cutting import shortened
from keras_pruner.slimming.shrinking.branches import sums_in, useless_terms
from keras_pruner.slimming.shrinking.consumers import consumers_in
from keras_pruner.slimming.shrinking.live_weights import (
    Run,
    random_like,
    random_weights,
)

# Random weights may switch a unit off by chance. So more rounds follow if inputs of a
# layer were constant in all of the first ones.
_NUM_ROUNDS, _MOST_ROUNDS = 3, 10
# Relative differences of outputs that are rounding in float64.
_ROUNDING = 1e-7

# Reason of a group that would lose all its channels.
ONE_STAYS = "all its channels are useless; one must stay"


@dataclasses.dataclass
class Removable:
    """Channels that can be removed from a model without changing it.

    Attributes:
        channels: Dict from the name of a group to a list of its channels.
        constants: List of tuples of a `Consumer` and what the constant channels that
            are removed add to its outputs: an array with an entry for each output.
        passes: Dict from the id of a sum to the number of the only term that counts.
        reasons: Dict from the name of a group to why channels with zeros stay.
    """

    channels: dict
    constants: list
    passes: dict
    reasons: dict

    @property
    def is_empty(self):
        return not self.channels and not self.passes


def find_removable(model, graph, inputs=None, refused=None):
    """Finds channels that are removable because of zeros in a model's weights.

    A channel is removable if

    - all its slices of weights are zero, or
    - all rows are zero by which layers multiply it, or
    - it is constant, and the layers that read it can add what it gives to their biases.

    Whether it is constant is seen in runs on random inputs, with random weights in
    place of all that are not zero, and in one with the true weights. The first two
    cases are proved by runs with and without the channels.

    Args:
        model: Built Keras model without wrapper layers.
        graph: Its `ChannelGraph`.
        inputs: A batch of inputs, or `None` to make some.
        refused: Dict from the names of groups that stay whole to the reasons.

    Returns:
        `Removable`.
    """
    return _Search(model, graph, inputs).result(refused or {})


class _Search:
    def __init__(self, model, graph, inputs):
        self._model, self._graph = model, graph
        found = {id(v): v for layer in all_layers(model) for v in layer.variables}
        self._values = {k: (v, ops.convert_to_numpy(v)) for k, v in found.items()}
        self._weights = {id(v) for x in all_layers(model) for v in trainables_in(x)}
        self._consumers, self._known = consumers_in(model)
        self._sums = sums_in(model)
        self._arguments, _, _ = runnable_inputs(model, inputs)
        # Why no run shows what the channels do, if there is none.
        self._unseen = None
        self._runs = self._run_rounds()

    def result(self, refused):
        groups = [group for group in self._graph.groups if group.name not in refused]
        sure, tried, reasons = {}, {}, dict(refused)
        for group in groups:
            zero, unread, constant, reason = self._sort(group)
            sure[group.name] = zero | constant
            tried[group.name] = unread & ~sure[group.name]
            if reason:
                reasons[group.name] = reason
        self._try(tried, reasons)
        channels, constants = {}, {}
        for group in groups:
            chosen = np.flatnonzero(sure[group.name] | tried[group.name])
            if len(chosen) == group.size:
                chosen = chosen[1:]
                reasons[group.name] = ONE_STAYS
            if len(chosen):
                channels[group.name] = chosen.tolist()
                self._fold(group, chosen, constants)
        passes = useless_terms(self._sums, self._runs)
        return Removable(channels, list(constants.values()), passes, reasons)

    def _run_rounds(self):
        """Runs with the true weights, and then with random ones."""
        if self._arguments is None:
            self._unseen = "the model cannot run on made inputs: give a batch as `data`"
            return []
        members = [m for group in self._graph.groups for m in group.members]
        consumers = [self._consumers.get((id(m.variable), m.axis)) for m in members]
        self._watched = {
            id(c.watched): (c.watched, c.input_axis)
            for c in consumers
            if c is not None and c.watched is not None
        }
        generator = np.random.default_rng(0)
        floats = [(v, a) for v, a in self._values.values() if "float" in str(a.dtype)]
        self._rounds, runs = [(self._arguments, floats)], []
        try:
            while True:
                runs.append(
                    Run(self._model, *self._rounds[-1], self._watched, self._sums)
                )
                if len(runs) > (
                    _MOST_ROUNDS if self._are_constant(runs) else _NUM_ROUNDS
                ):
                    return runs
                inputs = random_like(self._arguments, generator)
                self._rounds.append((inputs, random_weights(self._values, generator)))
        except Exception as error:
            # A layer that computes in one type of numbers only.
            self._unseen = f"the model does not run in float64: {shortened(error)}"
            return []

    def _are_constant(self, runs):
        """Whether any channel was constant in all runs."""
        for layer, _ in self._watched.values():
            seen = [run.constants_of(layer) for run in runs]
            if all(values is not None for values in seen):
                if not np.isnan(sum(seen)).all():
                    return True
        return False

    def _sort(self, group):
        """Returns which channels are zero, unread or constant, as bools, and a reason.

        Args:
            group: `ChannelGroup`.

        Returns:
            Tuple of three arrays and of the reason why others stay that a layer
            computes with zeros only, or `None`.
        """
        zero = np.ones(group.size, bool)
        # Layers all of whose slices of a channel are zero.
        by_layer, rows, blocked = {}, [], np.full(group.size, None)
        columns = np.zeros(group.size, bool)
        for member in group.members:
            is_zero = self._is_zero(member)
            if id(member.variable) not in self._weights:
                continue
            zero &= is_zero
            consumer = self._consumers.get((id(member.variable), member.axis))
            if consumer is not None:
                rows.append((member, consumer, is_zero))
            else:
                before = by_layer.get(id(member.layer), True)
                by_layer[id(member.layer)] = before & is_zero
                if len(member.variable.shape) > 1:
                    columns |= is_zero
        is_known = all(id(m.variable) in self._known for m in group.members)
        if not is_known:
            blocked[:] = "a layer without a rule uses them"
            return zero, zero, ~zero & False, _reason(blocked, columns & ~zero)
        if not rows:
            # E.g. the products of queries and keys: one side is enough.
            silent = np.any([*by_layer.values(), zero], axis=0)
            return zero, silent, ~zero & False, None
        unread = np.ones(group.size, bool)
        constant = np.ones(group.size, bool)
        for member, consumer, is_zero in rows:
            values = self._constants(member, consumer)
            nothing = values == 0 if consumer.needs_zero else is_zero | (values == 0)
            folds = ~np.isnan(values) if consumer.folds else nothing
            for channel in np.flatnonzero(~(nothing | folds)):
                blocked[channel] = self._unseen or _why(
                    member, consumer, values[channel]
                )
            unread &= nothing
            constant &= nothing | folds
        constant &= ~unread
        return zero, unread, constant, _reason(blocked, columns)

    def _is_zero(self, member):
        """Returns for each channel whether a member's slice is zero."""
        _, value = self._values[id(member.variable)]
        others = tuple(i for i in range(value.ndim) if i != member.axis)
        live = (value != 0).any(axis=others)
        return np.array([not live[indices].any() for indices in member.indices])

    def _constants(self, member, consumer):
        """Returns the value of each channel's inputs if constant, else NaN.

        All inputs of a channel that enters in several places are 0 or it is NaN, except
        that constants are folded for each place on its own.
        """
        unknown = np.full(len(member.indices), np.nan)
        if consumer.watched is None or not self._runs:
            return unknown
        size = self._values[id(member.variable)][1].shape[member.axis]
        seen = [run.constants_of(consumer.watched) for run in self._runs]
        if any(values is None or len(values) != size for values in seen):
            return unknown
        is_constant = ~np.isnan(np.stack(seen)).any(axis=0)
        is_zero = (np.stack(seen) == 0).all(axis=0)
        result = []
        for indices in member.indices:
            if is_zero[indices].all():
                result.append(0.0)
            else:
                # Any number that is not zero says that it is constant.
                result.append(1.0 if is_constant[indices].all() else np.nan)
        return np.array(result)

    def _try(self, tried, reasons):
        """Keeps only channels whose removal changes no outputs, also in `tried`."""
        names = [name for name, channels in tried.items() if channels.any()]
        if not names:
            return
        if self._runs and self._changes_nothing(tried, names):
            return
        for name in names:
            if not self._runs or not self._changes_nothing(tried, [name]):
                tried[name][:] = False
                reasons[name] = (
                    self._unseen or "other parts of the model depend on them"
                )

    def _changes_nothing(self, tried, names):
        """Returns whether the model computes the same if channels are all zero."""
        members = [
            (member, np.flatnonzero(tried[group.name]))
            for group in self._graph.groups
            if group.name in names
            for member in group.members
            if id(member.variable) in self._weights
        ]
        for (arguments, values), run in zip(self._rounds, self._runs, strict=True):
            arrays = {id(variable): value.copy() for variable, value in values}
            for member, channels in members:
                view = np.moveaxis(arrays[id(member.variable)], member.axis, 0)
                view[member.removed_by(channels)] = 0
            changed = [(variable, arrays[id(variable)]) for variable, _ in values]
            made = Run(self._model, arguments, changed, {}, []).outputs
            if compare_outputs(run.outputs, made).relative_difference > _ROUNDING:
                return False
        return True

    def _fold(self, group, channels, constants):
        """Adds up what removed constant channels give to the layers that read them."""
        for member in group.members:
            consumer = self._consumers.get((id(member.variable), member.axis))
            if consumer is None or not consumer.folds or not self._runs:
                continue
            indices = member.removed_by(channels)
            values = self._runs[0].constants_of(consumer.watched)
            if values is None or len(values) <= indices.max():
                continue
            kernel = self._values[id(member.variable)][1]
            # Rows of zeros may read channels that are not constant.
            values = np.nan_to_num(values[indices])
            added = consumer.constant_times_rows(kernel, indices, values)
            before = constants.get(id(member.variable), (consumer, 0.0))[1]
            if np.any(added):
                constants[id(member.variable)] = consumer, before + added


def _why(member, consumer, value):
    name = f"'{member.layer.name}'"
    if np.isnan(value):
        return f"{name} reads them, and they are not constant"
    if consumer.needs_zero:
        return f"{name} normalizes them, and they are not zero"
    if consumer.watched is None or not consumer.folds:
        return f"they are constant, but {name} does not see them so at its borders"
    return f"{name} reads them"


def _reason(blocked, candidates):
    """Returns why channels stay that a layer computes with zeros, or `None`."""
    reasons = [r for r, one in zip(blocked, candidates, strict=True) if one and r]
    if not reasons:
        return None
    return f"{len(reasons)} channels with zeros stay: {reasons[0]}"

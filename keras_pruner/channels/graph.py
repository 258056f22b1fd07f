"""Finds the groups of channels of a model: `ChannelGraph`."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_pruner.channels.grouping import Slot, find_groups
from keras_pruner.channels.groups import Pin
from keras_pruner.channels.kept import Kept
from keras_pruner.channels.labels import Labels
from keras_pruner.channels.records import Contraction
from keras_pruner.channels.run import ModelTrace
from keras_pruner.channels.table import table_of
from keras_pruner.comparison import sample_inputs
from keras_pruner.types import Data


class ChannelGraph:
    """Shows which channels, units and heads of a model must be removed together.

    The model runs once on symbolic tensors. Each index of each axis of each tensor and
    variable is followed through all operations. An index is removed together with all
    that it is multiplied by, added to, or joined with. What nothing can remove is
    pinned: the model's inputs and outputs, windows, axes that are normalized or summed,
    and all that passes an operation without a rule.

    Args:
        model: Built Keras model of any kind. It is not changed.
        inputs: Arrays as the model takes them, of which the shapes and types are used.
            By default those that the model says. Axes that it leaves open get a size.

    Attributes:
        groups: Tuple of `ChannelGroup`s, in the order of the model's layers.
        pins: Tuple of `Pin`s: each axis of a variable of which no index can be removed.
        calls: Tuple of `Call`s of layers and operations, in their order.
        contractions: Tuple of `Contraction`s: all products that are summed.
        variables: Dict from paths to `keras.Variable`s.
        input_shapes: List of the shapes of the inputs with which the model ran.

    Raises:
        ValueError: If the model is not built, or its inputs are not known.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((3,)),
    ...     keras.layers.Dense(4, activation="relu", name="hidden"),
    ...     keras.layers.Dense(2, name="head"),
    ... ])
    >>> graph = ChannelGraph(model)
    >>> graph.groups
    (<ChannelGroup 'hidden' of 4 channels>,)
    >>> [(member.path, member.axis) for member in graph.groups[0].members]
    [('hidden/kernel', 1), ('hidden/bias', 0), ('head/kernel', 0)]
    >>> kept = graph.kept({"hidden": [0, 2]})
    >>> kept.indices(model.get_layer("head").kernel)
    (array([1, 3]), None)
    >>> [(pin.path, pin.axis, pin.reason) for pin in graph.pins]
    [('hidden/kernel', 0, 'input of the model'), \
('head/kernel', 1, 'output of the model'), ('head/bias', 0, 'output of the model')]
    """

    def __init__(self, model: keras.Model, inputs: Data = None) -> None:
        trace = _trace(model, inputs)
        resolved = self._resolved = trace.classes.resolve()
        self.name = model.name
        self.calls = tuple(trace.calls)
        self.contractions = tuple(trace.contractions)
        self.variables = {path: v for path, (v, _, _) in trace.variables.items()}
        self.input_shapes = list(trace.input_shapes)
        self._labels = {id(v): labels for v, _, labels in trace.variables.values()}
        slots = [
            Slot(path, variable, layer, axis, ids)
            for path, (variable, layer, labels) in trace.variables.items()
            for axis, ids in enumerate(labels.axes)
        ]
        # Maps the name of a group to the atom of each of its channels.
        self.groups, self._atoms, alone = find_groups(
            resolved, slots, trace.divided, trace.heads
        )
        self.pins = tuple(self._find_pins(slots, alone))

    def kept(self, removed: Mapping[str, Iterable[int]]) -> Kept:
        """Returns which indices stay if channels are removed.

        Args:
            removed: Dict from the name of a group to the numbers of its channels that
                are removed.

        Returns:
            `Kept`.

        Raises:
            ValueError: If a group or a channel is unknown, or a group would lose all
                channels.
        """
        by_name = {group.name: group for group in self.groups}
        atoms = [np.empty(0, np.int64)]
        for name, channels in removed.items():
            if name not in by_name:
                known = ", ".join(by_name) or "none"
                raise ValueError(f"Unknown group '{name}'. The model has: {known}.")
            group = by_name[name]
            channels = np.unique(np.asarray(list(channels), np.int64))
            if len(channels) and not (0 <= channels[0] and channels[-1] < group.size):
                raise ValueError(
                    f"Group '{name}' has the channels 0 to {group.size - 1}. "
                    f"Received: {channels.tolist()}"
                )
            if len(channels) == group.size:
                raise ValueError(
                    f"Group '{name}' must keep at least one of its {group.size} "
                    f"{group.kind}."
                )
            atoms.append(self._atoms[name][channels])
        return Kept(self._resolved.removed_with(np.concatenate(atoms)), self._labels)

    def multiply_adds(self, removed: Mapping[Any, Any] | None = None) -> int:
        """Returns the multiply-adds of one call, without some channels.

        Args:
            removed: See `kept`; by default nothing is removed.
        """
        kept = self.kept(removed or {})
        return sum(
            math.prod(map(kept.size_of, contraction.axes))
            for contraction in self.contractions
        )

    def labels_of(self, variable: keras.Variable) -> Labels:
        """Returns the `Labels` of a variable of the model."""
        return self._labels[id(variable)]

    def groups_along(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns to which groups the indices of an axis belong.

        Args:
            ids: Int64 array of ids: an axis of `Labels` or of a `Contraction`.

        Returns:
            Two int64 arrays: positions along the axis, and for each the number of a
            group in `groups`. A position may come up for several groups, or for none.
        """
        positions, atoms = self._resolved.atoms_of(ids)
        number_of = np.full(self._resolved.size, -1)
        for number, group in enumerate(self.groups):
            number_of[self._atoms[group.name]] = number
        numbers = number_of[atoms]
        return positions[numbers >= 0], numbers[numbers >= 0]

    def _find_pins(self, slots, alone):
        in_group = {(m.path, m.axis) for group in self.groups for m in group.members}
        for slot in slots:
            if (slot.path, slot.axis) not in in_group:
                reason = self._reason_of(slot.ids, alone)
                yield Pin(slot.path, slot.variable, slot.axis, reason)

    def operands(self, contraction: Contraction) -> tuple[keras.Variable, ...]:
        """Returns the variables that a `Contraction` multiplies, as a tuple."""
        axes = {id(ids) for ids in contraction.axes}
        return tuple(
            variable
            for variable in self.variables.values()
            if any(id(ids) in axes for ids in self._labels[id(variable)].axes)
        )

    def _reason_of(self, ids, alone):
        reason = self._resolved.reason_of(ids)
        if not reason and not alone.isdisjoint(
            self._resolved.atoms_of(ids)[1].tolist()
        ):
            return "a channel that is alone on its axes must stay"
        return reason or "no other variable shares its indices"

    def __repr__(self) -> str:
        return (
            f"<ChannelGraph of '{self.name}': {len(self.groups)} groups, "
            f"{len(self.pins)} pinned axes>"
        )

    def __str__(self) -> str:
        return table_of(self)


def _trace(model, inputs=None):
    """Runs a model on symbolic inputs of the first sizes that it can take."""
    if not getattr(model, "built", False):
        raise ValueError(
            f"Model '{getattr(model, 'name', model)}' is not built, so it has no "
            "variables. Call it on data, or build it."
        )
    given = [] if inputs is None else [((inputs,), {})]
    error = ValueError(
        f"Model '{model.name}' does not tell the shapes of its inputs. Call it on data "
        "before, or make it of `keras.Input`s."
    )
    for number, inputs in enumerate(given or sample_inputs(model, batch_size=1)):
        args, kwargs = keras.tree.map_structure(
            lambda x: keras.KerasTensor(
                x.shape, keras.backend.standardize_dtype(x.dtype)
            ),
            inputs,
        )
        try:
            trace = ModelTrace(model, args, kwargs)
            if skipped := trace.for_losses():
                trace = ModelTrace(model, args, kwargs, skipped)
            return trace
        except Exception as caught:
            error = caught if number == 0 else error
    raise error


def _symbol(tensor):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return keras.KerasTensor(tensor.shape, dtype)

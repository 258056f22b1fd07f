"""Reports which layers `shrink` made smaller."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

import keras

from keras_pruner.backend import sublayers_of
from keras_pruner.channels import ChannelGraph
from keras_pruner.kernels import own_variables
from keras_pruner.reporting import (
    Column,
    Shown,
    View,
    lines_of,
    percent,
    ratio_of,
    sum_of,
)
from keras_pruner.slimming.cutting import note_on_saving
from keras_pruner.types import Rows


@dataclasses.dataclass(frozen=True)
class ShrinkRow:
    """Describes one layer of a report.

    Args:
        path: The layer's path.
        shape: Shape of its largest variable.
        new_shape: Its shape in the smaller model, or `None` if the layer is left out.
        parameters: Number of the layer's parameters.
        new_parameters: The same in the smaller model.
        skipped: Why the layer is not smaller, or `None` if it is.
    """

    path: str
    shape: tuple
    new_shape: tuple | None
    parameters: int
    new_parameters: int
    skipped: str | None = None


class ShrinkReport(Shown):
    """Shows which layers `shrink` made smaller, and why others stay.

    Args:
        name: Name of the model.
        layers: Tuple of `ShrinkRow`s, in the order of the model.
        verification: `Verification` of the outputs, or `None` if not compared.
        notes: Why some channels of layers that got smaller stay, and what the smaller
            model cannot do.

    Attributes:
        parameters_before: Parameters of the model.
        parameters_after: Parameters of the smaller model.
    """

    def __init__(
        self,
        name: str,
        layers: Sequence[Any],
        verification: Any = None,
        notes: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.layers = tuple(layers)
        self.verification = verification
        self.notes = tuple(notes)

    @classmethod
    def of(
        cls,
        model: keras.Model,
        before: Any,
        smaller: keras.Model,
        graph: ChannelGraph,
        kept: Any,
        verification: Any,
    ) -> Self:
        """Makes the report of a model and a smaller one.

        Args:
            model: Keras model.
            before: `rows_of` it.
            smaller: Smaller model.
            graph: `ChannelGraph` of the smaller model.
            kept: Dict from the names of groups to why channels with zeros stay.
            verification: `Verification`, or `None`.
        """
        after = rows_of(smaller)
        reasons = _reasons(graph, kept)
        rows, notes = [], []
        for path, (shape, size) in before.items():
            new_shape, new_size = after.get(path, (None, 0))
            reason = reasons.get(path, "all its channels have effects")
            if new_size != size:
                if path in kept:
                    notes.append(f"'{path}': {kept[path].rstrip('.')}.")
                reason = None
            rows.append(ShrinkRow(path, shape, new_shape, size, new_size, reason))
        # Layers that take the place of one whose config cannot say its size.
        for path, (shape, size) in after.items():
            if path not in before:
                rows.append(ShrinkRow(path, (), shape, 0, size))
        report = cls(model.name, rows, verification, notes)
        if report.is_smaller:
            report.notes += tuple(filter(None, [note_on_saving(smaller)]))
        return report

    @property
    def parameters_before(self) -> int:
        return sum_of(self.layers, "parameters")

    @property
    def parameters_after(self) -> int:
        return sum_of(self.layers, "new_parameters")

    @property
    def is_smaller(self) -> bool:
        """Whether anything was removed."""
        return self.parameters_after < self.parameters_before

    @property
    def headline(self) -> str:
        """One sentence on the result."""
        if not self.is_smaller:
            return (
                f"shrink: nothing of '{self.name}' can be removed without changing "
                f"its outputs; it keeps all {self.parameters_before:,} parameters."
            )
        share = self.parameters_after / self.parameters_before
        return (
            f"shrink: {self.parameters_after:,} of {self.parameters_before:,} "
            f"parameters of '{self.name}' are left ({percent(share)})."
        )

    def rows(self) -> Rows:
        """Returns one dict of plain values per layer."""
        return [dataclasses.asdict(row) for row in self.layers]

    def totals(self) -> dict[str, Any]:
        """Returns the totals as a dict of numbers.

        `"ratio"` is the share of the parameters that is left. `"relative_difference"`
        is that of the outputs, or `None` if they were not compared.
        """
        before, after = self.parameters_before, self.parameters_after
        found = self.verification
        return {
            "parameters_before": before,
            "parameters_after": after,
            "ratio": after / before if before else None,
            "relative_difference": None if found is None else found.relative_difference,
        }

    def view(self, expand: bool = False) -> View:
        """Returns the `View` that is printed."""
        sentences = [self.headline]
        if self.verification is not None:
            sentences.append(str(self.verification))
        sentences += self.notes
        return View(
            sentences,
            [
                Column("shape", lambda rows: _shapes(rows, "shape"), False, rank=1),
                Column("new shape", lambda rows: _shapes(rows, "new_shape"), False),
                Column.of_sum("parameters", "parameters"),
                Column.of_share("left", _share),
            ],
            lines_of(self.layers, lambda row: row.new_shape is None, expand),
            self.layers,
            "layer",
        )


def rows_of(model):
    """Returns a dict from the path of each layer with variables of its own to a tuple.

    Returns:
        Tuples of the shape of the layer's largest variable and its parameters.
    """
    rows, pending, seen = {}, [(model, "")], set()
    while pending:
        layer, path = pending.pop()
        own = [v for v in own_variables(layer) if "float" in str(v.dtype)]
        if own:
            largest = max(own, key=lambda v: math.prod(v.shape))
            size = sum(math.prod(v.shape) for v in own)
            rows[path or layer.name] = tuple(largest.shape), size
        children = [x for x in sublayers_of(layer) if id(x) not in seen]
        seen.update(map(id, children))
        prefix = f"{path}/" if path else ""
        pending += [(x, f"{prefix}{x.name}") for x in reversed(children)]
    return rows


def _reasons(graph, kept):
    """Returns a dict from the paths of layers to why they stay."""
    reasons = {}
    for pin in graph.pins:
        path, _, _ = pin.path.rpartition("/")
        # The last axis is the one of the outputs in most layers.
        reasons[path] = pin.reason
    for group in graph.groups:
        for member in group.members:
            path, _, _ = member.path.rpartition("/")
            reasons.pop(path, None)
    for group in graph.groups:
        if group.name in kept:
            for member in group.members:
                path, _, _ = member.path.rpartition("/")
                reasons[path] = kept[group.name]
    return reasons


def _share(rows):
    return min(1.0, ratio_of(rows, "new_parameters", "parameters"))


def _shapes(rows, name):
    shapes = {getattr(row, name) for row in rows}
    if len(shapes) > 1:
        return "-"
    (shape,) = shapes
    if shape is None:
        return "left out"
    return " x ".join(map(str, shape))

"""Reports what an exported file is, and what zeros bring there."""

import dataclasses
from typing import Any

from keras_pruner.reporting import Column, Line, Shown, View, percent
from keras_pruner.types import Rows

_ORDER = ("size and time", "time", "size", "nothing")


@dataclasses.dataclass(frozen=True, repr=False)
class ExportReport(Shown):
    """Shows an exported file, and what the zeros of each kernel bring there.

    It prints as a table, shows as HTML in notebooks, and `rows()` and `totals()` return
    plain values.

    Args:
        name: Name of the model.
        path: Path of the file or the folder, as given.
        format: Name of the format.
        engine: Name of the program that ran the file.
        bytes_before: Bytes of the plain `.keras` file of the model, without optimizer,
            as Keras saves it; with wrapper layers if they are exported. `None` if Keras
            cannot save it.
        bytes_after: Bytes of the exported file, or of all its files.
        comparison: `Comparison` of the file's outputs with those of the model.
        input_shapes: Dict from the names of the inputs to their shapes; `None` stands
            for any size.
        kernels: Tuple of `GainRow`s.
        notes: Tuple of sentences on what users of the file have to know.

    Attributes:
        ratio: `bytes_after / bytes_before`, or `None`.
        difference: Largest absolute difference of the outputs.
        relative_difference: The same, as a share of the largest output.
        rewards: What the zeros bring, over all kernels: `"nothing"`, `"size"`,
            `"time"` or `"size and time"`.
    """

    name: str
    path: str
    format: str
    engine: str
    bytes_before: int | None
    bytes_after: int
    comparison: Any
    input_shapes: dict
    kernels: tuple = ()
    notes: tuple = ()

    @property
    def ratio(self) -> float | None:
        return self.bytes_after / self.bytes_before if self.bytes_before else None

    @property
    def difference(self) -> float | None:
        return self.comparison.difference

    @property
    def relative_difference(self) -> float | None:
        return self.comparison.relative_difference

    @property
    def rewards(self) -> str:
        words = {word for row in self.kernels for word in row.rewards.split(" and ")}
        found = [word for word in ("size", "time") if word in words]
        return " and ".join(found) or "nothing"

    @property
    def headline(self) -> str:
        """One sentence on the file."""
        text = f"export: '{self.path}' ({self.format}) has {self.bytes_after:,} bytes"
        if self.ratio is None:
            return f"{text}."
        share = percent(self.ratio)
        return f"{text}, {share} of the {self.bytes_before:,} of the plain .keras file."

    def rows(self) -> Rows:
        """Returns one dict of plain values per kernel, with the fields of `GainRow`."""
        return [dataclasses.asdict(row) for row in self.kernels]

    def totals(self) -> dict[str, Any]:
        """Returns the numbers of the whole file as a dict of plain values."""
        names = ["path", "format", "engine", "bytes_before", "bytes_after", "ratio"]
        names += ["difference", "relative_difference", "rewards"]
        return {name: getattr(self, name) for name in names}

    def summary_lines(self) -> list[str]:
        """Returns the sentences above the table, as a list."""
        lines = [
            self.headline,
            f"The file was run: its outputs differ from the model's by at most "
            f"{self.difference:.2g}, {self.relative_difference:.2g} of the largest; "
            f"{self.comparison.tolerance:.2g} counts as rounding.",
            *self._gains(),
        ]
        return [*lines, *self.notes]

    def _gains(self):
        """Returns a sentence for each thing that zeros bring, the best first."""
        pruned = [row for row in self.kernels if row.zeros]
        if not pruned:
            return (
                ["No weight is zero, so zeros bring nothing."] if self.kernels else []
            )
        weights = sum(row.parameters for row in self.kernels)
        groups = {}
        for row in pruned:
            groups.setdefault((row.rewards, row.reason), []).append(row)
        lines = []
        for key in sorted(groups, key=lambda key: _ORDER.index(key[0])):
            rows, (rewards, reason) = groups[key], key
            share = sum(row.parameters for row in rows) / weights
            lines.append(
                f"Zeros bring {rewards} in {len(rows)} of {len(self.kernels)} kernels, "
                f"which have {percent(share, 1)} of the weights: {reason}"
            )
        return lines

    def view(self, expand: bool = False) -> View:
        """Returns what the table shows.

        Args:
            expand: As in `to_text`.
        """

        def share(rows):
            weights = sum(row.parameters for row in rows)
            return sum(row.zeros for row in rows) / weights if weights else None

        def common(name):
            def text(rows):
                values = {getattr(row, name) for row in rows}
                return values.pop() if len(values) == 1 else "several"

            return text

        columns = [
            Column("shape", lambda rows: _shape(rows), False, rank=2),
            Column("zeros", lambda rows: percent(share(rows)), bar=share),
            Column("pattern", common("pattern"), False, rank=1),
            Column("zeros bring", common("rewards"), False),
        ]
        lines = [Line(row.path, (row,)) for row in self.kernels]
        return View(self.summary_lines(), columns, lines, self.kernels)


def _shape(rows):
    shapes = {row.shape for row in rows}
    return " x ".join(map(str, shapes.pop())) if len(shapes) == 1 else ""

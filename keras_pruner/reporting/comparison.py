"""Sets two reports side by side: before and after."""

import dataclasses

from keras_pruner.reporting.lines import lines_of
from keras_pruner.reporting.render import SPEED, Column, Shown, View, percent
from keras_pruner.reporting.rows import ReportRow, bytes_of, share_of, size_of

_SIDES = ("before", "after")


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """Describes one kernel before and after.

    Args:
        path: The kernel's path.
        before: `ReportRow`, or `None` if the kernel is new.
        after: `ReportRow`, or `None` if the kernel is gone.
    """

    path: str
    before: ReportRow | None
    after: ReportRow | None

    @property
    def skipped(self):
        """Why a pruner skips the kernel after, or which side lacks it, or `None`."""
        if self.before is None:
            return "only after"
        return "only before" if self.after is None else self.after.skipped


class ReportComparison(Shown):
    """Shows what pruning changed, kernel by kernel and in total.

    Kernels with equal paths belong together, so you can compare a model with its
    pruned, wrapped, stripped or quantized copy. `rows()` returns plain dicts.

    Args:
        before: `Report` of the first model.
        after: `Report` of the second model.

    Attributes:
        kernels: Tuple of `ComparisonRow`: the kernels after, then those that are gone.
    """

    def __init__(self, before, after):
        self.before = before
        self.after = after
        old = {row.path: row for row in before.kernels}
        rows = [
            ComparisonRow(row.path, old.pop(row.path, None), row)
            for row in after.kernels
        ]
        rows += [ComparisonRow(path, row, None) for path, row in old.items()]
        self.kernels = tuple(rows)

    def rows(self):
        """Returns one dict per kernel, with the numbers of both sides.

        The keys are `"path"`, and `"sparsity"`, `"parameters"`, `"zeros"` and
        `"raw_bytes"`, each with `"_before"` and with `"_after"`. The numbers of a
        kernel that a side lacks are `None`.
        """
        names = ("sparsity", "parameters", "zeros", "raw_bytes")
        return [
            {"path": row.path}
            | {
                f"{name}_{side}": getattr(getattr(row, side), name, None)
                for name in names
                for side in _SIDES
            }
            for row in self.kernels
        ]

    def totals(self):
        """Returns a dict from `"before"` and `"after"` to the totals of the report."""
        return {side: getattr(self, side).totals() for side in _SIDES}

    def view(self, expand=False):
        """Returns what the table shows.

        Args:
            expand: As in `to_text`.
        """
        columns = [
            *self._columns("sparsity", share_of, percent, 0, has_bar=True),
            *self._columns("parameters", size_of, "{:,}".format, 1),
            *self._columns("bytes", bytes_of, "{:,}".format, 2),
        ]
        lines = lines_of(self.kernels, lambda row: None, expand)
        return View(self.summary_lines(), columns, lines, self.kernels)

    def _columns(self, name, number_of, text, rank, has_bar=False):
        """Returns the columns of a number on both sides.

        Parameters and bytes have one column if no kernel changed.
        """

        def column(title, side):
            def value(rows):
                own = [getattr(r, side) for r in rows if getattr(r, side) is not None]
                return number_of(own) if own else None

            def cell(rows):
                number = value(rows)
                return "-" if number is None else text(number)

            return Column(title, cell, bar=value if has_bar else None, rank=rank)

        columns = [column(f"{name} {side}", side) for side in _SIDES]
        before, after = (
            [each.cell((row,)) for row in self.kernels] for each in columns
        )
        is_same = before == after and not has_bar
        return [column(name, "after")] if is_same else columns

    def summary_lines(self):
        """Returns the sentences above the table, as a list."""
        before, after = self.before, self.after
        ratio = before.zipped_bytes / max(1, after.zipped_bytes)
        smaller = f" ({ratio:.1f} times smaller)" if ratio > 1 else ""
        lines = [
            f"Sparsity of all kernels {percent(before.prunable_sparsity)} before, "
            f"{percent(after.prunable_sparsity)} after; of all parameters "
            f"{percent(before.model_sparsity)} before, "
            f"{percent(after.model_sparsity)} after.",
            f"The model has {before.parameters:,} parameters before, "
            f"{after.parameters:,} after.",
            f"Weights take {before.raw_bytes:,} bytes raw before, {after.raw_bytes:,} "
            f"after; {before.zipped_bytes:,} zipped before, {after.zipped_bytes:,} "
            f"after{smaller}.",
        ]
        if after.zeros:
            lines.append(SPEED)
        return lines

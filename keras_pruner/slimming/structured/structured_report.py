"""Reports what `prune_structured` removed from each group of channels."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_pruner.reporting import (
    Column,
    Shown,
    View,
    axes_of_rows,
    lines_of,
    plot_error_curves,
    ratio_of,
)
from keras_pruner.slimming.structured.targets import as_text
from keras_pruner.types import Axes, Rows


@dataclasses.dataclass(frozen=True)
class GroupRow:
    """Describes one group of channels.

    Args:
        path: Name of the group.
        kind: `"channels"` or `"heads"`.
        size: Number of channels before.
        kept: Number of channels that are left.
        error: Relative error that the removal makes: of outputs with data, of squared
            weights without. `None` if the group was left out.
        layers: Tuple with the names of the layers that change.
        skipped: Why no channel was removed, or `None`.
    """

    path: str
    kind: str
    size: int
    kept: int
    error: float | None = None
    layers: tuple = ()
    skipped: str | None = None


class StructuredReport(Shown):
    """Shows what `prune_structured` removed.

    Args:
        groups: Tuple of `GroupRow`s.
        target: `Target`.
        costs: Dict from `"parameters"`, `"flops"` and perhaps more to tuples of the
            values before and after.
        verification: `Verification`: the outputs of the smaller model beside those of
            the model whose removed channels are zero.
        curves: Dict from the names of groups to lists of errors after the removal of
            0, 1, ... channels.
        num_samples: Number of samples that were used, or 0.
        output_error: Relative error `|F - D|^2 / |D - mean D|^2` of the outputs F of
            the smaller model on the samples, or `None` without data.
        recoveries: Tuple of the reports of the recoveries, in their order.
        seconds: Time of all.
        advice: A sentence, or `None`.
    """

    def __init__(
        self,
        groups: Sequence[Any],
        target: Any,
        costs: Any,
        verification: Any,
        *,
        curves: Mapping[str, Any] | None = None,
        num_samples: int = 0,
        output_error: float | None = None,
        recoveries: Sequence[Any] = (),
        seconds: float = 0.0,
        advice: str | None = None,
    ) -> None:
        self.groups, self.target, self.costs = tuple(groups), target, dict(costs)
        self.verification, self.curves = verification, curves or {}
        self.num_samples = num_samples
        self.output_error, self.recoveries = output_error, tuple(recoveries)
        self.seconds, self.advice = seconds, advice

    @property
    def headline(self) -> str:
        """One sentence on the result."""
        parts = [
            f"{as_text(kind, before)} to {as_text(kind, after)} {_WORDS[kind]} "
            f"({after / before:.2f}x)"
            for kind, (before, after) in self.costs.items()
        ]
        how = f"from {self.num_samples} samples" if self.num_samples else "by norms"
        return f"prune_structured ({self.target}, {how}): {', '.join(parts)}."

    def rows(self) -> Rows:
        """Returns one dict of plain values per group."""
        return [dataclasses.asdict(row) for row in self.groups]

    def totals(self) -> dict[str, Any]:
        """Returns the totals as a dict of numbers; each cost before and after."""
        costs = {
            f"{kind}_{side}": cost
            for kind, pair in self.costs.items()
            for side, cost in zip(("before", "after"), pair, strict=True)
        }
        return costs | {
            "num_samples": self.num_samples,
            "output_error": self.output_error,
            "seconds": self.seconds,
        }

    def view(self, expand: bool = False) -> View:
        """Returns the `View` that is printed."""
        lines = [self.headline]
        if self.output_error is not None:
            lines.append(
                f"Relative output error on the samples: {self.output_error:.2g}."
            )
        lines.append(f"Beside the model with zeros in their place: {self.verification}")
        lines += filter(None, [self.advice])
        return View(
            [*lines, *map(str, self.recoveries)],
            [
                Column("kind", lambda rows: rows[0].kind, is_number=False, rank=2),
                Column.of_sum("from", "size"),
                Column.of_sum("to", "kept"),
                Column.of_share("removed", _share),
                Column("error", error_text, rank=1),
            ],
            lines_of(self.groups, lambda row: row.kept, expand),
            self.groups,
            "group",
        )

    def plot(self, ax: Axes = None) -> Axes:
        """Plots how many channels each group had and keeps.

        Args:
            ax: Matplotlib axes, or `None` for new ones.

        Returns:
            The axes.
        """
        rows = self.groups[::-1]
        ax, _ = axes_of_rows(ax, [row.path for row in rows])
        places, sizes = range(len(rows)), [row.size for row in rows]
        ax.barh(places, sizes, color="lightgray", label="before")
        ax.barh(places, [row.kept for row in rows], label="kept", height=0.5)
        ax.set(xlabel="channels")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
        return ax

    def plot_curves(self, ax: Axes = None) -> Axes:
        """Plots the error of each group against the share removed from it.

        Args:
            ax: Matplotlib axes, or `None` for new ones.

        Returns:
            The axes. Their errors have a logarithmic scale.
        """
        rows = [row for row in self.groups if row.path in self.curves]
        curves = {}
        for row in rows:
            points = [(n / row.size, e) for n, e in enumerate(self.curves[row.path])]
            curves[row.path] = points[1:]
        marks = {row.path: 1 - row.kept / row.size for row in rows}
        return plot_error_curves(
            curves, marks, ax, xlabel="share removed", ylabel="relative error"
        )


_WORDS = {
    "parameters": "parameters",
    "flops": "",
    "bytes": "in the file",
    "latency": "latency",
}


def _share(rows):
    return 1 - ratio_of(rows, "kept", "size")


def error_text(rows):
    """Returns the largest error of some rows as text."""
    errors = [row.error for row in rows if row.error is not None]
    return f"{max(errors):.2g}" if errors else "-"

"""Reports what `prune_one_shot` did to each kernel."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from keras_pruner.components import Capability
from keras_pruner.oneshot.methods.base import OneShotMethod
from keras_pruner.reporting import (
    Column,
    Shown,
    View,
    axes_of_rows,
    lines_of,
    percent,
    plot_error_curves,
    ratio_of,
    sum_of,
)
from keras_pruner.types import Axes, Rows


@dataclasses.dataclass(frozen=True)
class OneShotRow:
    """Describes one kernel of a report.

    Args:
        path: The kernel's path.
        shape: Its shape.
        parameters: Number of its weights.
        zeros: Number of weights that were pruned.
        error: Relative error of its outputs on the samples, in [0, 1] for most methods:
            `|X_d W - X Z|^2 / |X_d W|^2`, with means left out if a bias takes them.
            Outputs count by their influence, unless `weigh_outputs=False`. `None` if
            the kernel stayed dense.
        seconds: Time of its statistics and its solution.
        num_inputs: Inputs of the kernel, K.
        num_rows: Rows of the data that were seen; 0 if the kernel stayed dense.
        skipped: Why it stayed dense, or `None`.
    """

    path: str
    shape: tuple
    parameters: int
    zeros: int = 0
    error: float | None = None
    seconds: float = 0.0
    num_inputs: int = 0
    num_rows: int = 0
    skipped: str | None = None

    @property
    def sparsity(self):
        return self.zeros / self.parameters if self.parameters else 0.0

    @property
    def has_few_rows(self):
        """Whether fewer rows than inputs were seen, so that many solutions fit them."""
        return 0 < self.num_rows < self.num_inputs


class OneShotReport(Shown):
    """Shows what `prune_one_shot` did to each kernel.

    Args:
        kernels: Tuple of `OneShotRow`s: pruned ones in their order, then skipped ones.
        method: `OneShotMethod`.
        num_samples: Number of samples that were used.
        curves: Dict from paths to error curves, lists of `(sparsity, error)`: the
            relative error of the outputs, of its own and of the model's, if this
            kernel alone is pruned; see `StageByStage.error_curves`. It is empty if the
            allocation measured none. Coupled kernels have one curve, under the path of
            their layer.
        allocation_seconds: Time in which the sparsity was divided over the kernels.
        memory: Most bytes of activations and statistics at a time.
        disk: Most bytes of activations in temporary files at a time.
        recoveries: Tuple of the reports of the recoveries, in their order.
        capability: `Capability`: what the zeros bring on the config's `for_engine`, or
            `None`.

    Attributes:
        sparsity: Zeros / weights, over all kernels that were not skipped.
        seconds: Time of the allocation and of all kernels together.
    """

    def __init__(
        self,
        kernels: Sequence[Any],
        method: OneShotMethod,
        num_samples: int,
        *,
        curves: Mapping[str, Any] | None = None,
        allocation_seconds: float = 0.0,
        memory: int = 0,
        disk: int = 0,
        recoveries: Sequence[Any] = (),
        capability: Capability | None = None,
    ) -> None:
        self.kernels = tuple(kernels)
        self.method = method
        self.num_samples = num_samples
        self.curves = curves or {}
        self.allocation_seconds = allocation_seconds
        self.memory, self.disk = memory, disk
        self.recoveries = tuple(recoveries)
        self.capability = capability

    @property
    def sparsity(self) -> float:
        rows = [row for row in self.kernels if row.skipped is None]
        weights = sum(row.parameters for row in rows)
        return sum(row.zeros for row in rows) / weights if weights else 0.0

    @property
    def seconds(self) -> float:
        return self.allocation_seconds + sum(row.seconds for row in self.kernels)

    @property
    def headline(self) -> str:
        """One sentence on the result."""
        rows = [row for row in self.kernels if row.skipped is None]
        return (
            f"prune_one_shot: {percent(self.sparsity)} of "
            f"{sum(row.parameters for row in rows):,} weights in {len(rows)} kernels "
            f"pruned by '{self.method.name}', from {self.num_samples} samples, in "
            f"{self.seconds:.1f} s."
        )

    @property
    def _costs(self):
        text = (
            f"{self.allocation_seconds:.1f} s of them to divide the sparsity; "
            f"{self.memory / 1e6:,.0f} MB of activations and statistics in memory"
        )
        return (
            f"{text}, {self.disk / 1e6:,.0f} MB on disk." if self.disk else f"{text}."
        )

    @property
    def advice(self) -> str | None:
        """A sentence if some kernels saw few rows, else `None`."""
        few = [row for row in self.kernels if row.has_few_rows]
        if not few:
            return None
        worst = max(few, key=lambda row: row.num_inputs / row.num_rows)
        return (
            f"{len(few)} of the kernels saw fewer rows than they have inputs, e.g. "
            f"{worst.num_rows:,} for {worst.num_inputs:,} in '{worst.path}'. More "
            "samples may give a more accurate model."
        )

    def rows(self) -> Rows:
        """Returns one dict of plain values per kernel."""
        return [
            dataclasses.asdict(row) | {"sparsity": row.sparsity} for row in self.kernels
        ]

    def totals(self) -> dict[str, Any]:
        """Returns the totals as a dict of numbers.

        `"weights"` and `"zeros"` are those of all kernels, and `"pruned_sparsity"` is
        that of the kernels that were not skipped.
        """
        return {
            "pruned_sparsity": self.sparsity,
            "weights": sum_of(self.kernels, "parameters"),
            "zeros": sum_of(self.kernels, "zeros"),
            "num_samples": self.num_samples,
            "seconds": self.seconds,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
        }

    def view(self, expand: bool = False) -> View:
        """Returns the `View` that is printed."""
        return View(
            [
                self.headline,
                self._costs,
                *filter(None, [self.advice]),
                *map(str, self.recoveries),
                *([] if self.capability is None else [str(self.capability)]),
            ],
            [
                Column.of_sum("weights", "parameters"),
                Column.of_share("sparsity", _share),
                Column("output error", _error_text),
                Column.of_sum("seconds", "seconds", "{:.1f}", rank=1),
            ],
            lines_of(self.kernels, lambda row: row.sparsity, expand),
            self.kernels,
        )

    def plot(self, ax: Axes = None) -> Axes:
        """Plots sparsity and output error of each pruned kernel.

        Args:
            ax: Matplotlib axes, or `None` for new ones.

        Returns:
            The axes.
        """
        pruned = [row for row in self.kernels if row.skipped is None][::-1]
        ax, _ = axes_of_rows(ax, [row.path for row in pruned], row=0.25)
        upper, lower = ([i + gap for i in range(len(pruned))] for gap in (0.2, -0.2))
        sparsities = [row.sparsity for row in pruned]
        ax.barh(upper, sparsities, label="sparsity", height=0.4)
        errors = [row.error or 0.0 for row in pruned]
        ax.barh(lower, errors, label="output error", height=0.4)
        ax.set(xlim=(0, max([1.0, *errors])), xlabel="share")
        ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
        return ax

    def plot_curves(self, ax: Axes = None) -> Axes:
        """Plots the error curve of each kernel, and marks the sparsity that it has.

        Args:
            ax: Matplotlib axes, or `None` for new ones.

        Returns:
            The axes. Their errors have a logarithmic scale.

        Raises:
            ValueError: If there are no curves.
        """
        if not self.curves:
            raise ValueError(
                "The report has no error curves. `prune_one_shot` measures them with "
                "`allocation='error_curves'`, if there are several kernels."
            )
        # Coupled kernels have one curve, under the path of their layer.
        marks = {}
        for path in self.curves:
            rows = [r for r in self.kernels if f"{r.path}/".startswith(f"{path}/")]
            marks[path] = _share(rows)
        return plot_error_curves(
            self.curves, marks, ax, xlabel="sparsity", ylabel="relative output error"
        )


def _share(rows):
    return ratio_of(rows, "zeros", "parameters")


def _error_text(rows):
    """Returns the largest error of some kernels."""
    errors = [row.error for row in rows if row.error is not None]
    return f"{max(errors):.2g}" if errors else "-"

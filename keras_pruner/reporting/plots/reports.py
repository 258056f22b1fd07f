"""Plots the sparsity of each kernel."""

from keras_pruner.reporting.plots.axes import axes_of_rows, counts
from keras_pruner.reporting.render import percent
from keras_pruner.reporting.report import Report
from keras_pruner.types import Axes


def plot_report(report: Report, ax: Axes = None, *, shares: bool = False) -> Axes:
    """Plots, per kernel, how many weights are kept and how many are zero.

    New axes grow with the number of kernels. The names on axes of yours shrink until
    they fit, down to 3 points.

    Args:
        report: A `Report`, as `keras_pruner.report` returns it.
        ax: Matplotlib axes, or `None` for new ones.
        shares: Whether all bars are equally long and show the sparsity of each kernel.
            By default they are as long as the kernel has weights, so that small kernels
            are hardly seen beside large ones.

    Returns:
        The axes.
    """
    rows = report.kernels[::-1]
    ax, points = axes_of_rows(ax, [row.path for row in rows])
    places = range(len(rows))
    units = [row.parameters or 1 if shares else 1 for row in rows]

    def bars(numbers):
        return [number / unit for number, unit in zip(numbers, units, strict=True)]

    zeros = bars([row.zeros or 0 for row in rows])
    kept = bars(
        [0 if row.zeros is None else row.parameters - row.zeros for row in rows]
    )
    ax.barh(places, kept, label="kept")
    ax.barh(places, zeros, left=kept, color="lightgray", label="zero")
    others = bars([row.parameters if row.zeros is None else 0 for row in rows])
    if any(others):
        ax.barh(places, others, color="none", edgecolor="gray", label="not counted")
    for place, (row, unit) in enumerate(zip(rows, units, strict=True)):
        text = f" {percent(row.sparsity, 0)}"
        text += f" of {counts(row.parameters)}" if shares else ""
        ax.text(row.parameters / unit, place, text, va="center", fontsize=points)
    ax.set_xlabel("share of the weights" if shares else "weights")
    ax.xaxis.set_major_formatter(counts)
    ax.margins(x=0.18 if shares else 0.12)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    return ax

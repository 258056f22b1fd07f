"""Plots the errors that pruning single kernels makes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_pruner.reporting.plots.axes import axes_for, axes_of_rows
from keras_pruner.types import Axes

# More lines could not be told apart.
_MOST_LINES = 20
# An error below float32's rounding would only press the others together.
_LEAST = 1e-7
# A picture has at most so many columns.
_MOST_SHARES = 20


def plot_error_curves(curves, marks, ax=None, *, xlabel, ylabel):
    """Plots error curves on a logarithmic scale, and marks a share on each.

    More than 20 curves are drawn as a picture; see `plot_sensitivity`.

    Args:
        curves: Dict from names to lists of `(share, error)`.
        marks: Dict from the names to shares.
        ax: Matplotlib axes, or `None` for new ones.
        xlabel: Text.
        ylabel: Text.

    Returns:
        The axes.
    """
    if len(curves) > _MOST_LINES:
        return plot_sensitivity(curves, marks, ax, xlabel=xlabel)
    ax = axes_for(ax, layout="constrained")
    for name, curve in curves.items():
        (line,) = ax.plot(*zip(*curve, strict=True), marker=".", label=name)
        ax.axvline(marks[name], color=line.get_color(), linestyle=":")
    ax.set(xlabel=xlabel, ylabel=ylabel, yscale="log")
    ax.set_ylim(bottom=max(_LEAST, ax.get_ylim()[0]))
    if curves:
        ax.legend(fontsize="small")
    return ax


def plot_sensitivity(
    curves: Mapping[str, Sequence[Any]],
    marks: Mapping[str, float] | None = None,
    ax: Axes = None,
    *,
    xlabel: str = "sparsity",
) -> Axes:
    """Plots how sensitive each kernel is, as a picture with a row for each.

    Dark cells are large errors, on a logarithmic scale. New axes grow with the number
    of kernels, so that many of them stay readable.

    Args:
        curves: Dict from names to lists of `(share, error)`, e.g. the `curves` of an
            `OneShotReport`.
        marks: Dict from names to the shares that a plan chose, drawn as dots, or
            `None`.
        ax: Matplotlib axes, or `None` for new ones.
        xlabel: Text.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no curves.
    """
    if not any(curves.values()):
        raise ValueError("There are no error curves to plot.")
    names = list(curves)[::-1]
    shares = _common_shares(curves)
    ax, points = axes_of_rows(ax, names)
    cells = [_on_shares(curves[name], shares) for name in names]
    image = ax.imshow(cells, aspect="auto", cmap="magma_r", origin="lower")
    ax.set_xticks(
        range(len(shares)), [f"{share:.2g}" for share in shares], fontsize=points
    )
    marks = marks or {}
    chosen = [(marks[n], row) for row, n in enumerate(names) if n in marks]
    if chosen:
        xs = np.interp([share for share, _ in chosen], shares, range(len(shares)))
        rows = [row for _, row in chosen]
        ax.plot(xs, rows, "o", color="white", mec="black", markersize=points / 2)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, aspect=40)
    bar.set_label("log10 of the error")
    ax.set_xlabel(xlabel)
    return ax


def _common_shares(curves):
    """Returns the shares at which a picture shows curves, as an array."""
    shares = np.unique([share for curve in curves.values() for share, _ in curve])
    if len(shares) <= _MOST_SHARES:
        return shares
    return np.linspace(shares[0], shares[-1], _MOST_SHARES)


def _on_shares(curve, shares):
    """Returns the logarithm of the errors of a curve at shares; NaN outside of it.

    Example:

    >>> _on_shares([(0.25, 0.01), (0.75, 1.0)], [0.25, 0.5, 0.75, 0.8]).tolist()
    [-2.0, -1.0, 0.0, nan]
    """
    if not curve:
        return np.full(len(shares), np.nan)
    xs, errors = zip(*curve, strict=True)
    errors = np.log10(np.maximum(errors, _LEAST))
    return np.interp(shares, xs, errors, left=np.nan, right=np.nan)

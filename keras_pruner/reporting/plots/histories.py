"""Plots training runs."""

from typing import Any

from keras_pruner.reporting.plots.axes import axes_for
from keras_pruner.types import Axes


def plot_history(history: Any, metric: str = "accuracy", ax: Axes = None) -> Axes:
    """Plots a metric and the sparsity of a run over its epochs.

    Args:
        history: The `History` that `model.fit` returned, or its `history` dict.
        metric: Name of the metric. The metric of the same name with `"val_"` is drawn
            too, if there is one.
        ax: Matplotlib axes, or `None` for new ones.

    Returns:
        The axes of the metric; the sparsity has twin axes.

    Raises:
        ValueError: If the history lacks the metric or the sparsity.
    """
    logs = getattr(history, "history", history)
    for name in (metric, "sparsity"):
        if name not in logs:
            raise ValueError(
                f"The history has no '{name}'. It has: {', '.join(logs) or 'nothing'}."
            )
    ax = axes_for(ax, layout="constrained")
    epochs = range(1, len(logs[metric]) + 1)
    # A line through one epoch is invisible.
    marker = "o" if len(epochs) <= 20 else None
    for name in (metric, f"val_{metric}"):
        if name in logs:
            ax.plot(epochs, logs[name], label=name, marker=marker, markersize=4)
    twin = ax.twinx()
    twin.fill_between(epochs, logs["sparsity"], alpha=0.15, color="gray")
    twin.plot(epochs, logs["sparsity"], color="lightgray", marker=marker, markersize=4)
    twin.set(ylabel="sparsity", ylim=(0, 1))
    ax.set(xlabel="epoch", ylabel=metric, xlim=(0.5, len(epochs) + 0.5))
    ax.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    ax.legend(loc="best")
    return ax

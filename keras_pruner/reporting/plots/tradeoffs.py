"""Plots what several models cost and how accurate they are."""

from collections.abc import Mapping

from keras_pruner.reporting.comparing.model_comparison import ModelComparison
from keras_pruner.reporting.plots.axes import axes_for, counts
from keras_pruner.types import Axes

_SIZE = "bytes, deflated"


def plot_tradeoff(
    comparisons: Mapping[str, ModelComparison],
    against: str = _SIZE,
    metric: str | None = None,
    ax: Axes = None,
) -> Axes:
    """Plots the accuracy of several models against their size or latency.

    ```python
    pruned = prune_at_init(
        model, criterion="magnitude", target_sparsity=0.8, verbose=False
    )
    found = compare(model, pruned, (x, y), engines=())
    plot_tradeoff({"80 %": found}, against="bytes, deflated")
    ```

    Args:
        comparisons: Dict from names to `ModelComparison`s with one model before.
        against: The cost: a quantity of the comparisons, e.g. `"bytes, deflated"`,
            `"bytes for litert"`, `"parameters"` or `"litert, batch 1, ms"`.
        metric: The metric, or `None` for the first that has "acc" in its name, or else
            the first.
        ax: Matplotlib axes, or `None` for new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If a comparison lacks the cost or the metric.
    """
    if not comparisons:
        raise ValueError("There are no comparisons to plot.")
    points = {}
    for name, comparison in comparisons.items():
        costs = _values(comparison, against)
        scores = _values(comparison, metric or _metric_of(comparison))
        points.setdefault("before", (costs[0], scores[0]))
        points[name] = (costs[1], scores[1])
    ax = axes_for(ax, layout="constrained")
    # Models at one place share a label.
    labels = {}
    for name, point in points.items():
        labels.setdefault(point, []).append(name)
    for point, names in labels.items():
        ax.plot(*point, "o", color="gray" if "before" in names else "tab:blue")
        ax.annotate(
            ", ".join(names),
            point,
            xytext=(5, 4),
            textcoords="offset points",
            fontsize="small",
        )
    ax.xaxis.set_major_formatter(counts)
    first = next(iter(comparisons.values()))
    ax.set(xlabel=against, ylabel=metric or _metric_of(first))
    # Room for the names at the right.
    ax.margins(x=0.2, y=0.15)
    ax.grid(alpha=0.3)
    return ax


def _metric_of(comparison):
    names = list(comparison.scores.values)
    if not names:
        raise ValueError(
            "A comparison has no metric. Give `compare` labelled data, and `metrics` "
            "if the models are not compiled."
        )
    return next((name for name in names if "acc" in name.lower()), names[0])


def _values(comparison, name):
    known = {
        row["quantity"]: (row["before"], row["after"]) for row in comparison.rows()
    }
    values = known.get(name)
    if values is None or None in values:
        known = ", ".join(f"'{key}'" for key, v in known.items() if None not in v)
        raise ValueError(f"A comparison has no '{name}'. It has: {known}.")
    return values

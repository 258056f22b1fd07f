"""Plots schedules, training runs and reports."""

from keras_pruner.config import as_config
from keras_pruner.pruners import PRUNERS, PatternLock
from keras_pruner.reporting.render import percent


def plot_schedule(config=None, total_steps=1000, ax=None):
    """Plots the sparsity of each mask update of a run.

    The pruner itself chooses the steps and the sparsities, as it does in `fit`. So
    the curve has the phases of `"acdc"` and the rounds of `"lottery_ticket"`, and
    begins at step 1 for criteria that need a gradient first.

    Args:
        config: `PruningConfig`, dict, or `None` for the defaults. If the allocation
            sets a sparsity for each kernel, the curve is that of a kernel at
            `target_sparsity`.
        total_steps: Optimizer updates of the run; sets the steps that are `None`.
        ax: Matplotlib axes, or `None` for new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the config is invalid, or the pruner has no schedule:
            `"pattern_lock"` keeps the zeros of a model, and criteria such as
            `"synflow"` prune in `prune_at_init` only.
    """
    pruner = _pruner_without_kernels(as_config(config))
    pruner.schedule_steps(total_steps)
    scheduler = pruner.scheduler
    steps = list(range(scheduler.begin, scheduler.end + 1, scheduler.frequency))
    values = [pruner.sparsity_at(step) for step in steps]
    if scheduler.begin > 0:
        steps, values = [0, *steps], [0.0, *values]
    ax = _axes(ax, layout="constrained")
    ax.step(
        [*steps, max(total_steps, scheduler.end)],
        [*values, values[-1]],
        where="post",
        label=scheduler.schedule.name,
    )
    ax.axvline(scheduler.last_update, linestyle=":", color="gray")
    ax.set(xlabel="optimizer update", ylabel="sparsity", ylim=(0, 1))
    ax.legend()
    return ax


def _pruner_without_kernels(config):
    """Returns a pruner that knows its steps and prunes nothing."""
    pruner_class = PRUNERS[config.pruning_type]
    if issubclass(pruner_class, PatternLock):
        raise ValueError(
            f"Pruner '{config.pruning_type}' keeps the zeros that a model has, so "
            "there is no schedule to plot. `report(model)` tells its sparsity."
        )

    class WithoutKernels(pruner_class):
        target_sparsity_ratio = config.target_sparsity

        def build(self):
            """Needs no kernels of the pattern, as a real pruner would."""

    return WithoutKernels(config, {})


def plot_history(history, metric="accuracy", ax=None):
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
    ax = _axes(ax, layout="constrained")
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


def plot_report(report, ax=None):
    """Plots, per kernel, how many weights are kept and how many are zero.

    New axes grow with the number of kernels. The names on axes of yours shrink until
    they fit, down to 3 points.

    Args:
        report: A `Report`, as `keras_pruner.report` returns it.
        ax: Matplotlib axes, or `None` for new ones.

    Returns:
        The axes.
    """
    rows = report.kernels[::-1]
    longest = max((len(row.path) for row in rows), default=0)
    # Inches: a name of 9 points a row, beside bars of 5 inches.
    size = (5.5 + 0.08 * longest, 1.5 + 0.2 * len(rows))
    ax = _axes(ax, figsize=size, layout="constrained")
    height = ax.get_window_extent().height / ax.figure.dpi
    points = min(9, max(3, 0.8 * 72 * height / max(1, len(rows))))
    places = range(len(rows))
    zeros = [row.zeros or 0 for row in rows]
    kept = [0 if row.zeros is None else row.parameters - row.zeros for row in rows]
    ax.barh(places, kept, label="kept")
    ax.barh(places, zeros, left=kept, color="lightgray", label="zero")
    others = [row.parameters if row.zeros is None else 0 for row in rows]
    if any(others):
        ax.barh(places, others, color="none", edgecolor="gray", label="not counted")
    for place, row in enumerate(rows):
        text = f" {percent(row.sparsity, 0)}"
        ax.text(row.parameters, place, text, va="center", fontsize=points)
    ax.set_yticks(places, [row.path for row in rows], fontsize=points)
    ax.set(xlabel="weights", ylim=(-0.6, max(1, len(rows)) - 0.4))
    ax.xaxis.set_major_formatter(_counts)
    ax.margins(x=0.12)
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    return ax


def _counts(value, _):
    """Returns a number of weights in thousands, millions or billions."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _axes(ax, **figure):
    """Returns axes, or new ones on a figure with the given settings."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib. Install it, or keras-pruner[plots]."
        ) from error
    return pyplot.subplots(**figure)[1]

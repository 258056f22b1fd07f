"""Plots the sparsity that a config plans."""

from keras_pruner.config import AnyConfig, as_config
from keras_pruner.pruners import PRUNERS, PatternLock
from keras_pruner.reporting.plots.axes import axes_for
from keras_pruner.types import Axes


def plot_schedule(
    config: AnyConfig = None, total_steps: int = 1000, ax: Axes = None
) -> Axes:
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
    ax = axes_for(ax, layout="constrained")
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

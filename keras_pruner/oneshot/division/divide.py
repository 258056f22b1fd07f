"""Divides a sparsity over the units of a model."""

import dataclasses

from keras_pruner.checks import did_you_mean, shown
from keras_pruner.components import ALLOCATIONS, Allocation
from keras_pruner.config import SAMPLED_ALLOCATIONS
from keras_pruner.masks import PruningPlan
from keras_pruner.oneshot.division.error_curves import GRID, curve_sparsities
from keras_pruner.oneshot.division.owl import owl_sparsities

ERROR_CURVES, OWL = SAMPLED_ALLOCATIONS


def check_name(allocation):
    """Raises an error if an allocation is a name that nobody registered."""
    known = [*SAMPLED_ALLOCATIONS, *ALLOCATIONS]
    if isinstance(allocation, str) and allocation not in known:
        raise ValueError(
            f"Unknown allocation {shown(allocation)}. Known: {', '.join(known)}."
            f"{did_you_mean(allocation, known)}"
        )


def check_allocation(config):
    """Raises an error if the allocation of a config ranks scores."""
    given = config.allocation
    if given is not None and (given.ranks_jointly or given.ranks_within_outputs):
        raise ValueError(
            f"Allocation '{given.name}' ranks scores, and `prune_one_shot` solves one "
            "kernel after the other. Use 'error_curves', 'owl', 'uniform', 'erk', a "
            "dict or a function."
        )


def divide(run, config, units, sampled, progress):
    """Divides the sparsity of a config over units.

    Args:
        run: `StageByStage`, which has pruned nothing yet.
        config: `PruningConfig`. Its allocation is `None` if samples decide.
        units: List of tuples of `Kernel`s that lose the same groups.
        sampled: Name in `SAMPLED_ALLOCATIONS`: how samples decide.
        progress: `rich.progress.Progress`.

    Returns:
        Dict from the deciding kernel of each unit to its number of groups to prune, and
        dict from the names of the units to their error curves, if these were measured.
    """
    curves, allocation = {}, config.allocation
    is_open = 0 < config.target_sparsity < config.pattern.max_sparsity
    if allocation is None and (len(units) == 1 or not is_open):
        # There is nothing to choose.
        allocation = "uniform"
    elif allocation is None and sampled == OWL:
        ratios = _measure(run.outlier_ratios, run, config, units, progress)
        allocation = _Divided(owl_sparsities(ratios, *_totals_of(config, units)))
    elif allocation is None:
        arguments = _grid_for(config), config.target_sparsity
        curves = _measure(run.error_curves, run, config, units, progress, *arguments)
        allocation = _Divided(curve_sparsities(curves, *_totals_of(config, units)))
    config = dataclasses.replace(config, allocation=allocation)
    plan = PruningPlan(config, [kernel for unit in units for kernel in unit])
    counts = plan.demand(plan.final_sparsity).counts
    deciding = [run.deciding(unit[0]) for unit in units]
    return dict(zip(deciding, counts, strict=True)), curves


class _Divided(Allocation):
    """Gives units sparsities that meet the target, up to caps, floors and rounding."""

    def __init__(self, sparsities):
        self._sparsities = sparsities

    def relative_densities(self, plans):
        return [max(1e-6, 1 - self._sparsities[plan.path]) for plan in plans]


def _grid_for(config):
    """Returns the sparsities at which errors are measured."""
    highest = config.pattern.max_sparsity
    grid = [sparsity for sparsity in GRID if sparsity < highest]
    if highest < 1:
        return [*grid, highest]
    beyond = [(1 + config.target_sparsity) / 2]
    return grid + beyond if config.target_sparsity >= grid[-1] else grid


def _measure(measure, run, config, units, progress, *arguments):
    """Returns a measure of each unit's deciding kernel, by the unit's name."""
    bar = progress.add_task("allocation", total=len(units))
    unit_of = {run.deciding(unit[0]): unit for unit in units}
    found = {}
    for stage in run.stages:
        stage = [kernel for kernel in stage if kernel in unit_of]
        for kernel, value in measure(stage, *arguments).items():
            name = config.pattern.unit_name(unit_of[kernel])
            found[name] = value
            progress.update(bar, advance=1, description=f"allocation: {name}")
    return found


def _totals_of(config, units):
    """Returns the sizes of the units, the target over all, and the caps of each."""
    sizes = {
        config.pattern.unit_name(unit): sum(kernel.layout.size for kernel in unit)
        for unit in units
    }
    highest = config.max_sparsity
    if config.pattern.max_sparsity < 1:
        highest = min(highest or 1.0, config.pattern.max_sparsity)
    return sizes, config.target_sparsity, (config.min_sparsity, highest)

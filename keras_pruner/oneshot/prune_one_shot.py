"""Prunes a trained model in one shot, from a few hundred unlabelled samples."""

import dataclasses
import time
import typing

from keras import ops
from rich.progress import Progress

from keras_pruner.checks import check_in_range
from keras_pruner.comparison import check_copy
from keras_pruner.config import Settings, merged_config, takes_settings
from keras_pruner.kernels import check_built, select_kernels
from keras_pruner.masks import PruningPlan
from keras_pruner.oneshot.error_curves import GRID, curve_sparsities
from keras_pruner.oneshot.methods import METHODS
from keras_pruner.oneshot.one_shot_report import OneShotReport, OneShotRow
from keras_pruner.oneshot.recovery import DenseModel, recoveries_of
from keras_pruner.oneshot.samples import collect_samples
from keras_pruner.oneshot.stages import StageByStage
from keras_pruner.training import plain_copy

ERROR_CURVES = "error_curves"


@takes_settings
def prune_one_shot(
    model, data, target_sparsity=None, *, method="admm", allocation=ERROR_CURVES,
    num_samples=512, batch_size=None, dense_target=True, centre=True,
    recovery=None, max_memory=2**32, seed=0, config=None, in_place=False, check=True,
    verbose=True, **settings: typing.Unpack[Settings],
):  # fmt: skip
    """Prunes a trained model in one shot, from a few hundred unlabelled samples.

    Nothing is trained, unless a recovery does. Kernel by kernel, in the order in which
    data reaches them, a method chooses the weights to keep and changes them, so that
    the kernel computes what it computed in the dense model, from the inputs that it
    gets in the pruned one; see `KernelProblem`. Biases take up what is left of the
    mean.

    ```python
    sparse, report = prune_one_shot(model, x[:512], target_sparsity=0.8)
    print(report)
    ```

    Args:
        model: Built Keras model.
        data: Samples of the model's inputs: an array, a dict or tuple of arrays for
            several inputs, a `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch
            `DataLoader`, or another iterable of batches. Labels are not used.
        target_sparsity: Share of the weights of all pruned kernels to zero, in [0, 1).
        method: Name or `OneShotMethod`: `"admm"`, `"sparsegpt"`, `"wanda"`, `"alps"`,
            `"magnitude"`, `"dsnot"`.
        allocation: How the sparsity is divided over kernels. `"error_curves"` measures
            the error that each kernel makes alone, at nine sparsities; or any
            allocation of `PruningConfig` that ranks no scores over all kernels.
        num_samples: Most samples to use.
        batch_size: Samples in a batch of calibration; `None` chooses.
        dense_target: Whether each kernel approaches the outputs of the dense model. If
            not, it approaches those of its own dense weights.
        centre: Whether biases take up the mean of what is lost.
        recovery: How the pruned model is repaired. `"distill"` trains it towards the
            outputs of the dense model; see `distill`. `"batch_normalization"`
            recomputes statistics; see `reestimate_batch_normalization`. Or a dict of a
            name and its config, a `Recovery`, or a tuple of several, in their order.
        max_memory: Most bytes of activations to keep in memory between kernels; more go
            to temporary files. A model with a `call` of its own keeps none: it runs
            from its inputs for each stage.
        seed: Integer. Equal seeds give equal results on one machine.
        config: `PruningConfig` or dict. Its steps and schedule have no meaning here.
        in_place: Whether to prune the model itself. By default it does not change.
        check: Whether to compare the copy with the model before it is pruned, on the
            first batch.
        verbose: Whether to show a progress bar and a line on the result.
        **settings: Fields of `PruningConfig`, in place of a config or on top of it.

    Returns:
        Tuple of the pruned model, a plain uncompiled copy unless `in_place`, and the
        `OneShotReport`.

    Raises:
        ValueError: If a setting or the data does not fit, an activation is not finite,
            or nothing can be pruned. Nothing of the model changes then.
    """
    check_built(model)
    method = METHODS.get(method)
    recoveries = recoveries_of(recovery)
    for each in recoveries:
        each.check(model, dense_target)
    config = _config_of(config, target_sparsity, allocation, settings)
    check_in_range(max_memory, "`max_memory`", 0, integer=True)
    samples = collect_samples(
        model, data, num_samples=num_samples, batch_size=batch_size, seed=seed
    )
    pruned = model if in_place else plain_copy(model)
    if check and not in_place:
        check_copy(model, pruned, samples.batches[0])
    selections = select_kernels(pruned, config)
    for selection in selections:
        selection.check_not_empty()
    _check_kernels(selections)
    units = [
        (unit, selection.config.pattern)
        for selection in selections
        for unit in _coupled(selection.config.pattern, selection.kernels)
    ]
    run = StageByStage(
        pruned, units, samples.batches, method,
        dense_target=dense_target, centre=centre, max_memory=max_memory, seed=seed,
    )  # fmt: skip
    left_out = _whole_units(run.order.left_out, units)
    skipped = [skip for selection in selections for skip in selection.skipped]
    skipped += [kernel.skip(reason) for kernel, reason in left_out.items()]
    before = [ops.copy(variable) for variable in pruned.weights]
    done, recovered = [], []
    try:
        with Progress(disable=not verbose, transient=True) as progress:
            counts, start = {}, time.perf_counter()
            for selection in selections:
                kernels = [k for k in selection.kernels if k not in left_out]
                if not kernels:
                    continue
                counts |= _counts(run, selection.config, kernels, progress)
            allocation_seconds = time.perf_counter() - start
            num_kernels = sum(run.deciding(k) in counts for u, _ in units for k in u)
            bar = progress.add_task("prune_one_shot", total=num_kernels)
            for each in run.prune(counts):
                done.append(each)
                progress.update(bar, advance=1, description=each.kernel.path)
        teacher = DenseModel(pruned, before) if in_place else model
        for each in recoveries:
            recovered.append(
                each.recover(pruned, teacher, samples, seed=seed, verbose=verbose)
            )
    except BaseException:
        for variable, value in zip(pruned.weights, before, strict=True):
            variable.assign(value)
        raise
    rows = [_row_of(each) for each in done]
    rows += [OneShotRow(s.path, s.shape, s.size, skipped=s.reason) for s in skipped]
    report = OneShotReport(
        rows, method, len(samples), allocation_seconds=allocation_seconds,
        memory=run.peak_memory, disk=run.peak_disk, recoveries=recovered,
    )  # fmt: skip
    if verbose:
        print(report.headline, *report.recoveries, sep="\n")
    return pruned, report


def _row_of(pruned):
    kernel = pruned.kernel
    return OneShotRow(
        kernel.path, tuple(kernel.variable.shape), kernel.layout.size,
        pruned.num_pruned, pruned.error, pruned.seconds,
    )  # fmt: skip


def _config_of(config, target_sparsity, allocation, settings):
    """Returns the config; its allocation is `None` if error curves decide."""
    if target_sparsity is not None:
        settings = settings | {"target_sparsity": target_sparsity}
    if allocation != ERROR_CURVES:
        settings = settings | {"allocation": allocation}
    config = merged_config(config, settings)
    given = config.allocation
    if given is not None and (given.ranks_jointly or given.ranks_within_outputs):
        raise ValueError(
            f"Allocation '{given.name}' ranks scores, and `prune_one_shot` solves one "
            "kernel after the other. Use 'error_curves', 'uniform', 'erk', a dict or a "
            "function."
        )
    return config


def _check_kernels(selections):
    for selection in selections:
        wrapped = [k.path for k in selection.kernels if k.wrapper_mask is not None]
        if wrapped:
            raise ValueError(
                f"{', '.join(wrapped)}: the layers are wrapped by PrunedLayer, whose "
                "masks would stay as they are. Use `in_place=False`, or `strip` the "
                "model first."
            )


def _coupled(pattern, kernels):
    """Returns tuples of kernels that lose the same groups."""
    return [tuple(kernels[i] for i in unit) for unit in pattern.couple(kernels)]


def _whole_units(left_out, units):
    """Leaves a whole unit out if one of its kernels is left out."""
    found = dict(left_out)
    for kernels, _ in units:
        reasons = [left_out[kernel] for kernel in kernels if kernel in left_out]
        if reasons:
            found |= {k: left_out.get(k, reasons[0]) for k in kernels}
    return found


def _counts(run, config, kernels, progress):
    """Returns the number of groups that each unit loses, by its deciding kernel."""
    units = _coupled(config.pattern, kernels)
    if config.allocation is None and len(units) > 1:
        allocation = _by_curves(run, config, units, progress)
    else:
        allocation = config.allocation or "uniform"
    config = dataclasses.replace(config, allocation=allocation)
    plan = PruningPlan(config, kernels)
    demand = plan.demand(plan.final_sparsity)
    deciding = [run.deciding(unit[0]) for unit in units]
    return dict(zip(deciding, demand.counts, strict=True))


def _by_curves(run, config, units, progress):
    """Returns the allocation that the error curves of the units make."""
    highest = config.pattern.max_sparsity
    if config.target_sparsity >= highest:
        # All kernels are at the highest sparsity of the pattern.
        return "uniform"
    grid = [sparsity for sparsity in GRID if sparsity < highest]
    if highest < 1:
        grid.append(highest)
    bar = progress.add_task("error curves", total=len(units))
    unit_of = {run.deciding(unit[0]): unit for unit in units}
    curves, sizes = {}, {}
    for stage in run.stages:
        stage = [kernel for kernel in stage if kernel in unit_of]
        for kernel, curve in run.error_curves(stage, grid).items():
            unit = unit_of[kernel]
            name = config.pattern.unit_name(unit)
            curves[name] = curve
            sizes[name] = sum(each.layout.size for each in unit)
            progress.update(bar, advance=1, description=f"error of {name}")
    caps = (config.min_sparsity, config.max_sparsity)
    sparsities = curve_sparsities(curves, sizes, config.target_sparsity, caps)
    return lambda plan: sparsities[plan.path]

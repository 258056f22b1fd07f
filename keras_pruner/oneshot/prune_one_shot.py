"""Prunes a trained model in one shot, from a few hundred unlabelled samples."""

import contextlib
import time
import typing
from typing import Any

import keras
from absl import logging

from keras_pruner.checks import check_bool, check_in_range
from keras_pruner.comparison import check_copy
from keras_pruner.components import Allocation
from keras_pruner.config import (
    SAMPLED_ALLOCATIONS,
    AnyConfig,
    OneShotSettings,
    merged_config,
    refuse_overlaps,
    rename_keys,
    takes_settings,
)
from keras_pruner.kernels import check_built, refuse_quantized, select_kernels
from keras_pruner.oneshot.division import check_allocation, check_name, divide
from keras_pruner.oneshot.influence import NUM_PASSES
from keras_pruner.oneshot.methods import METHODS
from keras_pruner.oneshot.methods.base import OneShotMethod
from keras_pruner.oneshot.one_shot_report import OneShotReport, OneShotRow
from keras_pruner.oneshot.recovery import (
    DenseModel,
    recoveries_of,
    unchanged_if_failed,
)
from keras_pruner.oneshot.samples import collect_samples
from keras_pruner.oneshot.stages import StageByStage
from keras_pruner.pytorch import is_torch_module, one_shot_module
from keras_pruner.reporting import progress_bar
from keras_pruner.training import plain_copy
from keras_pruner.types import Data, ModelT

# Settings of a config that only training knows.
_OF_TRAINING = {
    "begin_step",
    "criterion",
    "end_step",
    "frequency",
    "initial_sparsity",
    "low_memory_usage",
    "mask_bits",
    "pruner_options",
    "pruning_type",
    "regularizer",
    "regularizer_strength",
    "resume_from_pruned_checkpoint",
    "schedule",
}


@takes_settings
def prune_one_shot(
    model: ModelT,
    data: Data,
    target_sparsity: float | None = None,
    *,
    method: str | OneShotMethod | dict[str, Any] = "admm",
    allocation: str | Allocation | dict[str, Any] | None = None,
    num_samples: int = 512,
    batch_size: int | None = None,
    dense_target: bool = True,
    centre: bool = True,
    weigh_outputs: bool = True,
    recovery: Any = None,
    max_memory: int = 2**32,
    seed: int = 0,
    config: AnyConfig = None,
    in_place: bool = False,
    check: bool = True,
    verbose: bool = True,
    **settings: typing.Unpack[OneShotSettings],
) -> tuple[ModelT, OneShotReport]:
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
        model: Built Keras model, or a `torch.nn.Module`, with Keras on any backend.
        data: Samples of the model's inputs: an array, a dict or tuple of arrays for
            several inputs, a `tf.data.Dataset`, a `keras.utils.PyDataset`, a torch
            `DataLoader`, or another iterable of batches. Labels are not used. A dict
            has named arguments of a torch module, a tuple positional ones if `forward`
            requires as many.
        target_sparsity: Share of the weights of all pruned kernels to zero, in [0, 1).
        method: Name or `OneShotMethod`: `"admm"`, `"sparsegpt"`, `"wanda"`, `"alps"`,
            `"magnitude"`, `"dsnot"`.
        allocation: How the sparsity is divided over kernels. `"error_curves"` measures
            at nine sparsities the error that each kernel makes alone, in its own
            outputs and in the model's, and prunes where that costs least. `"owl"`
            stays within 0.08 of the target; kernels with more outliers among their
            Wanda scores keep more. Or any allocation of `PruningConfig` that ranks no
            scores over all kernels. `None` is that of the config, or
            `"error_curves"`.
        num_samples: Most samples to use.
        batch_size: Samples in a batch of calibration; `None` chooses.
        dense_target: Whether each kernel approaches the outputs of the dense model. If
            not, it approaches those of its own dense weights.
        centre: Whether biases take up the mean of what is lost.
        weigh_outputs: Whether outputs of a kernel count by how much the model's outputs
            depend on them; see `output_weights`. That takes eight passes backward
            through the model, each with the memory of a gradient on a batch. It applies
            to `"admm"`, `"alps"` and `"sparsegpt"`.
        recovery: How the pruned model is repaired. `"distill"` trains it towards the
            outputs of the dense model; see `distill`. `"batch_normalization"`
            recomputes statistics; see `reestimate_batch_normalization`. Or a dict of a
            name and its config, a `Recovery`, or a tuple of several, in their order.
        max_memory: Most bytes of activations to keep in memory between kernels; more go
            to temporary files. A model with a `call` of its own, or a torch module,
            keeps none: it runs from its inputs for each stage. What `weigh_outputs`
            and `recovery` need comes on top.
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
    if not is_torch_module(model):
        check_built(model)
    method = METHODS.get(method)
    recoveries = recoveries_of(recovery)
    if recoveries and is_torch_module(model):
        raise ValueError(
            "`recovery` takes Keras models. To train a pruned torch module on, use "
            "`PytorchBasePruner` with `pruning_type='pattern_lock'`."
        )
    for each in recoveries:
        each.check(model, dense_target)
    config = _config_of(config, target_sparsity, allocation, settings)
    check_in_range(max_memory, "`max_memory`", 0, integer=True)
    weigh_outputs = check_bool(weigh_outputs, "`weigh_outputs`")
    samples = collect_samples(
        model, data, num_samples=num_samples, batch_size=batch_size, seed=seed
    )
    batch = samples.batches[0]
    solving = {
        "dense_target": dense_target, "centre": centre, "max_memory": max_memory,
        "seed": seed,
    }  # fmt: skip
    recovered = []
    with _prepared(model, config, batch, in_place, check) as (pruned, subject, config):
        run, selections, units = _plan(subject, config, samples, method, solving)
        with unchanged_if_failed(_variables_of(subject, run)) as before:
            sampled = allocation or SAMPLED_ALLOCATIONS[0]
            is_weighed = weigh_outputs and method.weighs_outputs
            report = _prune(run, selections, units, sampled, is_weighed, verbose)
            teacher = DenseModel(pruned, before) if in_place else model
            for each in recoveries:
                recovered.append(
                    each.recover(pruned, teacher, samples, seed=seed, verbose=verbose)
                )
    report = OneShotReport(
        **report, method=method, num_samples=len(samples), recoveries=recovered,
        capability=config.capability(),
    )  # fmt: skip
    if verbose:
        lines = [report.headline, *report.recoveries, report.capability]
        print(*filter(None, lines), sep="\n")
    if report.advice:
        logging.warning("prune_one_shot: %s", report.advice)
    return pruned, report


@contextlib.contextmanager
def _prepared(model, config, batch, in_place, check):
    """Yields the model to prune, an object with its kernels, and a config for that."""
    if is_torch_module(model):
        prepared = one_shot_module(model, config, batch, in_place, check)
        with prepared as (subject, config):
            yield model if in_place else subject.module, subject, config
        return
    pruned = model if in_place else plain_copy(model)
    if check and not in_place:
        check_copy(model, pruned, batch)
    yield pruned, pruned, config


def _variables_of(model, run):
    """Returns what may change: a recovery changes more than kernels and biases."""
    return model.weights if isinstance(model, keras.layers.Layer) else run.variables


def _plan(model, config, samples, method, settings):
    """Selects kernels.

    Returns:
        `StageByStage`, list of `Selection`s, and list of `(unit, pattern)`.
    """
    selections = select_kernels(model, config)
    for selection in selections:
        selection.check_not_empty()
    _check_kernels(selections)
    units = [
        (unit, selection.config.pattern)
        for selection in selections
        for unit in _coupled(selection.config.pattern, selection.kernels)
    ]
    run = StageByStage(model, units, samples.batches, method, **settings)
    return run, selections, units


def _prune(run, selections, units, allocation, weigh_outputs, verbose):
    """Prunes all kernels; returns the arguments of an `OneShotReport`."""
    left_out = _whole_units(run.order.left_out, units)
    done, counts, curves, start = [], {}, {}, time.perf_counter()
    with progress_bar(verbose) as progress:
        if weigh_outputs:
            bar = progress.add_task("influence on the outputs", total=NUM_PASSES)
            run.weigh_outputs(lambda: progress.update(bar, advance=1))
        for selection in selections:
            kernels = [k for k in selection.kernels if k not in left_out]
            if kernels:
                own = _coupled(selection.config.pattern, kernels)
                found = divide(run, selection.config, own, allocation, progress)
                counts, curves = counts | found[0], curves | found[1]
        allocation_seconds = time.perf_counter() - start
        num_kernels = sum(run.deciding(k) in counts for u, _ in units for k in u)
        bar = progress.add_task("prune_one_shot", total=num_kernels)
        for each in run.prune(counts):
            done.append(each)
            error = "" if each.error is None else f": error {each.error:.2g}"
            description = f"{each.kernel.path}{error}"
            progress.update(bar, advance=1, description=description)
    skipped = [skip for selection in selections for skip in selection.skipped]
    skipped += [kernel.skip(reason) for kernel, reason in left_out.items()]
    rows = [_row_of(each) for each in done]
    rows += [OneShotRow(s.path, s.shape, s.size, skipped=s.reason) for s in skipped]
    return {
        "kernels": rows,
        "curves": curves,
        "allocation_seconds": allocation_seconds,
        "memory": run.peak_memory,
        "disk": run.peak_disk,
    }


def _row_of(pruned):
    kernel = pruned.kernel
    return OneShotRow(
        kernel.path, tuple(kernel.variable.shape), kernel.layout.size,
        pruned.num_pruned, pruned.error, pruned.seconds, kernel.layout.rows,
        pruned.num_rows,
    )  # fmt: skip


def _config_of(config, target_sparsity, allocation, settings):
    """Returns the config; its allocation is `None` if the samples decide."""
    for name in _OF_TRAINING & set(rename_keys(settings)):
        raise ValueError(
            f"`{name}` has no meaning for `prune_one_shot`, which prunes in one step "
            "and without training. `method` says how weights are chosen. Leave it out."
        )
    if target_sparsity is not None:
        settings = settings | {"target_sparsity": target_sparsity}
    check_name(allocation)
    if allocation is not None:
        is_sampled = allocation in SAMPLED_ALLOCATIONS
        settings = settings | {"allocation": None if is_sampled else allocation}
    config = merged_config(config, settings)
    refuse_overlaps(config, "prune_one_shot")
    check_allocation(config)
    return config


def _check_kernels(selections):
    for selection in selections:
        refuse_quantized(selection.kernels, "prune_one_shot")
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

"""Cuts channels out of a trained model until it meets a target."""

import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_pruner.checks import check_in_range
from keras_pruner.comparison import output_error, outputs_of
from keras_pruner.oneshot import recoveries_of
from keras_pruner.reporting import progress_bar
from keras_pruner.slimming.cutting import note_on_saving
from keras_pruner.slimming.structured.measured import as_cost, measured_costs
from keras_pruner.slimming.structured.preparation import check_model, prepare
from keras_pruner.slimming.structured.structured_report import StructuredReport
from keras_pruner.slimming.structured.targets import read_target
from keras_pruner.slimming.verify import verify
from keras_pruner.types import Amount, Data, Where


def prune_structured(
    model: keras.Model,
    target: Mapping[str, Any] | None = None,
    data: Data = None,
    *,
    parameters: Amount = None,
    flops: Amount = None,
    bytes: Amount = None,
    latency: Amount = None,
    include: Where = None,
    exclude: Where = None,
    min_kept: float = 0.1,
    round_to: int = 1,
    uniform: bool = False,
    steps: int = 1,
    recovery: Any = None,
    num_samples: int = 512,
    batch_size: int | None = None,
    max_memory: int = 2**32,
    seed: int = 0,
    verbose: bool = True,
    **unknown: Any,
) -> tuple[keras.Model, StructuredReport]:
    """Cuts channels, units and heads out of a trained model, down to a target.

    Which channels must go together is found by `ChannelGraph`. The result is a plain
    Keras model with smaller layers, so every runtime computes less.

    With unlabelled `data`, the channels go whose removal changes the outputs of the
    layers that read them least; see `eliminate`. The weights of these layers are then
    fitted so that they compute what they did in the given model. Without data, the
    channels of the smallest norms go.

    Args:
        model: Built Keras model. It does not change.
        target: Dict of one target, in place of one of the four keywords.
        data: Samples of the inputs without labels; see `prune_one_shot`. Or `None`.
        parameters, flops, bytes, latency: The target: what the result costs at most. A
            share of the given model in (0, 1), or an amount, e.g. `"1 M"`,
            `"200 MFLOPs"`, `"1 MB"` (of the `.keras` file) or `"5 ms"`.
        include: Regex, layer, function, or list of these. Only groups are cut that a
            selected kernel computes.
        exclude: The same. No group is cut that is computed or read by such a kernel.
        min_kept: Share of its channels that each group keeps at least, in [0, 1].
        round_to: Each group keeps a multiple of so many channels, or all.
        uniform: Whether groups of repeated blocks keep equally many channels. A model
            whose class has a `get_config`, e.g. a backbone of KerasHub, then keeps its
            class, and loses only channels whose number its config says.
        steps: Number of rounds with `data`, each of which removes a part and fits the
            weights. More are slower and at times more accurate.
        recovery: How the result is repaired; see `prune_one_shot`. It needs `data`.
        num_samples: Most samples to use.
        batch_size: Samples in a batch; `None` chooses.
        max_memory: Most bytes of activations to keep in memory.
        seed: Integer.
        verbose: Whether to show a progress bar and a line on the result.

    Returns:
        Tuple of the smaller Keras model, not compiled, and the `StructuredReport`.

    Raises:
        ValueError: If a setting or the data does not fit, nothing can be cut, or the
            target cannot be met: the message says the least that can be reached.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(3)])
    >>> smaller, report = prune_structured(model, parameters=0.5, verbose=False)
    >>> [layer.units for layer in smaller.layers], model.layers[0].units
    ([7, 3], 16)
    """
    start = time.perf_counter()
    check_model(model, unknown)
    keywords = {
        "parameters": parameters, "flops": flops, "bytes": bytes, "latency": latency
    }  # fmt: skip
    target = read_target(target, keywords)
    check_in_range(steps, "`steps`", 1, integer=True)
    recoveries = recoveries_of(recovery)
    if data is None and (recoveries or steps > 1):
        raise ValueError("`recovery` and `steps` need `data`: give unlabelled samples.")
    for each in recoveries:
        each.check(model, dense_target=True)
    with progress_bar(verbose) as progress:
        prepared = prepare(
            model, data, progress, include=include, exclude=exclude, min_kept=min_kept,
            round_to=round_to, uniform=uniform, num_samples=num_samples,
            batch_size=batch_size, max_memory=max_memory, seed=seed,
        )  # fmt: skip
        plan, samples = prepared.plan, prepared.samples
        kind, budget = as_cost(plan, target, model, batch_size)
        counts = prepared.fit(kind, budget, steps, progress)
    plan.set_zeros(counts)
    smaller = plan.cut(counts)
    verification = verify(plan.model, smaller, samples and samples.batches[0])
    recovered = [
        each.recover(smaller, model, samples, seed=seed, verbose=verbose)
        for each in recoveries
    ]
    report = StructuredReport(
        plan.rows(counts),
        target,
        measured_costs(plan, counts, target, model, smaller, batch_size),
        verification,
        curves={name: found.errors.tolist() for name, found in plan.curves.items()},
        num_samples=len(samples) if samples else 0,
        output_error=_output_error(model, smaller, samples) if samples else None,
        recoveries=recovered,
        seconds=time.perf_counter() - start,
        advice=note_on_saving(smaller) if any(counts.values()) else None,
    )
    if verbose:
        lines = [report.headline, *report.recoveries, report.advice]
        print(*filter(None, lines), sep="\n")
    return smaller, report


def _output_error(model, smaller, samples):
    """Returns the `output_error` over all samples."""
    outputs = []
    for each in (model, smaller):
        batches = [outputs_of(each, ((batch,), {})) for batch in samples.batches]
        outputs.append([np.concatenate(parts) for parts in zip(*batches, strict=True)])
    return output_error(*outputs)

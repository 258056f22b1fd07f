"""Compares two models, or their files."""

import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import inputs_structure_of
from keras_pruner.comparison import (
    check_samples,
    compare_foreign,
    compare_models,
    output_error,
    outputs_of,
    runnable_inputs,
)
from keras_pruner.kernels import check_built, find_all_kernels
from keras_pruner.reporting.comparing.labelled_data import LabelledData
from keras_pruner.reporting.comparing.model_comparison import ModelComparison, Outputs
from keras_pruner.reporting.comparing.scores import scores_of
from keras_pruner.reporting.cost import measure
from keras_pruner.reporting.engines.base import Engines
from keras_pruner.types import Data, Path

_BATCH_SIZES = (1, 64)
# Samples on which the outputs are compared.
_NUM_SAMPLES = 64


def compare(
    before: keras.Model | Path,
    after: keras.Model | Path,
    data: Data = None,
    *,
    labels: Any = None,
    metrics: Any = None,
    engines: Engines = None,
    batch_sizes: int | Sequence[int] | None = None,
    num_threads: int = 1,
    rounds: int = 10,
    verbose: bool = False,
) -> ModelComparison:
    """Compares a model with its smaller copy: size, time, accuracy and outputs.

    It counts parameters, zeros and FLOPs, measures the bytes of the `.keras` file as
    stored, zipped and as exported, and the latency of both models in turns; see
    `measure`. On labelled data it measures the accuracy too. `verdict` says in one
    sentence what was gained and lost.

    ```python
    before = keras.models.clone_model(model)
    before.set_weights(model.get_weights())
    pruned, _ = prune_one_shot(model, x, target_sparsity=0.8, verbose=False)
    found = compare(before, pruned, (x, y), metrics=["accuracy"], rounds=2)
    print(found)
    found.verdict
    ```

    Args:
        before: Built Keras model, or the path of a file that Keras loads.
        after: Another one that takes the same inputs.
        data: Inputs as the models take them, or labelled data: a tuple `(x, y)` or
            `(x, y, sample_weight)`, a `tf.data.Dataset`, a `keras.utils.PyDataset` or a
            torch `DataLoader`. By default samples are made from the shapes and types
            that the model says, and no accuracy is measured.
        labels: Array of labels, if `data` has none.
        metrics: Metrics as `compile` takes them. By default those that the models are
            compiled with; a model that is not compiled takes those of the other one.
        engines: As in `measure`. By default all that are installed. An empty tuple
            measures no latency.
        batch_sizes: Number of samples of a call, or a tuple of several numbers. By
            default 1 and 64, or the one size that a model takes.
        num_threads: As in `measure`.
        rounds: Number of rounds in which the models take turns.
        verbose: Whether to show a progress bar.

    Returns:
        `ModelComparison`. It prints as a table, shows as HTML, and `rows()` returns
        dicts.

    Raises:
        TypeError: If a model is no Keras model and no path, or an argument has a wrong
            type.
        ValueError: If a file cannot be loaded, a model is not built or cannot run on
            the data, or `metrics` fail.
        ImportError: If an engine that you name is not installed.
    """
    models = [_model_of(before), _model_of(after)]
    for model in models:
        check_built(model)
    data = LabelledData.of(models[0], data, labels)
    inputs = _first(data.inputs, _NUM_SAMPLES)
    if inputs is not None:
        check_samples(inputs, "`data`")
        _check_labels(labels, data.inputs)
    # Errors of the user's come before what takes time.
    scores = scores_of(models, data, metrics)
    measurement = measure(
        *models,
        data=inputs,
        batch_size=_batch_sizes(models) if batch_sizes is None else batch_sizes,
        engines=engines,
        num_threads=num_threads,
        rounds=rounds,
        verbose=verbose,
    )
    kernels = find_all_kernels(models[1]).kernels
    layers = {type(kernel.layer).__name__ for kernel in kernels}
    return ModelComparison(measurement, scores, _outputs(models, inputs), layers)


def _model_of(model):
    if not isinstance(model, str | os.PathLike):
        return model
    try:
        return keras.saving.load_model(model)
    except Exception as error:
        raise ValueError(f"'{model}' cannot be loaded: {error}") from error


def _first(inputs, number):
    """Returns the first samples of inputs, as NumPy arrays."""
    if inputs is None:
        return None
    return keras.tree.map_structure(
        lambda x: ops.convert_to_numpy(x[:number]) if np.ndim(x) else x, inputs
    )


def _check_labels(labels, inputs):
    """Raises an error unless there is a label for each sample."""
    first = keras.tree.flatten(inputs)[0]
    if hasattr(labels, "__len__") and hasattr(first, "__len__"):
        if len(labels) != len(first):
            raise ValueError(
                f"`labels` has {len(labels)} entries for the {len(first)} samples of "
                "`data`."
            )


def _batch_sizes(models):
    leaves = [keras.tree.flatten(inputs_structure_of(model)) for model in models]
    fixed = {x.shape[0] for part in leaves for x in part if x is not None} - {None}
    return tuple(fixed) or _BATCH_SIZES


def _outputs(models, inputs):
    """Returns the `Outputs` of two models."""
    found = compare_models(*models, inputs)
    if found.reason is not None:
        return Outputs(reason=found.reason)
    arguments, expected, _ = runnable_inputs(models[0], inputs)
    made = outputs_of(models[1], arguments)
    shapes = [[x.shape for x in outputs] for outputs in (expected, made)]
    if shapes[0] != shapes[1]:
        return Outputs(reason=f"they have the shapes {shapes[0]} and {shapes[1]}")
    if not np.isfinite(found.difference):
        # Types may differ in the number of bits.
        found = compare_foreign(models[0], arguments, made, found.tolerance)
    error = output_error(expected, made)
    return Outputs(found.difference, found.relative_difference, error, found.is_equal)

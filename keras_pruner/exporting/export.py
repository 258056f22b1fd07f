"""Exports models to files that are run before they are handed over."""

import os
import pathlib
from typing import Any

import keras

from keras_pruner.checks import check_bool, check_in_range
from keras_pruner.exporting.base import Exporter, exporter_for
from keras_pruner.exporting.export_report import ExportReport
from keras_pruner.exporting.gains import gains_of
from keras_pruner.exporting.samples import Samples
from keras_pruner.exporting.writing import write_checked
from keras_pruner.kernels import check_built, find_wrapped, masks_of
from keras_pruner.pytorch import is_torch_module
from keras_pruner.reporting import size_of_model
from keras_pruner.slimming import shrink as make_smaller
from keras_pruner.slimming import strip as make_plain
from keras_pruner.training import write_together
from keras_pruner.types import Data, Path

# Entries of a SavedModel, which a new one may replace.
_OF_SAVED_MODEL = {"assets", "fingerprint.pb", "saved_model.pb", "variables"}


def export(
    model: keras.Model,
    path: Path,
    format: str | Exporter | None = None,
    *,
    sample_inputs: Data = None,
    tolerance: float | None = None,
    strip: bool = True,
    shrink: bool = False,
    overwrite: bool = True,
    **options: Any,
) -> ExportReport:
    """Writes a model to a file of another program, and runs the file to check it.

    | format | path | the file is run by |
    |---|---|---|
    | `"litert"` | `.tflite` | LiteRT; zeros are stored in its sparse encoding |
    | `"onnx"` | `.onnx` | ONNX Runtime |
    | `"openvino"` | `.xml` and `.bin` | OpenVINO |
    | `"saved_model"` | a folder | TensorFlow |
    | `"keras"` | `.keras`, compressed | `keras.saving.load_model` |

    The file computes what the model computes with `training=False`. It runs on samples
    before it gets its name. If its outputs differ by more than `tolerance`, or it does
    not run, it is removed and an error says by how much they differ. An export that
    fails leaves a file of that name unchanged.

    Axes that the model leaves open, such as the batch, are open in the file. If a file
    with open axes does not run, they get the sizes of the samples, and the batch 1; the
    report says so. LiteRT, ONNX Runtime and OpenVINO compute in float32 what the model
    computes in 16 bits.

    Args:
        model: Built Keras model. It is not changed.
        path: Path of the file.
        format: Name of a format, or an `Exporter`. By default the suffix decides; a
            path without suffix is a SavedModel's.
        sample_inputs: A batch of inputs, as the model takes it. By default samples are
            made from the shapes and types that the model says.
        tolerance: Largest difference of the outputs, as a share of the largest output.
            By default 1e-3 (2e-2 if the model computes in 16 bits, 0.1 for int8
            weights), and more for deep models that amplify rounding; see `measure`.
        strip: Whether the file has no wrapper layers, and a `.keras` file no optimizer.
            A model of which nothing is stripped is written without a copy.
        shrink: Whether to remove channels that zeros make useless; see `shrink`.
        overwrite: Whether to replace an existing file.
        **options: Arguments of the format: `sparse` and `weights` of `"litert"`,
            `opset_version` of `"onnx"`, `compression` of `"keras"`.

    Returns:
        `ExportReport`: bytes, the difference of the outputs, and what the zeros of each
        kernel bring on the engine, with the reason. It prints as a table.

    Raises:
        TypeError: If `model` is no Keras model, or an argument has a wrong type.
        ValueError: If the model is not built or cannot be exported, or the file does
            not run or computes other outputs; if no format fits the path, or an
            argument has a wrong value.
        ImportError: If a package is missing, or Keras does not export to the format on
            this backend.
        OSError: If the file cannot be written.

    Example:

    ```python
    from keras_pruner import export

    report = export(model, "model.keras", compression="lzma")
    print(report.ratio, report.relative_difference)
    ```
    """
    if is_torch_module(model):
        raise TypeError(
            "`export` takes Keras models. For torch modules use `torch.onnx.export` or "
            "`torch.export` on the module that `strip` returns."
        )
    check_built(model)
    for name, value in (
        ("strip", strip),
        ("shrink", shrink),
        ("overwrite", overwrite),
    ):
        check_bool(value, f"`{name}`")
    if tolerance is not None:
        tolerance = check_in_range(tolerance, "`tolerance`", 0)
    exporter = exporter_for(os.fspath(path), format, options)
    _check_target(pathlib.Path(path), exporter, overwrite)
    problem = exporter.problem()
    if problem is not None:
        raise ImportError(f"Format '{exporter.name}' cannot be exported: {problem}")
    refusal = exporter.refusal(model)
    if refusal is not None:
        raise ValueError(f"'{model.name}' is not exported: {refusal}")
    samples = Samples.of(model, sample_inputs)
    whole = model
    if (strip or shrink) and (exporter.keeps_training or find_wrapped(model)):
        whole = make_plain(model, inputs=sample_inputs)
    exported = make_smaller(whole, sample_inputs)[0] if shrink else whole
    with write_together(path) as partial:
        written = write_checked(exporter, model, exported, partial, samples, tolerance)
    notes = [*written.notes, *exporter.notes(exported)]
    if masks_of(exported):
        notes.append(
            "The file keeps the wrapper layers of pruning: `import keras_pruner` "
            "before it is loaded."
        )
    return ExportReport(
        name=model.name,
        path=str(path),
        format=exporter.name,
        engine=exporter.engine,
        bytes_before=size_of_model(whole).file_bytes,
        bytes_after=written.num_bytes,
        comparison=written.comparison,
        input_shapes=written.input_shapes,
        kernels=gains_of(exported, exporter),
        notes=tuple(notes),
    )


def _check_target(path, exporter, overwrite):
    """Raises an error if a target has no name, or exists and must not be replaced."""
    if path.name in ("", ".."):
        raise ValueError(f"The path of the file ends in a name. Received: '{path}'")
    if not path.parent.is_dir():
        raise ValueError(f"The folder '{path.parent}' does not exist. Create it first.")
    if not path.exists():
        return
    if not overwrite:
        raise ValueError(
            f"'{path}' exists. Set `overwrite=True` or choose another path."
        )
    if path.is_dir() == bool(exporter.suffix):
        kind = "a folder" if path.is_dir() else "a file"
        raise ValueError(
            f"'{path}' is {kind}, so no {exporter.name} can be written there. Choose "
            "another path."
        )
    others = set(os.listdir(path)) - _OF_SAVED_MODEL if path.is_dir() else ()
    if others:
        raise ValueError(
            f"The folder '{path}' holds '{min(others)}', which belongs to no "
            "SavedModel. Choose a new folder."
        )

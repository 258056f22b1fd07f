"""Measures how many parameters a model has, and how large its file is."""

import dataclasses
import math
import pathlib
import shutil
import tempfile
import warnings
import zipfile
from typing import Any

import numpy as np

from keras_pruner.backend import Patch
from keras_pruner.kernels import masks_of
from keras_pruner.masks import variable_of
from keras_pruner.reporting.kernel_values import masked_value

COMPRESSIONS: dict[str, Any] = {
    "deflate": {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 6},
    "lzma": {"compression": zipfile.ZIP_LZMA},
    "stored": {"compression": zipfile.ZIP_STORED},
}


@dataclasses.dataclass(frozen=True)
class ModelSize:
    """Size of a model.

    Args:
        parameters: Number of its weights. Masks of wrapper layers do not count.
        nonzero_parameters: Number of the weights that are not zero, as masked.
        file_bytes: Bytes of the `.keras` file without a compiled optimizer, or `None`
            if the model cannot be saved.
        zipped_bytes: Bytes of the same file when its entries are deflated, level 6.
            `keras.saving.load_model` reads it too.
        reason: Why the model cannot be saved, or `None`.
    """

    parameters: int
    nonzero_parameters: int
    file_bytes: int | None
    zipped_bytes: int | None
    reason: str | None = None


def size_of_model(model):
    """Returns the `ModelSize` of a built Keras model.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> _ = model.layers[0].kernel.assign(np.eye(4, 2))
    >>> size = size_of_model(model)
    >>> size.parameters, size.nonzero_parameters
    (10, 2)
    """
    masks = masks_of(model)
    mask_ids = {id(variable_of(mask)) for mask in masks.values()}
    weights = [v for v in model.weights if id(v) not in mask_ids]
    nonzero = sum(int(np.count_nonzero(masked_value(v, masks))) for v in weights)
    try:
        sizes, reason = _file_bytes(model), None
    except Exception as error:
        sizes = None, None
        reason = f"cannot be saved: {type(error).__name__}: {_first_line(error)}"
    parameters = sum(math.prod(v.shape) for v in weights)
    return ModelSize(parameters, nonzero, *sizes, reason)


def _first_line(error):
    return " ".join(str(error).split())[:200]


def _file_bytes(model):
    """Returns the bytes of a model's file, and of the same file deflated."""
    with tempfile.TemporaryDirectory() as folder:
        stored, deflated = (
            pathlib.Path(folder, name) for name in ("model.keras", "deflated.keras")
        )
        with warnings.catch_warnings(action="ignore"):
            # Slots of an optimizer would count a compiled model three times.
            with Patch(model, optimizer=None, compiled=False):
                model.save(stored)
        recompress(stored, deflated, "deflate")
        return stored.stat().st_size, deflated.stat().st_size


def recompress(source, target, compression):
    """Writes the entries of an archive to a new one.

    Args:
        source: Path of the archive.
        target: Path of the new one.
        compression: One of `COMPRESSIONS`.
    """
    settings = COMPRESSIONS[compression]
    with (
        zipfile.ZipFile(source) as old,
        zipfile.ZipFile(target, "w", **settings) as new,
    ):
        for entry in old.infolist():
            with old.open(entry) as one, new.open(entry.filename, "w") as two:
                shutil.copyfileobj(one, two, 2**20)

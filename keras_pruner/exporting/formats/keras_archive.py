"""Writes compressed files of Keras."""

import pathlib
from typing import Any

import keras
import numpy as np

from keras_pruner.backend import all_layers
from keras_pruner.checks import check_choice
from keras_pruner.comparison import outputs_of
from keras_pruner.exporting.base import Exporter, register_exporter
from keras_pruner.reporting import COMPRESSIONS, recompress
from keras_pruner.training import custom_objects_of

# What `custom_objects_of` calls functions that no name of a file can stand for.
_RENAMED = "keras_pruner_function"


@register_exporter("keras")
class KerasArchive(Exporter):
    """Writes `.keras` files whose entries are compressed.

    Keras stores the entries of the archive without compression, and loads both.

    Args:
        compression: `"deflate"`; `"lzma"`, which is smaller and several times slower to
            write; or `"stored"`, as Keras saves.
    """

    title = "Keras"
    suffix = ".keras"
    engine = "keras"
    takes_shapes = False
    keeps_training = True
    keeps_random = True

    def __init__(self, compression: str = "deflate") -> None:
        check_choice(compression, "`compression`", tuple(COMPRESSIONS))
        self.compression = compression

    def get_config(self) -> dict[str, Any]:
        return {"compression": self.compression}

    def unrewarded(self, sparsity: float) -> str | None:
        return "The file is not compressed." if self.compression == "stored" else None

    def write(self, model: keras.Model, path: pathlib.Path, samples: Any) -> None:
        model.save(path)
        stored = path.rename(path.with_suffix(".stored"))
        recompress(stored, path, self.compression)
        stored.unlink()

    def run(
        self, model: keras.Model, path: pathlib.Path, samples: Any
    ) -> list[np.ndarray]:
        with custom_objects_of(model):
            loaded = keras.saving.load_model(path, compile=False, safe_mode=False)
        return outputs_of(loaded, (samples.arguments, {}))

    def notes(self, model: keras.Model) -> list[str]:
        notes = []
        with custom_objects_of(model) as found:
            names = ", ".join(sorted(x for x in found if not x.startswith(_RENAMED)))
        if names:
            notes.append(
                f"Loading the file takes `custom_objects` with {names}, which are not "
                "registered."
            )
        if any(isinstance(layer, keras.layers.Lambda) for layer in all_layers(model)):
            notes.append("Loading the file takes `safe_mode=False`: it holds a Lambda.")
        return notes

"""Writes TensorFlow SavedModels."""

import importlib.util
import pathlib
from typing import Any

import keras
import numpy as np

from keras_pruner.backend import (
    each_variable_stored_once,
    run_saved_model,
    unchanged_by_export,
)
from keras_pruner.exporting.base import Exporter, register_exporter


@register_exporter("saved_model", "tf_saved_model")
class SavedModel(Exporter):
    """Writes a folder that TensorFlow and TensorFlow Serving run.

    Its endpoint is `serve`.
    """

    title = "TensorFlow"
    engine = "saved_model"
    keeps_random = True

    def problem(self) -> str | None:
        if importlib.util.find_spec("tensorflow") is None:
            return "a package is missing. Run `pip install tensorflow`."
        is_torch = keras.backend.backend() == "torch"
        if is_torch and importlib.util.find_spec("torch_xla") is None:
            return (
                "from torch Keras needs another package. Run `pip install torch_xla`, "
                "or set KERAS_BACKEND to tensorflow or jax."
            )
        return None

    def write(self, model: keras.Model, path: pathlib.Path, samples: Any) -> None:
        with unchanged_by_export(model), each_variable_stored_once():
            model.export(
                str(path),
                format="tf_saved_model",
                verbose=False,
                input_signature=samples.signature,
            )

    def run(
        self, model: keras.Model, path: pathlib.Path, samples: Any
    ) -> list[np.ndarray]:
        return run_saved_model(path, samples.arguments)

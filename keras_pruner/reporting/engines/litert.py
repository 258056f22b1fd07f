"""Runs models by LiteRT, formerly TensorFlow Lite."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import keras

from keras_pruner.backend import (
    tensorflow_lite_interpreter,
    tensorflow_lite_settings,
)
from keras_pruner.reporting.engines.base import register_engine
from keras_pruner.reporting.engines.exported import ExportedEngine, by_name

# The first version whose `model.export` writes LiteRT files.
_FIRST_KERAS = (3, 13)


@register_engine("litert")
class LiteRT(ExportedEngine):
    """Runs a LiteRT file by ai-edge-litert, or by `tf.lite` without that package.

    On TensorFlow, zeros are stored in LiteRT's sparse encoding.
    """

    format = "litert"
    suffix = ".tflite"
    packages = {
        "tensorflow": {"tensorflow": "tensorflow"},
        "torch": {"litert_torch": "litert-torch", "ai_edge_litert": "ai-edge-litert"},
    }

    def problem(self) -> str | None:
        if tuple(map(int, keras.__version__.split(".")[:2])) < _FIRST_KERAS:
            first = ".".join(map(str, _FIRST_KERAS))
            return (
                f"Keras {keras.__version__} does not export to it. Run "
                f"`pip install 'keras>={first}'`."
            )
        return super().problem()

    def export_arguments(self) -> dict[str, Any]:
        if keras.backend.backend() != "tensorflow":
            return {}
        return tensorflow_lite_settings(sparse=True)

    def load_file(
        self, path: pathlib.Path, inputs: Any, num_threads: int
    ) -> Callable[[], Any]:
        interpreter = _interpreter_class()(
            model_content=path.read_bytes(), num_threads=num_threads
        )
        interpreter.allocate_tensors()
        (key, signature), *_ = interpreter.get_signature_list().items()
        runner = interpreter.get_signature_runner(key)
        feeds = by_name(signature["inputs"], inputs)
        names = sorted(signature["outputs"], key=_in_order)

        def run():
            outputs = runner(**feeds)
            return [outputs[name] for name in names]

        return run


def _interpreter_class():
    if importlib.util.find_spec("ai_edge_litert") is None:
        return tensorflow_lite_interpreter()
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter


def _in_order(name):
    """Returns the key by which names of outputs have the order of the model.

    Example:

    >>> sorted(["output_10", "output_9"], key=_in_order)
    ['output_9', 'output_10']
    """
    word, _, number = name.rpartition("_")
    return (word, int(number)) if number.isdigit() else (name, -1)

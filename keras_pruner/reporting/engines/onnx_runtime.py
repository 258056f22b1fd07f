"""Runs models by ONNX Runtime."""

import pathlib
from collections.abc import Callable
from typing import Any

from keras_pruner.reporting.engines.base import register_engine
from keras_pruner.reporting.engines.exported import ExportedEngine, by_name


@register_engine("onnxruntime")
class OnnxRuntime(ExportedEngine):
    """Runs an ONNX file on the CPU by ONNX Runtime."""

    format = "onnx"
    suffix = ".onnx"
    packages = {
        "tensorflow": {
            "onnxruntime": "onnxruntime",
            "tf2onnx": "tf2onnx",
            "onnx": "onnx",
        },
        "jax": {"onnxruntime": "onnxruntime", "jax2onnx": "jax2onnx"},
        "torch": {
            "onnxruntime": "onnxruntime",
            "onnx": "onnx",
            "onnxscript": "onnxscript",
        },
    }

    def load_file(
        self, path: pathlib.Path, inputs: Any, num_threads: int
    ) -> Callable[[], Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        # Otherwise the idle threads of one session take the time of the other's.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        feeds = by_name([entry.name for entry in session.get_inputs()], inputs)
        return lambda: session.run(None, feeds)

"""Programs that run a model for inference, one engine a file."""

from keras_pruner.reporting.engines.backends import (
    Jax,
    TensorFlow,
    TensorFlowXla,
    Torch,
)
from keras_pruner.reporting.engines.base import (
    ENGINES,
    Engine,
    engines_of,
    register_engine,
)
from keras_pruner.reporting.engines.exported import ExportedEngine
from keras_pruner.reporting.engines.litert import LiteRT
from keras_pruner.reporting.engines.onnx_runtime import OnnxRuntime
from keras_pruner.reporting.engines.open_vino import OpenVino

__all__ = [
    "ENGINES",
    "Engine",
    "ExportedEngine",
    "Jax",
    "LiteRT",
    "OnnxRuntime",
    "OpenVino",
    "TensorFlow",
    "TensorFlowXla",
    "Torch",
    "engines_of",
    "register_engine",
]

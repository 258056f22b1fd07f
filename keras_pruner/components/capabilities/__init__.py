"""What engines make of zeros: smaller files, shorter calls, or nothing."""

from keras_pruner.components.capabilities.base import (
    CAPABILITIES,
    Capability,
    EngineCapability,
    capability_of,
    register_capability,
)
from keras_pruner.components.capabilities.dense import (
    Jax,
    OnnxRuntime,
    TensorFlow,
    Torch,
)
from keras_pruner.components.capabilities.files import KerasFile
from keras_pruner.components.capabilities.hardware import hardware_here
from keras_pruner.components.capabilities.litert import LiteRT
from keras_pruner.components.capabilities.nvidia import Nvidia
from keras_pruner.components.capabilities.open_vino import OpenVino

__all__ = [
    "CAPABILITIES",
    "Capability",
    "EngineCapability",
    "Jax",
    "KerasFile",
    "LiteRT",
    "Nvidia",
    "OnnxRuntime",
    "OpenVino",
    "TensorFlow",
    "Torch",
    "capability_of",
    "hardware_here",
    "register_capability",
]

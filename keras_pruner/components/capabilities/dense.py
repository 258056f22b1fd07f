"""Engines that compute with zeros as with other numbers."""

from keras_pruner.components.capabilities.base import (
    EngineCapability,
    register_capability,
)
from keras_pruner.components.patterns.base import Pattern


class _Dense(EngineCapability):
    """Rewards no zeros but those of whole channels, which `shrink` removes."""

    def judge(
        self, pattern: Pattern, layer_types: tuple[str, ...] | None, dtype: str
    ) -> tuple[str, str]:
        return "nothing", f"{self.title} stores zeros, and computes with them."


@register_capability("tensorflow", "tensorflow_xla", "saved_model")
class TensorFlow(_Dense):
    """Keras' layers compute with dense tensors."""

    title = "TensorFlow"


@register_capability("jax")
class Jax(_Dense):
    """Keras' layers compute with dense arrays."""

    title = "JAX"


@register_capability("torch")
class Torch(_Dense):
    """Keras' layers, and torch's own, compute with dense tensors."""

    title = "torch"


@register_capability("onnxruntime", "onnx", "onnx_runtime")
class OnnxRuntime(_Dense):
    """It has no sparse kernels, and makes sparse initializers dense."""

    title = "ONNX Runtime"

"""Writes LiteRT files."""

from typing import Any

import keras

from keras_pruner.backend import all_layers, tensorflow_lite_settings
from keras_pruner.checks import check_bool, check_choice
from keras_pruner.exporting.base import EngineExporter, register_exporter

# Kernels with fewer zeros are stored dense: 30 % stay dense, and 40 % do not.
_LEAST_SPARSITY = 0.35
# Rounding to int8 is part of the format.
_INT8_TOLERANCE = 0.1


@register_exporter("litert", "tflite")
class LiteRT(EngineExporter):
    """Writes LiteRT files, formerly TensorFlow Lite, with zeros in a sparse encoding.

    Args:
        sparse: Whether kernels of which enough weights are zero are stored without
            them. By default they are, except with `weights="int8"`.
        weights: How weights are stored: `"float32"`; `"float16"`, in half the bytes; or
            `"int8"`, in a quarter, with activations quantized while the model runs.
    """

    title = "LiteRT"
    suffix = ".tflite"
    engine = "litert"
    runs_on = "litert"

    def __init__(self, sparse: bool | None = None, weights: str = "float32") -> None:
        check_choice(weights, "`weights`", ("float32", "float16", "int8"))
        self.weights = weights
        self.sparse = weights == "float32" if sparse is None else sparse
        check_bool(self.sparse, "`sparse`")
        if self.sparse and weights == "int8":
            raise ValueError(
                "LiteRT returns wrong outputs, or none, for int8 kernels in its sparse "
                "encoding, unless every user switches its default delegate off. Leave "
                '`sparse` out, or use `weights="float32"`.'
            )
        if weights == "int8":
            self.dtype, self.tolerance = "int8", _INT8_TOLERANCE

    def get_config(self) -> dict[str, Any]:
        return {"sparse": self.sparse, "weights": self.weights}

    def arguments(self) -> dict[str, Any]:
        if keras.backend.backend() != "tensorflow":
            return {}
        return tensorflow_lite_settings(sparse=self.sparse, weights=self.weights)

    def problem(self) -> str | None:
        problem = super().problem()
        if problem is None and keras.backend.backend() != "tensorflow":
            if self.weights != "float32":
                return (
                    "only TensorFlow's converter changes the type of weights. Set "
                    "KERAS_BACKEND=tensorflow."
                )
        return problem

    def refusal(self, model: keras.Model) -> str | None:
        for layer in all_layers(model):
            mode = getattr(layer, "quantization_mode", None)
            if mode is not None:
                return (
                    f"'{layer.name}' is quantized ('{mode}'), and the converter to "
                    "LiteRT cannot read its kernel. Export the model before "
                    '`quantize`, with `weights="int8"`.'
                )
        return None

    def unrewarded(self, sparsity: float) -> str | None:
        if keras.backend.backend() != "tensorflow":
            return "Only TensorFlow's converter has the sparse encoding."
        if not self.sparse:
            return "The file has no sparse encoding, so it stores zeros."
        if sparsity < _LEAST_SPARSITY:
            return (
                "LiteRT's converter stores kernels dense of which less than about a "
                "third is zero."
            )
        return None

    def notes(self, model: keras.Model) -> list[str]:
        if keras.backend.backend() == "tensorflow":
            return []
        return [
            "The file stores zeros. Load the model with KERAS_BACKEND=tensorflow and "
            "export it there for LiteRT's sparse encoding."
        ]

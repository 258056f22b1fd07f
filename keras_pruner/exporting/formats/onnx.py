"""Writes ONNX files."""

from typing import Any

from keras_pruner.checks import check_in_range
from keras_pruner.exporting.base import EngineExporter, register_exporter


@register_exporter("onnx")
class Onnx(EngineExporter):
    """Writes ONNX files, which ONNX Runtime runs on the CPU.

    Args:
        opset_version: Version of the set of operations; by default that of Keras.
    """

    title = "ONNX Runtime"
    suffix = ".onnx"
    engine = "onnxruntime"
    runs_on = "onnxruntime"

    def __init__(self, opset_version: int | None = None) -> None:
        if opset_version is not None:
            name = "`opset_version`"
            opset_version = check_in_range(opset_version, name, 1, integer=True)
        self.opset_version = opset_version

    def get_config(self) -> dict[str, Any]:
        return {"opset_version": self.opset_version}

    def arguments(self) -> dict[str, Any]:
        if self.opset_version is None:
            return {}
        return {"opset_version": self.opset_version}

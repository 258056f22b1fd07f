"""Writes files of OpenVINO."""

from keras_pruner.exporting.base import EngineExporter, register_exporter


@register_exporter("openvino")
class OpenVino(EngineExporter):
    """Writes OpenVINO's intermediate representation.

    The `.xml` file holds the graph. A `.bin` file beside it holds the weights.
    """

    title = "OpenVINO"
    suffix = ".xml"
    engine = "openvino"
    runs_on = "openvino"

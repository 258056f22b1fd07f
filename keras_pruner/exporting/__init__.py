"""Writes models to files of other programs, and runs the files to check them."""

from keras_pruner.exporting.base import (
    EXPORTERS,
    EngineExporter,
    Exporter,
    register_exporter,
)
from keras_pruner.exporting.export import export
from keras_pruner.exporting.export_report import ExportReport
from keras_pruner.exporting.formats import (
    KerasArchive,
    LiteRT,
    Onnx,
    OpenVino,
    SavedModel,
)
from keras_pruner.exporting.gains import GainRow, gains_of
from keras_pruner.exporting.samples import Samples

__all__ = [
    "EXPORTERS",
    "EngineExporter",
    "ExportReport",
    "Exporter",
    "GainRow",
    "KerasArchive",
    "LiteRT",
    "Onnx",
    "OpenVino",
    "Samples",
    "SavedModel",
    "export",
    "gains_of",
    "register_exporter",
]

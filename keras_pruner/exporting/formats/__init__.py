"""Formats of files, one a file."""

from keras_pruner.exporting.formats.keras_archive import KerasArchive
from keras_pruner.exporting.formats.litert import LiteRT
from keras_pruner.exporting.formats.onnx import Onnx
from keras_pruner.exporting.formats.open_vino import OpenVino
from keras_pruner.exporting.formats.saved_model import SavedModel

__all__ = ["KerasArchive", "LiteRT", "Onnx", "OpenVino", "SavedModel"]

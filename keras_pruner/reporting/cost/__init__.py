"""Measures what a model costs: operations, parameters, bytes and time."""

from keras_pruner.reporting.cost.flops import FlopsReport, FlopsRow, count_flops
from keras_pruner.reporting.cost.latency import Timing, interleave
from keras_pruner.reporting.cost.measure import measure
from keras_pruner.reporting.cost.measurement import Latency, Measurement
from keras_pruner.reporting.cost.quantity import Quantity, ratio_of, view_of
from keras_pruner.reporting.cost.sizes import (
    COMPRESSIONS,
    ModelSize,
    recompress,
    size_of_model,
)
from keras_pruner.reporting.cost.verdict import outcome_of

__all__ = [
    "COMPRESSIONS",
    "FlopsReport",
    "FlopsRow",
    "Latency",
    "Measurement",
    "ModelSize",
    "Quantity",
    "Timing",
    "count_flops",
    "interleave",
    "measure",
    "outcome_of",
    "ratio_of",
    "recompress",
    "size_of_model",
    "view_of",
]

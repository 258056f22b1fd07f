"""Runs a model and its copy on the same inputs."""

from keras_pruner.comparison.compare import (
    Comparison,
    check_copy,
    compare_models,
    compare_outputs,
)
from keras_pruner.comparison.sample_inputs import sample_inputs

__all__ = [
    "Comparison",
    "check_copy",
    "compare_models",
    "compare_outputs",
    "sample_inputs",
]

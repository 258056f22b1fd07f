"""Compares two models: size, time, accuracy, outputs, in numbers and in a sentence."""

from keras_pruner.reporting.comparing.compare import compare
from keras_pruner.reporting.comparing.model_comparison import ModelComparison, Outputs
from keras_pruner.reporting.comparing.scores import Scores

__all__ = ["ModelComparison", "Outputs", "Scores", "compare"]

"""Gives this package the names of other pruning libraries, so that code can move."""

from keras_pruner.compat import neural_compressor, tfmot

__all__ = ["neural_compressor", "tfmot"]

"""Holds the module `keras`, as `tfmot.sparsity` does."""

from keras_pruner.compat.tfmot.sparsity import keras

__all__ = ["keras"]

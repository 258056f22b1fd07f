"""A plain model of what pruning has left."""

from keras_pruner.slimming.strip import strip

__all__ = ["strip"]

"""Makes plain models of pruned ones."""

from keras_pruner.slimming.strip import strip

__all__ = ["strip"]

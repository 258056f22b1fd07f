"""Makes masks from a few batches of data, without training."""

from keras_pruner.oneshot.at_init import prune_at_init

__all__ = ["prune_at_init"]

"""Prunes by the gradients of a few batches, for models that are not trained yet."""

from keras_pruner.oneshot.at_init.prune_at_init import prune_at_init

__all__ = ["prune_at_init"]

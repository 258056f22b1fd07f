"""Applies masks while a Keras model trains: callback, optimizer, wrappers, files."""

from keras_pruner.training.cloning import copy_of, plain_copy
from keras_pruner.training.pruned_layer import PrunedLayer
from keras_pruner.training.pruning_callback import PruningCallback
from keras_pruner.training.pruning_optimizer import PruningOptimizer
from keras_pruner.training.saving import (
    BackupAndResume,
    load_weights,
    save_model,
    save_weights,
)
from keras_pruner.training.stateless_pruner import StatelessPruner
from keras_pruner.training.wrap import wrap

__all__ = [
    "BackupAndResume",
    "PrunedLayer",
    "PruningCallback",
    "PruningOptimizer",
    "StatelessPruner",
    "copy_of",
    "load_weights",
    "plain_copy",
    "save_model",
    "save_weights",
    "wrap",
]

"""Applies masks while a Keras model trains: callback, optimizer, wrappers, files."""

from keras_pruner.training.cloning import (
    clone_graph,
    copy_of,
    is_functional,
    is_graph,
    is_plain,
    plain_copy,
    ready_to_copy,
    tied_layers,
)
from keras_pruner.training.custom_objects import custom_objects_of
from keras_pruner.training.fit.fit_guard import running_fit
from keras_pruner.training.layer_state import Whole, hand_over
from keras_pruner.training.pruned_layer import PrunedLayer
from keras_pruner.training.pruning_callback import PruningCallback
from keras_pruner.training.pruning_optimizer import PruningOptimizer
from keras_pruner.training.saving import (
    BackupAndResume,
    load_weights,
    save_model,
    save_weights,
    write_together,
)
from keras_pruner.training.stateless_pruner import StatelessPruner
from keras_pruner.training.wrap import wrap

__all__ = [
    "BackupAndResume",
    "PrunedLayer",
    "PruningCallback",
    "PruningOptimizer",
    "StatelessPruner",
    "Whole",
    "clone_graph",
    "copy_of",
    "custom_objects_of",
    "hand_over",
    "is_functional",
    "is_graph",
    "is_plain",
    "load_weights",
    "plain_copy",
    "ready_to_copy",
    "running_fit",
    "save_model",
    "save_weights",
    "tied_layers",
    "wrap",
    "write_together",
]

"""Wraps the prunable layers of a model."""

import dataclasses
import re

from keras_pruner.comparison import check_copy
from keras_pruner.config import as_config
from keras_pruner.kernels import (
    check_built,
    find_all_kernels,
    find_wrapped,
    select_kernels,
)
from keras_pruner.training.cloning import copy_model, copy_of, is_graph
from keras_pruner.training.pruned_layer import PrunedLayer


def wrap(model, config=None, *, check=True, inputs=None):
    """Returns a copy of a model whose prunable layers are wrapped for pruning.

    The copy has the same weights and is not compiled; the original model is unchanged.

    Args:
        model: Built Sequential or Functional model; the copy has the same nested models
            and shared layers.
        config: `PruningConfig`, dict, or `None` for the defaults.
        check: Whether to compare the outputs of the copy with the original's.
        inputs: A batch to compare them on; see `strip`.

    Returns:
        Keras model with a `PrunedLayer` around each layer that has a kernel to prune.

    Raises:
        ValueError: If the model cannot be copied (prune a subclassed one in place by
            `PruningCallback`), is already wrapped, or nothing can be pruned; or if the
            copy computes other outputs.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((2,)), keras.layers.Dense(2, name="dense")]
    ... )
    >>> [layer.name for layer in wrap(model).layers]
    ['pruned_dense']
    """
    check_built(model)
    if find_wrapped(model):
        raise ValueError("The model has wrapped layers already. Call `strip` first.")
    if not is_graph(model):
        raise ValueError(
            f"'{model.name}' is a subclassed model ({type(model).__name__}), whose "
            "layers cannot be exchanged in a copy. Prune it in place by "
            "PruningCallback, or build it from PrunedLayers."
        )
    selections = select_kernels(model, as_config(config))
    selection_of = {
        id(kernel.variable): selection
        for selection in selections
        for kernel in selection.kernels
    }
    for selection in selections:
        selection.check_not_empty()

    def wrap_layer(layer):
        copy = copy_of(layer)
        found = find_all_kernels(layer).kernels
        taken = [kernel for kernel in found if id(kernel.variable) in selection_of]
        if not taken:
            return copy, copy
        chosen = {id(s): s for s in (selection_of[id(k.variable)] for k in taken)}
        if len(chosen) > 1:
            raise ValueError(
                f"Layer '{layer.name}' has kernels under different local configs; "
                "a wrapper has one config. Prune it by PruningCallback."
            )
        (selection,) = chosen.values()
        # Paths in a wrapper begin at its layer, so they are selected again.
        include = None
        if len(taken) < len(found):
            include = tuple(re.escape(kernel.path) for kernel in taken)
        own = dataclasses.replace(selection.config, include=include, exclude=())
        return copy, PrunedLayer(copy, own)

    wrapped = copy_model(model, wrap_layer, {}, descend=True)
    if check:
        check_copy(model, wrapped, inputs)
    return wrapped

"""Wraps the prunable layers of a model."""

import dataclasses
import typing

import keras

from keras_pruner.comparison import check_copy
from keras_pruner.config import (
    AnyConfig,
    PruningConfig,
    Settings,
    merged_config,
    refuse_overlaps,
    rename_keys,
    takes_settings,
)
from keras_pruner.kernels import (
    check_built,
    find_all_kernels,
    find_wrapped,
    select_kernels,
)
from keras_pruner.training.cloning import copy_model, copy_of, is_graph
from keras_pruner.training.pruned_layer import PrunedLayer
from keras_pruner.types import Data

# Settings that choose kernels and say nothing about how these are pruned.
_CHOICES = {"include", "exclude", "layer_types"}


@takes_settings
def wrap(
    model: keras.Model,
    config: AnyConfig = None,
    *,
    check: bool = True,
    inputs: Data = None,
    **settings: typing.Unpack[Settings],
) -> keras.Model:
    """Returns a copy of a model whose prunable layers are wrapped for pruning.

    The copy has the same weights and is not compiled; the original model is unchanged.
    The wrappers get the config. Without one, or with `include`, `exclude` and
    `layer_types` only, the config of `PruningCallback` says how they are pruned.

    Args:
        model: Built Sequential or Functional model; the copy has the same nested models
            and shared layers.
        config: `PruningConfig`, dict, or `None`.
        check: Whether to compare the outputs of the copy with the original's.
        inputs: A batch to compare them on; see `strip`.
        **settings: Fields of `PruningConfig`, which win over `config`, e.g.
            `target_sparsity=0.5`.

    Returns:
        Keras model with a `PrunedLayer` around each layer that has a kernel to prune.

    Raises:
        ValueError: If a setting is unknown, the model cannot be copied (prune a
            subclassed one in place by `PruningCallback`) or is wrapped already,
            nothing can be pruned, or the copy computes other outputs.

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
    given = rename_keys((config if isinstance(config, dict) else {}) | settings)
    is_open = not isinstance(config, PruningConfig) and _CHOICES >= set(given)
    merged = merged_config(config, settings)
    refuse_overlaps(merged, "wrap")
    selections = select_kernels(model, merged)
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
        own, kernels = None, None
        if not is_open:
            own = dataclasses.replace(
                selection.config, include=None, exclude=(), layer_types=None
            )
        if len(taken) < len(found) or any(kernel.on_request for kernel in taken):
            # Paths in a wrapper begin at its layer.
            kernels = [kernel.path for kernel in taken]
        return copy, PrunedLayer(copy, own, kernels=kernels)

    wrapped = copy_model(model, wrap_layer, {}, descend=True)
    if check:
        check_copy(model, wrapped, inputs)
    return wrapped

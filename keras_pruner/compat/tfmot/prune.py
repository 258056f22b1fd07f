"""Wraps and unwraps layers and models, as tfmot does."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_pruner.compat.tfmot.pruning_policy import PruningPolicy
from keras_pruner.compat.tfmot.pruning_schedule import ConstantSparsity, PruningSchedule
from keras_pruner.compat.tfmot.pruning_wrapper import (
    _SCHEDULES,
    PruneLowMagnitude,
    refuse_unsupported,
)
from keras_pruner.slimming import strip
from keras_pruner.training import clone_graph, copy_of, is_graph, ready_to_copy


def prune_scope() -> Any:
    """Returns a context in which Keras loads models with `PruneLowMagnitude`.

    A model that was saved by this package loads without it.
    """
    return keras.saving.custom_object_scope(
        {"PruneLowMagnitude": PruneLowMagnitude} | _SCHEDULES
    )


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: PruningSchedule = ConstantSparsity(0.5, 0),  # noqa: B008
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Wraps a layer, or the layers of a model, so that training prunes them.

    The new model uses the layers of the given one, as in tfmot: training the one
    changes the other. It is not compiled.

    Args:
        to_prune: Keras layer, list of layers, or Sequential or Functional model, also
            a nested one. Layers that are wrapped already stay.
        pruning_schedule: `PruningSchedule`.
        block_size: See `PruneLowMagnitude`.
        block_pooling_type: See `PruneLowMagnitude`.
        pruning_policy: `PruningPolicy` that chooses layers of a model, or `None`.
        sparsity_m_by_n: See `PruneLowMagnitude`.
        **kwargs: Arguments of the wrapper of a single layer, e.g. `input_shape`.

    Returns:
        Wrapped layer, list of them, or model.

    Raises:
        ValueError: If a layer is not supported, `to_prune` has another type, or the
            policy refuses the model. Nothing is changed then.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="top")])
    >>> [layer.name for layer in prune_low_magnitude(model).layers]
    ['prune_low_magnitude_top']
    """
    params: dict[str, Any] = {
        "pruning_schedule": pruning_schedule,
        "block_size": block_size,
        "block_pooling_type": block_pooling_type,
        "sparsity_m_by_n": sparsity_m_by_n,
    }
    is_layer = isinstance(to_prune, keras.layers.Layer)
    is_layer = is_layer and not isinstance(to_prune, keras.Model)
    if kwargs and not is_layer:
        raise ValueError(
            f"`prune_low_magnitude` has no argument {', '.join(sorted(kwargs))}. Its "
            f"arguments for models and lists: {', '.join(params)}, pruning_policy."
        )
    if isinstance(to_prune, list):
        _check_all(to_prune, None, params)
        return [_wrapped_or_input(layer, params) for layer in to_prune]
    if is_graph(to_prune):
        if pruning_policy is not None:
            pruning_policy.ensure_model_supports_pruning(to_prune)
        _check_all(to_prune.layers, pruning_policy, params)
        return _with_wrappers(to_prune, pruning_policy, params)
    if is_layer:
        return PruneLowMagnitude(to_prune, **params, **kwargs)
    raise ValueError(
        "`prune_low_magnitude` can only prune a Sequential or Functional model, a "
        "`keras.layers.Layer` or a list of layers. You passed an object of type: "
        f"{type(to_prune).__name__}. To prune a subclassed model, wrap its layers, or "
        "use PruningCallback, which needs no wrapper."
    )


def _check_all(layers, policy, params):
    """Raises an error before the first layer is wrapped."""
    # The arguments are the same for all layers.
    PruneLowMagnitude(keras.layers.Dense(1), **params)
    for layer in layers:
        if isinstance(layer, keras.Model):
            if not is_graph(layer):
                raise ValueError(
                    "Subclassed models are not supported: "
                    f"'{layer.name}' is one ({type(layer).__name__}). Use "
                    "PruningCallback, which needs no wrapper."
                )
            _check_all(layer.layers, policy, params)
        elif not _stays(layer, policy):
            refuse_unsupported(layer)


def _stays(layer, policy):
    if isinstance(layer, PruneLowMagnitude | keras.layers.InputLayer):
        return True
    return policy is not None and not policy.allow_pruning(layer)


def _wrapped_or_input(layer, params):
    if isinstance(layer, keras.layers.InputLayer):
        return copy_of(layer)
    return layer if _stays(layer, None) else PruneLowMagnitude(layer, **params)


def _with_wrappers(model, policy, params):
    """Clones a model with wrappers around its own layers."""
    made = {}

    def make(operation):
        if isinstance(operation, keras.Model):
            return clone_graph(operation, wrap)
        if not isinstance(operation, keras.layers.Layer) or _stays(operation, policy):
            return operation
        return PruneLowMagnitude(operation, **params)

    def wrap(operation):
        if id(operation) not in made:
            made[id(operation)] = make(operation)
        return made[id(operation)]

    with ready_to_copy(model):
        return wrap(model)


def strip_pruning(model: keras.Model) -> keras.Model:
    """Returns a plain copy of a model: no wrappers, pruned weights exactly zero.

    Args:
        model: Keras model. One that is not built has no weights to copy.

    Returns:
        Keras model, not compiled.

    Raises:
        ValueError: If `model` is no Keras model, or cannot be copied.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"`strip_pruning` takes a Keras model. Received: {model!r} of type "
            f"{type(model).__name__}"
        )
    if model.built or not isinstance(model, keras.Sequential):
        return strip(model)
    with ready_to_copy(model):
        return clone_graph(model, copy_of)

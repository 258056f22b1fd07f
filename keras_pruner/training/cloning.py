"""Copies models with their weights, and may replace layers in the copies."""

import contextlib

import keras
from keras import ops

from keras_pruner.backend import Patch, all_layers
from keras_pruner.kernels import masks_of
from keras_pruner.masks import read_mask, variable_of

WRAPPER = "keras_pruner>PrunedLayer"


def copy_model(model, copy_layer, masks, *, descend=False):
    """Copies a model and its weights, pruned ones as zeros.

    Sequential and Functional models are copied layer by layer, also nested ones, and
    shared layers stay shared. A model with its own config is created from the config.

    Args:
        model: Built Keras model.
        copy_layer: Function from a layer to a tuple of its copy and the layer that
            takes the copy's place, e.g. a wrapper of it.
        masks: Dict from the id of a masked variable to its mask.
        descend: Whether to copy Functional models layer by layer even if they have
            their own configs; their classes are lost.

    Returns:
        Keras model, not compiled.

    Raises:
        ValueError: If a layer or model cannot be created from its config, or its copy
            has other weights.
    """
    copies, pairs = {}, []

    def make(operation):
        if _is_graph(operation, descend):
            new = keras.models.clone_model(operation, clone_function=copy)
            if not new.built:
                new.build(operation.input_shape)
            return new
        if not isinstance(operation, keras.layers.Layer):
            return copy_of(operation)
        plain, placed = copy_layer(operation)
        pairs.append((operation, plain))
        return placed

    def copy(operation):
        # Keyed by identity, so that copies share the layers that models share.
        if id(operation) not in copies:
            copies[id(operation)] = make(operation)
        return copies[id(operation)]

    with _as_uncompiled(model), keras.saving.custom_object_scope(_classes_in(model)):
        new_model = copy(model)
    for old, new in pairs:
        _copy_weights(old, new, masks)
    return new_model


def plain_copy(model):
    """Returns a plain copy of a Keras model: no wrapper layers, pruned weights zero.

    Args:
        model: Built Keras model.

    Returns:
        Keras model, not compiled.

    Raises:
        ValueError: If the model cannot be copied.
    """

    def copy_layer(layer):
        copy = copy_of(layer)
        return copy, copy

    return copy_model(model, copy_layer, masks_of(model))


def copy_of(operation):
    """Copies a layer, model or operation, without wrappers at any depth.

    Raises:
        ValueError: If its config is incomplete.
    """
    try:
        if not isinstance(operation, keras.Model):
            return keras.saving.deserialize_keras_object(
                _unwrapped(keras.saving.serialize_keras_object(operation))
            )
        copy = type(operation).from_config(_unwrapped(operation.get_config()))
        if not copy.built:
            copy.build_from_config(_plain(operation.get_build_config()))
    except Exception as error:
        raise ValueError(
            f"'{operation.name}' ({type(operation).__name__}) cannot be copied from "
            f"its config: {error}. Give its class a `get_config` that returns all "
            "that its constructor takes. Pruning in place, by PruningCallback, needs "
            "no copy, and leaves a model without wrapped layers plain as it is."
        ) from error
    return copy


def _plain(value):
    """Converts Keras' tracked containers, which JAX cannot trace, to plain ones."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return (tuple if isinstance(value, tuple) else list)(map(_plain, value))
    return value


def _is_graph(operation, descend):
    """Whether a model is only a graph of layers, so that each is copied separately."""
    if isinstance(operation, keras.Sequential):
        return True
    if not is_functional(operation):
        return False
    return descend or "output_layers" in operation.get_config()


def is_functional(operation):
    return isinstance(operation, keras.Model) and hasattr(operation, "operations")


@contextlib.contextmanager
def _as_uncompiled(model):
    """Prevents a copy from being compiled, which would serialize an optimizer."""
    with contextlib.ExitStack() as patches:
        for layer in all_layers(model):
            if getattr(layer, "compiled", False):
                patches.enter_context(Patch(layer, compiled=False))
        yield


def _classes_in(model):
    """Returns a dict from the names in configs to the classes that lack registration.

    The model provides these classes, so copies need no registration.
    """
    classes = {}
    for layer in all_layers(model):
        layer_class = type(layer)
        name = keras.saving.get_registered_name(layer_class)
        if name != layer_class.__name__ or layer_class.__module__.startswith("keras."):
            continue
        if classes.setdefault(name, layer_class) is not layer_class:
            raise ValueError(
                f"'{model.name}' has layers of two classes named {name}, which its "
                "config cannot tell apart. Register one of them under another name, "
                "by `keras.saving.register_keras_serializable`."
            )
    return classes


def _unwrapped(config):
    """Replaces every wrapper's config in a config by the config of its layer."""
    if isinstance(config, dict):
        if config.get("registered_name") == WRAPPER:
            return _unwrapped(config["config"]["layer"])
        return {key: _unwrapped(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_unwrapped(value) for value in config)
    return config


def _copy_weights(old, new, masks):
    own_masks = {id(variable_of(mask)) for mask in masks.values()}
    sources = [v for v in old.variables if id(v) not in own_masks]
    targets = new.variables
    shapes = [tuple(v.shape) for v in sources], [tuple(v.shape) for v in targets]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The copy of '{old.name}' ({type(old).__name__}) has other weights than "
            f"the original: {shapes[1]} for {shapes[0]}. Does its `get_config` return "
            "all that its constructor was given, and does it build from the shape of "
            "its input?"
        )
    for source, target in zip(sources, targets, strict=True):
        # A copy, because JAX may donate the buffer of either to a training step.
        value = ops.copy(source)
        mask = masks.get(id(source))
        if mask is not None:
            value = ops.where(read_mask(mask), value, ops.zeros_like(value))
        target.assign(value)

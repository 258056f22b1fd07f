"""Copies models with their state, and may replace layers in the copies."""

import contextlib

import keras

from keras_pruner.backend import (
    Patch,
    all_layers,
    duplicate,
    duplicator,
    is_duplicated,
    sublayers_of,
)
from keras_pruner.kernels import masks_of
from keras_pruner.training.custom_objects import custom_objects_of
from keras_pruner.training.layer_state import hand_over


def copy_model(model, copy_layer, masks, *, descend=False):
    """Copies a model and its state, pruned weights as zeros.

    Sequential and Functional models are copied layer by layer, also nested ones, and
    shared layers stay shared. A model with its own config is created from the config.
    Each layer hands its state over as `hand_over` says. Classes and functions of the
    model need no registration.

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
        ValueError: If a layer or model cannot be created from its config, its copy
            has other weights, or it cannot save or load its state.
    """
    copies, graphs, triples = {}, [], []

    def make(operation):
        if _is_graph(operation, descend):
            new = clone_graph(operation, copy)
            graphs.append((operation, new))
            return new
        if not isinstance(operation, keras.layers.Layer):
            return copy_of(operation)
        plain, placed = copy_layer(operation)
        triples.append((operation, plain, placed))
        return placed

    def copy(operation):
        # Keyed by identity, so that copies share the layers that models share.
        if id(operation) not in copies:
            copies[id(operation)] = make(operation)
        return copies[id(operation)]

    with ready_to_copy(model):
        new_model = copy(model)
    # Outer models first, because a flag is set in all inner layers too.
    for old, new in [*reversed(graphs), *((old, new) for old, _, new in triples)]:
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    for old, new, _ in triples:
        hand_over(old, new, masks)
    return new_model


@contextlib.contextmanager
def ready_to_copy(model):
    """Context in which the parts of a model can be created from their configs."""
    with _as_uncompiled(model), custom_objects_of(model):
        yield


def clone_graph(model, copy, call=None, shapes=None):
    """Clones a Sequential or Functional model, with its flags and policy of dtypes.

    Args:
        model: Sequential or Functional model.
        copy: Function from one of its layers or operations to the copy.
        call: Function of a copy and its arguments that calls it, or `None`. A
            Sequential model needs none.
        shapes: Iterable of the shapes of the clone's inputs, if they differ.
    """
    inputs = None
    if is_functional(model):
        layers = [x for x in model.layers if isinstance(x, keras.layers.InputLayer)]
        layer_of = {id(layer.output): layer for layer in layers}
        flat = keras.tree.flatten(model.input)
        shapes = [x.shape for x in flat] if shapes is None else shapes
        flat = [
            _input_like(x, layer_of.get(id(x)), tuple(shape))
            for x, shape in zip(flat, shapes, strict=True)
        ]
        inputs = keras.tree.pack_sequence_as(model.input, flat)
    clone = keras.models.clone_model(model, inputs, copy, call)
    if model.built and not clone.built:
        clone.build(model.input_shape)
    if clone.dtype_policy != model.dtype_policy:
        clone.dtype_policy = model.dtype_policy
    return clone


def _input_like(tensor, layer, shape):
    """Makes a symbolic input, with the arguments that Keras' clone loses."""
    return keras.Input(
        batch_shape=shape,
        dtype=tensor.dtype,
        sparse=tensor.sparse,
        ragged=tensor.ragged,
        name=tensor.name if layer is None else layer.name,
        optional=layer is not None and layer.optional,
    )


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
        copy = (copy_tied if id(layer) in tied else copy_of)(layer)
        return copy, copy

    tied = tied_layers(model)
    copy_tied = duplicator(model, clone_graph)
    return copy_model(model, copy_layer, masks_of(model))


def tied_layers(model):
    """Returns the ids of layers that hold a layer which others use too, and of these.

    Their configs make a layer of their own in its place.
    """
    owners, placed = {}, set()
    for owner in all_layers(model):
        inner = [id(layer) for layer in sublayers_of(owner)]
        if is_graph(owner):
            placed.update(inner)
        else:
            for each in inner:
                owners.setdefault(each, []).append(id(owner))
    tied = {k: v for k, v in owners.items() if len(v) > 1 or k in placed}
    return {*tied, *(owner for own in tied.values() for owner in own)}


def copy_of(operation):
    """Copies a layer, model or operation, without wrappers at any depth.

    A layer or model that cannot be created from its config is copied object by object.

    Raises:
        ValueError: If its config is incomplete, and it cannot be copied so.
    """
    if is_duplicated(operation):
        return duplicate(operation, clone_graph)
    try:
        if not isinstance(operation, keras.Model):
            config = _unwrapped(keras.saving.serialize_keras_object(operation))
            _resolve_dtype(operation, config)
            # The config is no file, and holds only code that runs in the model.
            return keras.saving.deserialize_keras_object(config, safe_mode=False)
        copy = type(operation).from_config(_unwrapped(operation.get_config()))
        if not copy.built:
            copy.build_from_config(_plain(operation.get_build_config()))
            # Keras builds the layers of a subclassed model, and leaves its own flag.
            copy.built = operation.built
    except Exception as error:
        if isinstance(operation, keras.layers.Layer):
            with contextlib.suppress(Exception):
                return duplicate(operation, clone_graph)
        raise ValueError(
            f"'{operation.name}' ({type(operation).__name__}) cannot be copied from "
            f"its config: {error}. Its class needs a `get_config` that returns all "
            "that its constructor takes. Objects in the config that are neither "
            "layers nor plain functions need to be registered, by "
            "`keras.saving.register_keras_serializable`. Pruning in place, by "
            "PruningCallback, needs no copy, and leaves a model without wrapped "
            "layers plain."
        ) from error
    return copy


def _resolve_dtype(operation, config):
    """Replaces a map of dtype policies by the layer's own policy in its config.

    Such a map is read by the path of a layer, which Keras does not save.
    """
    while hasattr(operation, "mask_of"):
        operation = operation.layer
    policy = getattr(operation, "dtype_policy", None)
    is_map = isinstance(policy, keras.dtype_policies.DTypePolicyMap)
    if is_map and not sublayers_of(operation):
        policy = policy[operation.path]
        config["config"]["dtype"] = keras.saving.serialize_keras_object(policy)


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
        return type(operation).call is keras.Sequential.call
    if not is_functional(operation):
        return False
    if descend:
        return True
    try:
        return "output_layers" in operation.get_config()
    except Exception:
        # A layer in it has no config. A class of its own has one of its own.
        return type(operation).__module__.startswith("keras.")


def is_graph(operation):
    """Whether the layers of a model can be replaced in a copy of it."""
    return is_functional(operation) or _is_graph(operation, descend=True)


def is_plain(model):
    """Whether a model is only a graph of layers, without a config of its own."""
    return _is_graph(model, descend=False)


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


def _is_wrapper(registered_name):
    """Whether a name in a config is that of `PrunedLayer` or of a subclass."""
    if not isinstance(registered_name, str):
        return False
    return hasattr(keras.saving.get_registered_object(registered_name), "mask_of")


def _unwrapped(config):
    """Replaces every wrapper's config in a config by the config of its layer."""
    if isinstance(config, dict):
        if _is_wrapper(config.get("registered_name")):
            return _unwrapped(config["config"]["layer"])
        return {key: _unwrapped(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_unwrapped(value) for value in config)
    return config

"""Hands a layer's state over to its copy."""

import tempfile

import keras
from keras import ops

from keras_pruner.backend import sublayers_of
from keras_pruner.masks import read_mask, variable_of


def hand_over(layer, copy, masks):
    """Gives a copy of a layer the layer's state, pruned weights as zeros.

    The state is what Keras saves and loads, through the layer's own
    `save_own_variables`, `load_own_variables`, `save_assets` and `load_assets`; and the
    values of all variables, with those of random generators, and whether they are
    trainable.

    Args:
        layer: Built Keras layer or model. It may have wrapper layers in it.
        copy: Its copy without wrapper layers.
        masks: Dict from the id of a masked variable to its mask.

    Raises:
        ValueError: If the copy has other weights, or a layer cannot save or load its
            state.
    """
    pairs = list(_pairs(layer, copy, set()))
    for old, new in pairs:
        _use_hooks(old, new)
    # Afterwards, because hooks know no masks, and merge adapters into kernels.
    _copy_variables(layer, copy, masks)
    for old, new in pairs:
        if not _overrides(new, "load_own_variables") and new.variables:
            getattr(new, "finalize_state", lambda: None)()
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    for source, target in _variable_pairs(layer, copy, masks):
        if target.trainable != source.trainable:
            target.trainable = source.trainable


def _pairs(layer, copy, seen):
    """Yields a layer and its copy, then their sublayers, each once."""
    while hasattr(layer, "mask_of"):
        layer = layer.layer
    if id(layer) in seen or type(layer) is not type(copy):
        return
    seen.add(id(layer))
    yield layer, copy
    for pair in zip(sublayers_of(layer), sublayers_of(copy), strict=False):
        yield from _pairs(*pair, seen)


class _Store(dict):
    """Keeps arrays, as a layer's hooks find them when Keras loads a file."""

    def __setitem__(self, name, value):
        super().__setitem__(name, ops.convert_to_numpy(value))


def _overrides(layer, name):
    return getattr(type(layer), name) is not getattr(keras.layers.Layer, name)


def _use_hooks(layer, copy):
    """Saves and loads the state of a layer without its sublayers."""
    try:
        own_hooks = _overrides(layer, "save_own_variables")
        if own_hooks or _overrides(layer, "load_own_variables"):
            store = _Store()
            layer.save_own_variables(store)
            copy.load_own_variables(store)
        if hasattr(layer, "save_assets") and hasattr(layer, "load_assets"):
            with tempfile.TemporaryDirectory() as folder:
                layer.save_assets(folder)
                copy.load_assets(folder)
    except Exception as error:
        raise ValueError(
            f"'{layer.name}' ({type(layer).__name__}) cannot hand its state over to "
            f"its copy, by the methods with which Keras saves and loads it: {error}"
        ) from error


def _variable_pairs(layer, copy, masks):
    own_masks = {id(variable_of(mask)) for mask in masks.values()}
    sources = [v for v in layer.variables if id(v) not in own_masks]
    targets = copy.variables
    shapes = [tuple(v.shape) for v in sources], [tuple(v.shape) for v in targets]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"The copy of '{layer.name}' ({type(layer).__name__}) has other weights "
            f"than the original: {shapes[1]} for {shapes[0]}. Does its `get_config` "
            "return all that its constructor was given, and does it build from the "
            "shape of its input?"
        )
    return list(zip(sources, targets, strict=True))


def _copy_variables(layer, copy, masks):
    for source, target in _variable_pairs(layer, copy, masks):
        # A copy, because JAX may donate the buffer of either to a training step.
        value = ops.copy(source)
        mask = masks.get(id(source))
        if mask is not None:
            value = ops.where(read_mask(mask), value, ops.zeros_like(value))
        target.assign(value)

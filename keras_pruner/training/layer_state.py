"""Hands a layer's state over to its copy."""

import tempfile

import keras
from keras import ops

from keras_pruner.backend import sublayers_of
from keras_pruner.masks import read_mask, variable_of


class Whole:
    """Says which part of each variable a copy has: all of it. Subclasses say others."""

    def shape_of(self, variable):
        """Returns the shape that a variable has in the copy, as a tuple."""
        return tuple(variable.shape)

    def part_of(self, variable, value):
        """Returns the part of a variable's value that the copy has.

        Args:
            variable: `keras.Variable`.
            value: Tensor of its shape.
        """
        return value


def hand_over(layer, copy, masks, part=None):
    """Gives a copy of a layer the layer's state, pruned weights as zeros.

    The layer's own `save_own_variables`, `load_own_variables`, `save_assets` and
    `load_assets` copy the state, as Keras does for files. The copy also gets the values
    of all variables, including random generators, and which of them are trainable.

    Args:
        layer: Built Keras layer or model. It may have wrapper layers in it.
        copy: Its copy without wrapper layers.
        masks: Dict from the id of a masked variable to its mask.
        part: `Whole`, if the copy has smaller variables. A layer with smaller
            variables of its own hands over their values only.

    Raises:
        ValueError: If the copy has other weights, or a layer cannot save or load its
            state.
    """
    part = Whole() if part is None else part
    layer_pairs = list(_pairs(layer, copy, set()))
    for old, new in layer_pairs:
        own = _own_variables(old)
        if all(part.shape_of(v) == tuple(v.shape) for v in own):
            _use_hooks(old, new)
    pairs = _variable_pairs(layer, copy, layer_pairs, masks, part)
    # Afterwards, because hooks know no masks, and merge adapters into kernels.
    _copy_variables(pairs, masks, part)
    for old, new in layer_pairs:
        if not _overrides(new, "load_own_variables") and new.variables:
            getattr(new, "finalize_state", lambda: None)()
        if new.trainable != old.trainable:
            new.trainable = old.trainable
    for source, target in pairs:
        if target.trainable != source.trainable:
            target.trainable = source.trainable


def _pairs(layer, copy, seen):
    """Yields a layer and its copy, then their sublayers, each once."""
    while hasattr(layer, "mask_of"):
        layer = layer.layer
    if id(layer) in seen or type(layer) is not type(copy):
        return
    seen.add(id(layer))
    mode = getattr(layer, "quantization_mode", None)
    if mode is not None and copy.quantization_mode is None:
        # The config of an outer layer does not say that inner layers are quantized.
        config = getattr(layer, "quantization_config", None)
        copy.quantize(mode, **({} if config is None else {"config": config}))
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
            "its copy, by the methods with which Keras saves and loads it: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error


def _copy_variables(pairs, masks, part):
    for source, target in pairs:
        # A copy, because JAX may donate the buffer of either to a training step.
        value = ops.copy(source)
        mask = masks.get(id(source))
        if mask is not None:
            value = ops.where(read_mask(mask), value, ops.zeros_like(value))
        target.assign(part.part_of(source, value))


def _variable_pairs(layer, copy, layer_pairs, masks, part):
    """Returns pairs of a variable and its copy, for all variables of a layer."""
    own_masks = {id(variable_of(mask)) for mask in masks.values()}
    sources = [v for v in layer.variables if id(v) not in own_masks]
    pairs = {}
    for old, new in layer_pairs:
        for source, target in _match(_own_variables(old), _own_variables(new), part):
            pairs[id(source)] = source, target
    missing = any(id(source) not in pairs for source in sources)
    shapes = (
        [part.shape_of(v) for v in sources],
        [tuple(v.shape) for v in copy.variables],
    )
    if missing or sorted(shapes[0]) != sorted(shapes[1]):
        raise ValueError(
            f"The copy of '{layer.name}' ({type(layer).__name__}) has other weights "
            f"than the original: {shapes[1]} for {shapes[0]}. Does its `get_config` "
            "return all that its constructor was given, and does it build from the "
            "shape of its input?"
        )
    return list(pairs.values())


def _own_variables(layer):
    """Returns a layer's variables without those of its sublayers."""
    inner = {id(v) for sublayer in sublayers_of(layer) for v in sublayer.variables}
    return [v for v in layer.variables if id(v) not in inner]


def _match(sources, targets, part):
    """Returns pairs of variables of equal names, or of equal places, and shapes."""
    by_name = [sorted(vs, key=lambda v: v.name) for vs in (sources, targets)]
    # Variables without names have numbers that differ. Quantized layers create theirs
    # in another order.
    if [v.name for v in by_name[0]] == [v.name for v in by_name[1]]:
        sources, targets = by_name
    pairs = zip(sources, targets, strict=False)
    return [(a, b) for a, b in pairs if part.shape_of(a) == tuple(b.shape)]

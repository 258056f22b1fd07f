"""Makes inputs that a model can take."""

import itertools
import math

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import all_layers, inputs_structure_of

# Sizes to try for axes that a model leaves open, e.g. of sequences and images.
_OPEN_SIZES = (8, 32, 128, 2)


def check_samples(inputs, name):
    """Raises an error for samples that show nothing: none, or not finite ones.

    Args:
        inputs: Nested NumPy arrays or numbers.
        name: What a user calls them, e.g. "`data`".
    """
    for path, leaf in keras.tree.flatten_with_path(inputs):
        array = np.asarray(leaf)
        if array.shape[:1] == (0,):
            raise ValueError(f"{name} is empty: give at least one sample.")
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            where = f" in input {'/'.join(map(str, path))}" if path else ""
            raise ValueError(
                f"{name} holds NaN or infinite numbers{where}. Leave these samples out."
            )


def symbolic_inputs(model):
    """Returns a model's symbolic inputs, nested as it takes them, or `None`."""
    structure = inputs_structure_of(model)
    if structure is None and len(getattr(model, "inputs", None) or ()) == 1:
        return model.inputs[0]
    return structure


def sample_inputs(model, batch_size=2):
    """Yields inputs that a model may take, the likeliest first.

    Floats are uniform in [-1, 1), or in [0, 1) at the second try. Integers are indices
    that every embedding of the model has, or words of its lookup layers. Strings are
    words of its lookup layers. The values are the same in every call.

    Args:
        model: Built Keras model. If it has no symbolic inputs, the shapes that it was
            built with are used, and their types are guessed.
        batch_size: Number of samples, unless the model fixes it.

    Yields:
        Tuples of positional arguments and a dict of named ones. Nothing, if the model
        says nothing about its inputs.
    """
    structure = symbolic_inputs(model)
    if structure is not None:
        leaves = keras.tree.flatten(structure)
        is_open = any(None in leaf.shape[1:] for leaf in leaves)
        sizes = _OPEN_SIZES if is_open else _OPEN_SIZES[:1]
        for size, low in itertools.product(sizes, (-1, 0)):
            maker = _Maker(model, batch_size, size, low)
            inputs = keras.tree.map_structure(
                lambda leaf, maker=maker: maker.make(leaf.shape, leaf.dtype), structure
            )
            yield (inputs,), {}
        return
    for keep_batch in (False, True):
        for dtype in _guessed_dtypes(model):
            yield from _inputs_by_shapes(model, batch_size, dtype, keep_batch)


def _guessed_dtypes(model):
    """Returns the types to try for inputs whose type the model does not say."""
    embeds = any(isinstance(x, keras.layers.Embedding) for x in all_layers(model))
    return ("int32", "float32") if embeds else ("float32",)


def _inputs_by_shapes(model, batch_size, dtype, keep_batch):
    config = model.get_build_config() or {}
    maker = _Maker(model, batch_size, _OPEN_SIZES[0])

    def make(shape):
        return maker.make(shape if keep_batch else (None, *shape[1:]), dtype)

    if config.get("input_shape"):
        yield (keras.tree.map_shape_structure(make, config["input_shape"]),), {}
    elif config.get("shapes_dict"):
        yield (
            (),
            {
                name.removesuffix("_shape"): keras.tree.map_shape_structure(make, shape)
                for name, shape in config["shapes_dict"].items()
                if shape is not None
            },
        )


class _Maker:
    """Makes values of a shape and type."""

    def __init__(self, model, batch_size, open_size, low=-1):
        self._random = np.random.default_rng(0)
        self._batch_size, self._open_size, self._low = batch_size, open_size, low
        layers = all_layers(model)
        limits = [
            getattr(layer, name)
            for layer in layers
            for name in ("input_dim", "num_tokens")
            if isinstance(getattr(layer, name, None), int)
        ]
        self._limit = min(limits, default=None)
        vocabularies = [_vocabulary_of(layer) for layer in layers]
        words = [word for vocabulary in vocabularies for word in vocabulary]
        self._words = sorted({word for word in words if isinstance(word, str)}) or ["a"]
        self._numbers = sorted({int(w) for w in words if not isinstance(w, str)})

    def make(self, shape, dtype):
        dtype = keras.backend.standardize_dtype(dtype)
        batch, *others = shape
        sizes = [self._open_size if size is None else size for size in others]
        shape = (batch or self._batch_size, *sizes)
        return ops.convert_to_tensor(self._values(shape, dtype), dtype=dtype)

    def _values(self, shape, dtype):
        if dtype == "string":
            # Every word comes up if there is room, so that none can get lost.
            words = np.resize(self._random.permutation(self._words), math.prod(shape))
            return words.astype(object).reshape(shape)
        if dtype == "bool":
            return self._random.random(shape) < 0.5
        if "int" not in dtype:
            return self._random.uniform(self._low, 1, shape).astype("float32")
        if self._limit is None and self._numbers:
            numbers = np.resize(self._random.permutation(self._numbers), shape)
            return numbers.astype(dtype)
        limit = self._limit or (256 if dtype == "uint8" else 2)
        return self._random.integers(0, limit, shape).astype(dtype)


def _vocabulary_of(layer):
    """Returns the words of a lookup layer, or an empty list for another layer."""
    if not hasattr(layer, "get_vocabulary"):
        return []
    try:
        return list(layer.get_vocabulary())
    except Exception:
        # A layer that was not adapted has no words yet.
        return []

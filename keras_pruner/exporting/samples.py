"""Holds the inputs on which a model and its file run, and their shapes and names."""

import inspect
import re

import keras
import numpy as np
from keras import ops

from keras_pruner.comparison import runnable_inputs, symbolic_inputs


class Samples:
    """Holds inputs of a model, and the signature of its file.

    Args:
        arguments: Tuple of positional arguments, of NumPy arrays.
        shapes: List of the shapes that the file takes, in the order of
            `keras.tree.flatten`; `None` stands for any size.
        names: List of the names of the inputs.

    Attributes:
        feeds: Dict from names to arrays.
        signature: List with a structure of `keras.InputSpec`s for each argument.
        num_samples: Number of samples.
        is_open: Whether the file takes any size along an axis.
    """

    def __init__(self, arguments, shapes, names):
        self.arguments, self.shapes, self.names = tuple(arguments), shapes, names
        arrays = keras.tree.flatten(self.arguments)
        self.feeds = dict(zip(names, arrays, strict=True))
        specs = [
            keras.InputSpec(shape=shape, dtype=_dtype_of(array), name=name)
            for shape, array, name in zip(shapes, arrays, names, strict=True)
        ]
        self.signature = keras.tree.pack_sequence_as(list(self.arguments), specs)
        self.num_samples = min((len(x) for x in arrays if x.ndim), default=1)
        self.is_open = any(None in shape for shape in shapes)

    @classmethod
    def of(cls, model, inputs=None):
        """Returns given samples of a model, or made ones.

        Raises:
            ValueError: If the model cannot run on them, or none can be made.
        """
        found, _, reason = runnable_inputs(model, inputs)
        if found is None:
            text = reason.replace("`inputs`", "`sample_inputs`")
            raise ValueError(
                f"'{model.name}' cannot be exported without samples on which the file "
                f"runs: {text}"
            )
        args, kwargs = keras.tree.map_structure(ops.convert_to_numpy, found)
        if kwargs:
            args = inspect.signature(model.call).bind(*args, **kwargs).args
        arrays = keras.tree.flatten(tuple(args))
        leaves = keras.tree.flatten(symbolic_inputs(model))
        if len(leaves) != len(arrays) or None in leaves:
            # The model says nothing about its inputs, or is called with several.
            shapes = [(None, *array.shape[1:]) for array in arrays]
            return cls(args, shapes, _names([""] * len(arrays)))
        names = _names([leaf.name for leaf in leaves])
        return cls(args, [tuple(leaf.shape) for leaf in leaves], names)

    def in_float32(self):
        """Returns the samples with floats of 16 bits made float32."""

        def widened(array):
            is_half = "float" in str(array.dtype) and array.itemsize == 2
            return array.astype("float32") if is_half else array

        arguments = keras.tree.map_structure(widened, self.arguments)
        return Samples(arguments, self.shapes, self.names)

    def one_more(self):
        """Returns as many samples and one more, or `None` if the batch is fixed."""
        if not all(shape and shape[0] is None for shape in self.shapes):
            return None
        arguments = keras.tree.map_structure(
            lambda x: np.concatenate([x, x[:1]]), self.arguments
        )
        return Samples(arguments, self.shapes, self.names)

    def closed(self):
        """Returns the first sample only, if the batch is open, with closed shapes."""
        arrays = [
            array[:1] if shape and shape[0] is None else array
            for array, shape in zip(self.feeds.values(), self.shapes, strict=True)
        ]
        arguments = keras.tree.pack_sequence_as(self.arguments, arrays)
        return Samples(arguments, [array.shape for array in arrays], self.names)


def _names(names):
    """Returns names that every format can hold: those given, or numbers.

    Example:

    >>> _names(["image", "keras_tensor_3"]), _names(["image", "mask"])
    (['input_0', 'input_1'], ['image', 'mask'])
    """
    # Keras numbers inputs without names over all models of a process.
    pattern = "(?!keras_tensor|input_layer)[A-Za-z][A-Za-z0-9_]*"
    are_names = all(re.fullmatch(pattern, name) for name in names)
    if are_names and len({name.lower() for name in names}) == len(names):
        return names
    return [f"input_{number}" for number in range(len(names))]


def _dtype_of(array):
    # Strings are objects in NumPy.
    return "string" if array.dtype.kind in "OSU" else str(array.dtype)

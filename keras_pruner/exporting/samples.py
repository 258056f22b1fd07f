"""Holds the inputs on which a model and its file run, and their shapes and names."""

import inspect
import re

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import functional_of
from keras_pruner.comparison import check_samples, runnable_inputs, symbolic_inputs

# A file that takes one sample runs on so many.
_MOST_SINGLE = 32


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
        if inputs is not None:
            check_samples(args[0], "`sample_inputs`")
        if kwargs:
            args = inspect.signature(model.call).bind(*args, **kwargs).args
        arrays = keras.tree.flatten(tuple(args))
        leaves = keras.tree.flatten(symbolic_inputs(model))
        is_known = len(leaves) == len(arrays) and None not in leaves
        if functional_of(model) is not None and inputs is not None and not is_known:
            raise ValueError(
                f"'{model.name}' takes {len(leaves)} inputs. Received: {len(arrays)} "
                "arrays in `sample_inputs`. Labels are no inputs."
            )
        dtypes = [x.dtype for x in leaves] if is_known else map(_usual, arrays)
        arrays = [_cast(*pair) for pair in zip(arrays, dtypes, strict=True)]
        args = keras.tree.pack_sequence_as(tuple(args), arrays)
        if not is_known:
            # The model says nothing about its inputs, or is called with several.
            shapes = [(None, *array.shape[1:]) for array in arrays]
            keys = list(args[0]) if len(args) == 1 and _is_flat(args[0]) else []
            return cls(args, shapes, _names(sorted(keys) or [""] * len(arrays)))
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
        """Returns a list of the samples one by one, with closed shapes.

        Inputs whose batch is not open are the same in each.
        """
        pairs = list(zip(self.feeds.values(), self.shapes, strict=True))
        is_open = [bool(shape) and shape[0] is None for _, shape in pairs]
        found = []
        for number in range(min(self.num_samples, _MOST_SINGLE) if any(is_open) else 1):
            arrays = [
                array[number : number + 1] if one_by_one else array
                for (array, _), one_by_one in zip(pairs, is_open, strict=True)
            ]
            arguments = keras.tree.pack_sequence_as(self.arguments, arrays)
            found.append(Samples(arguments, [x.shape for x in arrays], self.names))
        return found


def _usual(array):
    """Returns the dtype in which Keras computes with an array, if none is given."""
    return keras.config.floatx() if array.dtype == "float64" else str(array.dtype)


def _cast(array, dtype):
    """Returns an array in the type of an input, if both are numbers."""
    is_number = array.dtype.kind in "fiub" and dtype != "string"
    return array.astype(dtype) if is_number else array


def _is_flat(value):
    is_nested = keras.tree.is_nested
    return isinstance(value, dict) and not any(map(is_nested, value.values()))


def _names(names):
    """Returns names that every format can hold: those given, or numbers.

    Example:

    >>> _names(["image", "keras_tensor_3"]), _names(["left eye", "Mask"])
    (['image', 'input_1'], ['left_eye', 'Mask'])
    """
    # Keras numbers inputs without names over all models of a process.
    pattern = "(?!keras_tensor|input_layer)[A-Za-z][A-Za-z0-9_]*"
    found = []
    for number, name in enumerate(names):
        name = re.sub("[^A-Za-z0-9_]", "_", name)
        found.append(name if re.fullmatch(pattern, name) else f"input_{number}")
    if len({name.lower() for name in found}) == len(found):
        return found
    return [f"input_{number}" for number in range(len(names))]


def _dtype_of(array):
    # Strings are objects in NumPy.
    return "string" if array.dtype.kind in "OSU" else str(array.dtype)

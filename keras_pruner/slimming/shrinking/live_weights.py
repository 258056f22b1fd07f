"""Runs a model with random live weights, to see what its zeros alone decide."""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import Patch, double_precision, in_float64
from keras_pruner.comparison import outputs_of

# Relative differences below it are rounding in float64.
TOLERANCE = 1e-9
_NUM_SAMPLES, _MAX_VALUES = 16, 1 << 16


def random_like(arguments, generator):
    """Returns random inputs of the kind of given ones, of more samples if small."""

    def draw(x):
        x = ops.convert_to_numpy(x)
        size = max(1, x.size // max(1, x.shape[0]))
        num_samples = max(x.shape[0], min(_NUM_SAMPLES, _MAX_VALUES // size))
        shape = (num_samples, *x.shape[1:])
        if "float" in str(x.dtype):
            # Of both signs, so that few units are off for all samples.
            size = np.abs(x).max(initial=1)
            return generator.uniform(-size, size, shape).astype(x.dtype)
        return generator.choice(x.ravel(), shape)

    return keras.tree.map_structure(draw, arguments)


def random_weights(values, generator):
    """Returns other values of variables, with the same zeros.

    Args:
        values: Dict from variables' ids to a tuple of the variable and its value.
        generator: NumPy's random generator.

    Returns:
        List of pairs of a variable and an array of float64.
    """
    pairs = []
    for variable, value in values.values():
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        new = value.astype("float64") * generator.uniform(0.5, 1.5, value.shape)
        # Statistics keep their signs, because variances are positive.
        if variable.trainable:
            new *= generator.choice([-1.0, 1.0], value.shape)
        pairs.append((variable, new))
    return pairs


class Run:
    """One run of a model in float64.

    Args:
        model: Built Keras model.
        arguments: Tuple of its positional arguments and a dict of named ones.
        values: Pairs of a variable and its value.
        watched: Dict from the id of a layer to a tuple of the layer and the axis of the
            channels in its first argument.
        sums: List of operations that add tensors.

    Attributes:
        outputs: List of arrays.
        ranges: Dict from the id of a watched layer to its least and largest input of
            each channel, an array of shape (2, channels); NaN if it could not be seen.
        zeros: Dict from the id of a sum to a list of whether each term is zero.
    """

    def __init__(self, model, arguments, values, watched, sums):
        self.ranges, self.zeros = {}, {}
        with contextlib.ExitStack() as contexts:
            contexts.enter_context(double_precision())
            contexts.enter_context(in_float64(model))
            for layer, axis in watched.values():
                call = self._watching(layer, axis)
                contexts.enter_context(Patch(layer, call=call))
            for operation in sums:
                call = self._seeing_zeros(operation)
                contexts.enter_context(Patch(operation, call=call))
            tensors = [
                (variable, ops.convert_to_tensor(value, dtype="float64"))
                for variable, value in values
            ]
            self.outputs = outputs_of(model, arguments, tensors)

    def _watching(self, layer, axis):
        call = layer.call

        def watched(x, *args, **kwargs):
            try:
                array = np.moveaxis(ops.convert_to_numpy(x), axis, -1)
                array = array.reshape(-1, array.shape[-1])
                seen = np.stack([array.min(axis=0), array.max(axis=0)])
            except Exception:
                # The layer is called while a loop is traced.
                seen = np.full((2, 1), np.nan)
            before = self.ranges.get(id(layer), seen)
            both = np.minimum(before[0], seen[0]), np.maximum(before[1], seen[1])
            self.ranges[id(layer)] = np.stack(both)
            return call(x, *args, **kwargs)

        return watched

    def _seeing_zeros(self, operation):
        call = operation.call

        def seen(*args, **kwargs):
            terms = [ops.convert_to_numpy(x) for x in keras.tree.flatten(args)]
            now = [not term.any() for term in terms]
            before = self.zeros.get(id(operation), now)
            self.zeros[id(operation)] = [
                a and b for a, b in zip(before, now, strict=True)
            ]
            return call(*args, **kwargs)

        return seen

    def constants_of(self, layer):
        """Returns a watched layer's constant inputs: an array with NaN for others."""
        if id(layer) not in self.ranges:
            return None
        low, high = self.ranges[id(layer)]
        is_constant = high - low <= TOLERANCE * np.maximum(np.abs(low), np.abs(high))
        return np.where(is_constant, (low + high) / 2, np.nan)

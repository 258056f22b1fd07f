"""Recognizes layers that divide by the root of a mean of squares."""

from typing import NamedTuple

import keras
import numpy as np

from keras_pruner.backend import own_non_trainables_of, sublayers_of, trainables_in
from keras_pruner.comparison import outputs_of

# Relative, in float32 and in 16 bits.
_TOLERANCE, _COARSE = 1e-4, 2e-2


class MeanSquare(NamedTuple):
    """A layer that computes `x / sqrt(mean(x**2) + epsilon) * (offset + scale)`.

    The mean is over n indices of some axes. If only n' of them are not zero, the layer
    computes the same from these alone with

        epsilon * n / n'    and    (offset + scale) * sqrt(n / n').

    Args:
        scale: `keras.Variable` with the shape of the axes.
        axes: Tuple of the axes.
        epsilon: Name of the layer's attribute, and of the key of its config.
        offset: 0 or 1.
    """

    scale: keras.Variable
    axes: tuple
    epsilon: str = "epsilon"
    offset: int = 0


def mean_square_of(layer):
    """Returns the `MeanSquare` that a built layer computes, or `None`.

    A layer of another class is recognized by its one variable, its epsilon, and what it
    computes of random numbers: packages of models have their own classes of it.
    """
    if getattr(type(layer), "call", None) is keras.layers.RMSNormalization.call:
        axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
        return MeanSquare(layer.scale, tuple(axes))
    variables = [*trainables_in(layer), *own_non_trainables_of(layer)]
    epsilon = next((k for k in ("epsilon", "eps") if hasattr(layer, k)), None)
    if len(variables) != 1 or len(variables[0].shape) != 1 or epsilon is None:
        return None
    if sublayers_of(layer) or not isinstance(layer, keras.layers.Layer):
        return None
    for offset in (0, 1):
        found = MeanSquare(variables[0], (-1,), epsilon, offset)
        if _computes(layer, found):
            return found
    return None


def _computes(layer, found):
    """Whether a layer computes what a `MeanSquare` says."""
    generator = np.random.default_rng(0)
    size, epsilon = found.scale.shape[0], getattr(layer, found.epsilon)
    if size < 2 or not isinstance(epsilon, float) or epsilon <= 0:
        return False
    scale = generator.normal(size=size)
    # Their mean is not zero, and some rows are so small that epsilon counts.
    x = generator.normal(1, 1, size=(4, 1, size)) * epsilon**0.5
    x *= np.array([0.1, 1, 10, 1e3])[:, None, None]
    square = np.mean(x**2, axis=-1, keepdims=True)
    expected = x / np.sqrt(square + epsilon) * (found.offset + scale)
    x, scale = (keras.ops.convert_to_tensor(a, dtype="float32") for a in (x, scale))
    try:
        outputs = outputs_of(layer, ((x,), {}), [(found.scale, scale)])
    except Exception:
        # Code of others, which may take other inputs.
        return False
    if [made.shape for made in outputs] != [expected.shape]:
        return False
    tolerance = _TOLERANCE if outputs[0].dtype == "float32" else _COARSE
    made = outputs[0].astype("float64")
    return np.allclose(made, expected, tolerance, tolerance)

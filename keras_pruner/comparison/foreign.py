"""Compares what another program computes with a model's own outputs."""

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import all_layers
from keras_pruner.comparison.compare import compare_outputs, outputs_of

# Engines order sums in their own ways, and transform convolutions.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 2e-2
# A model that amplifies rounding may differ by so many times its own change ...
_AMPLIFIED = 10
# ... when its inputs change by about this share, up to this difference.
_ROUNDING, _LARGEST_TOLERANCE = 1e-6, 0.1


def compare_foreign(model, arguments, made, tolerance=None):
    """Compares the outputs of a file or an engine with those of the model.

    Types may differ in the number of bits. Outputs behind those of the model are
    ignored, because exporters append states, e.g. of the dropout in attention.

    Args:
        model: Built Keras model. It runs with `training=False`.
        arguments: Tuple of positional arguments and a dict of named ones, of NumPy
            arrays.
        made: List of arrays in the order of `keras.tree.flatten`.
        tolerance: Largest relative difference that counts as rounding. By default 1e-3,
            or 2e-2 if the model computes in 16 bits. Deep models amplify rounding, so
            it is at least ten times the change of the outputs, up to 0.1, if the inputs
            change by about a millionth.

    Returns:
        `Comparison`.
    """
    expected = outputs_of(model, arguments)
    made = made[: len(expected)]
    if len(made) == len(expected):
        made = [_as_type(*pair) for pair in zip(made, expected, strict=True)]
    if tolerance is None:
        tolerance = _tolerance(model, arguments, expected)
    return compare_outputs(expected, made, tolerance)


def draws_random_numbers(model, arguments):
    """Whether random numbers change a model's outputs in inference.

    Args:
        model: Built Keras model.
        arguments: Tuple of positional arguments and a dict of named ones.
    """
    seeds = [v for v in model.variables if v.name == "seed_generator_state"]
    if not seeds:
        return False
    others = [(v, ops.convert_to_tensor(v) + ops.cast(97, v.dtype)) for v in seeds]
    made = outputs_of(model, arguments), outputs_of(model, arguments, others)
    return not compare_outputs(*made, 0.0).is_equal


def _as_type(made, expected):
    """Returns an array in the type of another, if only the number of bits differs."""
    made = np.asarray(made)
    kinds = [np.dtype(x.dtype).kind for x in (made, expected)]
    is_alike = kinds[0] == kinds[1] or set(kinds) <= {"i", "u"} or "V" in kinds
    return made.astype(expected.dtype) if is_alike else made


def _tolerance(model, arguments, expected):
    """Returns the relative difference of outputs that may be rounding."""
    dtypes = {str(layer.compute_dtype) for layer in all_layers(model)}
    is_half = any("16" in dtype or "float8" in dtype for dtype in dtypes)
    least = _HALF_TOLERANCE if is_half else _TOLERANCE

    def changed(array):
        if array.dtype.kind != "f":
            return array
        noise = np.random.default_rng(0).standard_normal(array.shape)
        return (array * (1 + _ROUNDING * noise)).astype(array.dtype)

    near = keras.tree.map_structure(changed, arguments)
    change = compare_outputs(expected, outputs_of(model, near))
    amplified = _AMPLIFIED * change.relative_difference
    return max(least, min(amplified, _LARGEST_TOLERANCE))

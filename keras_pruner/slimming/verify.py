"""Compares a smaller model with the model that it was made of."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import all_layers, double_precision, in_float64
from keras_pruner.comparison import (
    compare_outputs,
    outputs_of,
    runnable_inputs,
    variation_of,
)

# Relative differences that only rounding explains. The outputs of deep models vary so
# little over inputs, or amplify rounding so much, that float32 cannot tell.
_CERTAIN, _CERTAIN_IN_FLOAT64 = 1e-6, 1e-6
# So many times the model's own change counts as rounding, if inputs and weights change
# by as much as float32 rounds.
_OWN_CHANGES, _LARGEST_CHANGE, _ROUNDING = 20, 1e-3, 1e-7
# Outputs that vary less are compared as if they varied so much.
_LEAST_VARIATION = 1e-7


@dataclasses.dataclass(frozen=True)
class Verification:
    """How far the outputs of a smaller model are from the original's.

    Attributes:
        difference: Largest absolute difference of the outputs; `None` if the models
            were not compared.
        relative_difference: The same, as a share of the largest magnitude.
        in_float64: The relative difference if both models compute in float64; `None`
            if float32 was enough.
        reason: Why the models were not compared, or `None`.
    """

    difference: float | None = None
    relative_difference: float | None = None
    in_float64: float | None = None
    reason: str | None = None

    def __str__(self):
        if self.reason is not None:
            return f"The outputs were not compared, because {self.reason}."
        text = (
            f"Its outputs differ by at most {self.difference:.2g}, "
            f"{self.relative_difference:.2g} of the largest"
        )
        if self.in_float64 is not None:
            text += f"; in float64 by {self.in_float64:.2g} of it"
        return f"{text}."


def verify(model, smaller, inputs=None, values=()):
    """Compares the outputs of a model and a smaller one, in float64 where needed.

    Both run with `training=False`. Their variables do not change.

    Args:
        model: Built Keras model.
        smaller: The model that should compute the same.
        inputs: A batch of inputs; by default one is made.
        values: Pairs of a variable of `model` and the value with which it computes.

    Returns:
        `Verification`.

    Raises:
        ValueError: If their outputs differ by more than rounding.
    """
    arguments, _, reason = runnable_inputs(model, inputs)
    if arguments is None:
        return Verification(reason=reason)
    try:
        expected = outputs_of(model, arguments, values)
        made = outputs_of(smaller, arguments)
    except Exception as error:
        raise ValueError(
            f"The smaller model of '{model.name}' cannot run on inputs on which the "
            f"model runs: {error}"
        ) from error
    result = compare_outputs(expected, made)
    numbers = result.difference, result.relative_difference
    if result.relative_difference <= _CERTAIN * variation_of(expected):
        return Verification(*numbers)
    precise, variation, own_change = _in_float64(model, smaller, arguments, values)
    if precise is None:
        weights = variable_values(model, values)
        own_change = _own_change(model, arguments, weights, expected)
    # Weights that were scaled, and biases to which constants were added, are rounded.
    limit = min(_LARGEST_CHANGE, _OWN_CHANGES * own_change)
    if precise is None:
        is_equal = result.relative_difference <= max(1e-5, limit)
    else:
        is_equal = precise <= max(_CERTAIN_IN_FLOAT64 * variation, limit)
    if is_equal:
        return Verification(*numbers, precise)
    again = compare_outputs(expected, outputs_of(model, arguments, values))
    if not again.relative_difference <= _CERTAIN:
        return Verification(reason="the outputs of the model differ from call to call")
    raise ValueError(
        f"The smaller model of '{model.name}' computes other outputs: they differ by "
        f"up to {result.difference:.3g}, which is {result.relative_difference:.3g} of "
        "the largest output"
        + ("" if precise is None else f", and in float64 {precise:.3g}")
        + ". Leave out the channels of layers with rules of your own, or correct these."
    )


def _in_float64(model, smaller, arguments, values):
    """Compares two models in float64.

    Returns:
        Tuple of the relative difference, of how far the outputs vary over samples, and
        of the model's own relative change if its weights are rounded; `None` and zeros
        if the models cannot compute in float64.
    """
    try:
        with double_precision(), in_float64(model, smaller):
            wide = wide_values(model, values)
            expected = outputs_of(model, arguments, wide)
            made = outputs_of(smaller, arguments, wide_values(smaller))
            own_change = _own_change(model, arguments, wide, expected)
    except Exception:
        # A layer that fixes its type of numbers.
        return None, 0.0, 0.0
    if any(array.dtype.kind == "f" and array.itemsize < 8 for array in expected):
        return None, 0.0, 0.0
    variation = max(variation_of(expected), _LEAST_VARIATION)
    difference = compare_outputs(expected, made).relative_difference
    return difference, variation, own_change


def wide_values(model, values=()):
    """Returns pairs of each float variable of a model and its value in float64."""
    return [(v, ops.cast(x, "float64")) for v, x in variable_values(model, values)]


def variable_values(model, values=()):
    """Returns pairs of each float variable of a model and its value.

    Args:
        model: Built Keras model.
        values: Pairs of some of the variables and the values to use.
    """
    found = {id(v): (v, v) for layer in all_layers(model) for v in layer.variables}
    found |= {id(variable): (variable, value) for variable, value in values}
    return [
        (variable, ops.convert_to_tensor(value))
        for variable, value in found.values()
        if keras.backend.is_float_dtype(variable.dtype)
    ]


def _own_change(model, arguments, values, expected):
    """Returns the relative change of outputs if inputs and weights are rounded."""
    generator = np.random.default_rng(0)

    def rounded(x):
        if "float" not in keras.backend.standardize_dtype(x.dtype):
            return x
        noise = generator.uniform(1 - _ROUNDING, 1 + _ROUNDING, tuple(x.shape))
        x = ops.convert_to_tensor(x)
        return x * ops.convert_to_tensor(noise, dtype=x.dtype)

    moved = keras.tree.map_structure(rounded, arguments)
    values = [(variable, rounded(value)) for variable, value in values]
    made = outputs_of(model, moved, values)
    return compare_outputs(expected, made).relative_difference

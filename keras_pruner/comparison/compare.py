"""Compares the outputs of a model and its copy."""

import contextlib
import dataclasses
import warnings

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_pruner.backend import Patch, all_layers, no_gradients, scope_with
from keras_pruner.comparison.sample_inputs import sample_inputs

# The largest difference that counts as rounding, as a share of the largest output.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2
_ADVICE = (
    "A copy keeps what Keras saves: `get_config`, weights, and what the "
    "`save_own_variables` and `save_assets` of layers save. Add the missing parts "
    "there. `inputs=` compares on a batch of yours, and `check=False` skips the "
    "comparison. Pruning in place, by PruningCallback, needs no copy."
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How far the outputs of a copy are from the original's.

    Attributes:
        difference: Largest absolute difference over all outputs; infinite if shapes,
            types or the places of NaN differ. `None` if the models were not compared.
        relative_difference: The same, as a share of the largest magnitude in the
            output. Integers, booleans and strings are equal (0) or not (infinite).
        tolerance: Largest relative difference that counts as rounding: 1e-4, or 2e-2
            if the model computes in 16 bits.
        reason: Why the models were not compared, or `None`.
    """

    difference: float | None = None
    relative_difference: float | None = None
    tolerance: float = _TOLERANCE
    reason: str | None = None

    @property
    def is_equal(self):
        """Whether the outputs were compared, and are equal except for rounding."""
        return self.reason is None and self.relative_difference <= self.tolerance


def compare_models(model, copy, inputs=None):
    """Runs a model and its copy on the same inputs, and compares all outputs.

    Both run with `training=False`. Their variables do not change: neither the states of
    recurrent layers nor those of random generators.

    Args:
        model: Built Keras model.
        copy: Keras model that takes the same inputs.
        inputs: A batch of inputs, as `model` takes them. By default a batch of two
            samples is made from the shapes and types that the model says.

    Returns:
        `Comparison`.

    Raises:
        ValueError: If the model cannot run on given inputs, or the copy cannot run on
            inputs on which the model can.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> other = keras.models.clone_model(model)
    >>> compare_models(model, other).is_equal
    False
    >>> other.set_weights(model.get_weights())
    >>> compare_models(model, other).difference
    0.0
    """
    arguments, expected, reason = runnable_inputs(model, inputs)
    if arguments is None:
        return Comparison(reason=reason)
    try:
        made = outputs_of(copy, arguments)
    except Exception as error:
        raise ValueError(
            f"The copy of '{model.name}' fails on inputs on which the model runs "
            f"({_short(error)}). {_ADVICE}"
        ) from error
    result = compare_outputs(expected, made, _tolerance(model))
    if result.is_equal:
        return result
    itself = compare_outputs(expected, outputs_of(model, arguments), _tolerance(model))
    if not itself.is_equal:
        return Comparison(reason="the outputs of the model differ from call to call")
    return result


def check_copy(model, copy, inputs=None):
    """Raises an error if the outputs of a copy differ from the original's.

    If the models cannot be compared, a warning in the log says why.

    Args:
        model: Built Keras model.
        copy: Its copy.
        inputs: See `compare_models`.

    Returns:
        `Comparison`.

    Raises:
        ValueError: If the outputs differ by more than rounding, or the copy does not
            run.
    """
    result = compare_models(model, copy, inputs)
    if result.reason is not None:
        logging.warning(
            "The copy of '%s' was not compared with the original, because %s.",
            model.name,
            result.reason,
        )
    elif not result.is_equal:
        layer = _first_different_layer(model, copy, inputs)
        where = "" if layer is None else f" The first layer that differs is {layer}."
        raise ValueError(
            f"The copy of '{model.name}' computes other outputs than the model: they "
            f"differ by up to {result.difference:.3g}, which is "
            f"{result.relative_difference:.3g} of the largest output.{where} {_ADVICE}"
        )
    else:
        logging.info(
            "The outputs of '%s' and of its copy differ by at most %.3g.",
            model.name,
            result.difference,
        )
    return result


def runnable_inputs(model, inputs=None):
    """Finds arguments on which a model runs.

    Args:
        model: Built Keras model.
        inputs: A batch of inputs, or `None` to make some.

    Returns:
        Tuple of the positional and named arguments, the outputs as a list of arrays,
        and `None`; or of `None`, `None` and the reason.

    Raises:
        ValueError: If the model cannot run on given inputs.
    """
    if inputs is not None:
        arguments = ((inputs,), {})
        try:
            return arguments, outputs_of(model, arguments), None
        except Exception as error:
            raise ValueError(
                f"'{model.name}' cannot run on the given `inputs`: {error}"
            ) from error
    advice = ": give a batch as `inputs`"
    reason = f"the model does not say which inputs it takes{advice}"
    try:
        with warnings.catch_warnings(action="ignore"):
            candidates = list(sample_inputs(model))
        for arguments in candidates:
            try:
                outputs = outputs_of(model, arguments)
            except Exception as error:
                reason = f"the model fails on made inputs{advice} ({_short(error)})"
                continue
            if any(np.isfinite(y).any() if _is_number(y) else True for y in outputs):
                return arguments, outputs, None
            reason = f"the model returns NaN or infinity on made inputs{advice}"
    except Exception as error:
        reason = f"no inputs can be made for it{advice} ({_short(error)})"
    return None, None, reason


def _short(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def outputs_of(model, arguments, values=()):
    """Returns the outputs of a model in inference mode; its variables do not change.

    Args:
        model: Built Keras model.
        arguments: Tuple of positional arguments and a dict of named ones.
        values: Pairs of a variable and the value with which the model computes.

    Returns:
        List of arrays.
    """
    args, kwargs = arguments
    with contextlib.ExitStack() as contexts:
        # The user knows the model's own warnings.
        contexts.enter_context(warnings.catch_warnings(action="ignore"))
        contexts.enter_context(no_gradients())
        contexts.enter_context(scope_with([*_reset_states(model), *values]))
        outputs = model(*args, **kwargs, training=False)
        leaves = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
        return [ops.convert_to_numpy(leaf) for leaf in leaves]


def _reset_states(model):
    """Maps the states of stateful recurrent layers to zeros, as in a model loaded."""
    layers = [one for one in all_layers(model) if getattr(one, "stateful", False)]
    states = keras.tree.flatten([getattr(layer, "states", None) for layer in layers])
    variables = [state for state in states if isinstance(state, keras.Variable)]
    return [(state, ops.zeros(state.shape, state.dtype)) for state in variables]


def _tolerance(model):
    dtypes = {str(layer.compute_dtype) for layer in all_layers(model)}
    is_half = any("16" in dtype or "float8" in dtype for dtype in dtypes)
    return _HALF_TOLERANCE if is_half else _TOLERANCE


def output_error(expected, made):
    """Returns the relative error `|F - D|^2 / |D - mean D|^2` of outputs.

    Args:
        expected: List of arrays D, samples first. The mean is that over the samples.
        made: List of arrays F of the same shapes. Outputs that are no real numbers do
            not count.

    Returns:
        Float, or `None` if no output varies or is a real number, or F is not finite.

    Example:

    >>> output_error([np.array([[0.0], [2.0]])], [np.array([[0.0], [1.0]])])
    0.5
    """
    change = whole = 0.0
    for dense, found in zip(expected, made, strict=True):
        if "float" in str(dense.dtype):
            dense, found = dense.astype("float64"), found.astype("float64")
            change += float(np.sum((found - dense) ** 2))
            whole += float(np.sum((dense - dense.mean(axis=0)) ** 2))
    return change / whole if 0 < whole < np.inf and np.isfinite(change) else None


def variation_of(arrays):
    """Returns how far outputs vary over samples, as a share of the largest output.

    It is that of the output that varies least. Outputs that are no real numbers, or
    are all zero, do not count; without any other it is 1.

    Example:

    >>> variation_of([np.array([[1.0, 2.0], [1.0, 4.0]])])
    0.25
    """
    shares = []
    for array in arrays:
        if array.dtype.kind == "f" and array.ndim and np.abs(array).max(initial=0) > 0:
            spread = np.abs(array - array.mean(axis=0)).max()
            shares.append(min(1.0, float(spread / np.abs(array).max())))
    return min(shares, default=1.0)


def compare_outputs(expected, made, tolerance=_TOLERANCE):
    """Compares two lists of arrays; returns a `Comparison`."""
    if len(expected) != len(made):
        return Comparison(np.inf, np.inf, tolerance)
    pairs = [_difference(*pair) for pair in zip(expected, made, strict=True)]
    absolute = max((pair[0] for pair in pairs), default=0.0)
    relative = max((pair[1] for pair in pairs), default=0.0)
    return Comparison(absolute, relative, tolerance)


def _is_number(array):
    """Whether an array holds floating point numbers, also of 8 or 16 bits."""
    return "float" in str(array.dtype) or array.dtype.kind == "c"


def _difference(expected, made):
    """Returns the largest difference of two arrays, absolute and relative."""
    if expected.shape != made.shape or expected.dtype != made.dtype:
        return np.inf, np.inf
    if not _is_number(expected):
        equal = bool(np.all(expected == made))
        return (0.0, 0.0) if equal else (np.inf, np.inf)
    wide = "complex128" if expected.dtype.kind == "c" else "float64"
    expected, made = expected.astype(wide), made.astype(wide)
    with np.errstate(invalid="ignore"):
        apart = np.abs(expected - made)
    same = (expected == made) | (np.isnan(expected) & np.isnan(made))
    apart = np.where(same, 0.0, np.nan_to_num(apart, nan=np.inf))
    largest = float(np.max(apart, initial=0.0))
    size = float(np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0))
    if largest == 0:
        return 0.0, 0.0
    return largest, largest / size if size else np.inf


def _first_different_layer(model, copy, inputs):
    """Returns in words which layer's outputs differ first, or `None`."""
    try:
        arguments, _, _ = runnable_inputs(model, inputs)
        records = _records(model, arguments), _records(copy, arguments)
    except Exception:
        return None
    for (layer, expected), (other, made) in zip(*records, strict=False):
        if type(layer) is not type(other):
            return None
        if None in (expected, made):
            continue
        if not compare_outputs(expected, made, _tolerance(model)).is_equal:
            return f"'{layer.name}' ({type(layer).__name__})"
    return None


def _records(model, arguments):
    """Returns the layers of a model and their outputs, as their calls end."""
    records = []

    def recorded(layer):
        call = layer.call

        def call_and_record(*args, **kwargs):
            outputs = call(*args, **kwargs)
            leaves = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
            try:
                arrays = [ops.convert_to_numpy(leaf) for leaf in leaves]
            except Exception:
                # The layer is called while a loop is traced.
                arrays = None
            records.append((layer, arrays))
            return outputs

        return call_and_record

    with contextlib.ExitStack() as patches:
        for layer in all_layers(model, include_self=False):
            # Wrapper layers of this package are in one of the models only.
            if not hasattr(layer, "mask_of"):
                patches.enter_context(Patch(layer, call=recorded(layer)))
        outputs_of(model, arguments)
    return records

"""Runs a layer and a smaller one on random inputs of the sizes that were recorded."""

import inspect

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import (
    all_layers,
    no_gradients,
    run_in_inference_mode,
    trainables_in,
)
from keras_pruner.comparison import compare_outputs, outputs_of

# Rounding stays far below, and a wrong scale far above.
_TOLERANCE = 1e-4


class Trial:
    """Compares smaller layers with the layer that they are made of.

    The layer runs with zeros in place of all that is removed. A layer that computes
    something else in training also has to run then.

    Args:
        layer: Built Keras layer.
        part: `Part` that stays. Without a recorded call of the layer, or if it has
            variables and constants are added to biases, nothing is compared.
    """

    def __init__(self, layer, part):
        self._expected = None
        hides_constants = part.has_constants and layer.variables
        call = None if hides_constants else part.call_of(layer)
        if call is None:
            return
        whole, self._arguments = _arguments(call, part)
        takes_training = "training" in inspect.signature(layer.call).parameters
        self._trains = takes_training and _runs_in_training(layer, whole)
        try:
            values = _zeroed(layer, part)
            outputs, again = (outputs_of(layer, whole, values) for _ in range(2))
        except Exception:
            # Its call takes what cannot be made, or is not deterministic.
            return
        kept = [part.kept_of(labels) for labels in part.labels_in(call.outputs)]
        same = compare_outputs(outputs, again, 0.0).is_equal
        if same and len(kept) == len(outputs):
            self._expected = [_take(*pair) for pair in zip(outputs, kept, strict=True)]

    def is_passed_by(self, smaller):
        """Whether a smaller layer computes the same; `True` if nothing is compared."""
        if self._expected is None:
            return True
        try:
            made = outputs_of(smaller, self._arguments)
        except Exception:
            return False
        if self._trains and not _runs_in_training(smaller, self._arguments):
            return False
        return compare_outputs(self._expected, made, _TOLERANCE).is_equal

    def is_passed_between(self, inputs, outputs):
        """Whether the operations between symbolic tensors compute the same."""
        if self._expected is None:
            return True
        arrays = [x for x in keras.tree.flatten(self._arguments) if ops.is_tensor(x)]
        try:
            function = keras.Function(inputs, outputs)
        except (AttributeError, ValueError):
            # An output is no tensor, or does not come from the inputs.
            return True
        if len(arrays) != len(inputs):
            return True
        try:
            with keras.StatelessScope():
                made = keras.tree.flatten(run_in_inference_mode(function, arrays))
                made = [ops.convert_to_numpy(x) for x in made]
        except Exception:
            return False
        return compare_outputs(self._expected, made, _TOLERANCE).is_equal


def _runs_in_training(layer, arguments):
    """Whether a layer can be called with `training=True`; its state stays."""
    args, kwargs = arguments
    try:
        with no_gradients(), keras.StatelessScope():
            layer(*args, **(kwargs | {"training": True}))
    except Exception:
        return False
    return True


def _arguments(call, part):
    """Returns random arguments of a recorded call, and what stays of them."""
    generator, dtypes = np.random.default_rng(0), iter(call.dtypes)

    def make(value):
        if not part.is_labels(value):
            return value, value
        dtype = next(dtypes)
        array = generator.normal(0, 1, value.shape)
        # Small and large rows, because a softmax hides scores of one order.
        rows = generator.uniform(-1, 1, (*value.shape[:-1], 1)[: array.ndim])
        array = array * 10**rows
        if "float" not in dtype:
            array = array > 0
        kept = part.kept_of(value)
        # What is removed is zero: a normalization sees more than what is multiplied.
        array, smaller = _zero(array, kept), _take(array, kept)
        return tuple(ops.convert_to_tensor(x, dtype=dtype) for x in (array, smaller))

    kwargs = {k: v for k, v in call.kwargs.items() if k != "training"}
    leaves = keras.tree.flatten((call.args, kwargs))
    pairs = [make(leaf) for leaf in leaves]
    return tuple(
        keras.tree.pack_sequence_as((call.args, kwargs), [pair[i] for pair in pairs])
        for i in range(2)
    )


def _zeroed(layer, part):
    """Returns pairs of a variable and its value, with zeros for what is removed."""
    variables = [v for each in all_layers(layer) for v in trainables_in(each)]
    pairs = []
    for variable in {id(v): v for v in variables}.values():
        if not part.is_whole(variable):
            value = _zero(ops.convert_to_numpy(variable), part.indices(variable))
            pairs.append((variable, value.astype(variable.dtype)))
    return pairs


def _zero(array, kept):
    for axis, own in enumerate(kept):
        if own is not None:
            stays = np.isin(np.arange(array.shape[axis]), own)
            array = np.moveaxis(np.moveaxis(array, axis, -1) * stays, -1, axis)
    return array


def _take(array, kept):
    for axis, own in enumerate(kept):
        if own is not None:
            array = np.take(array, own, axis)
    return array

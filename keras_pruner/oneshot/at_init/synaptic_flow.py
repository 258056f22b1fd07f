"""Computes the synaptic flow through a model of absolute weights."""

import contextlib
import functools

import keras
import numpy as np
from keras import layers, ops

from keras_pruner.backend import (
    Patch,
    all_layers,
    derivative,
    double_precision,
    inputs_structure_of,
)

# Activations that saturate on the large numbers in a model of absolute weights, and
# then block the flow.
_SATURATING = {"softmax", "log_softmax", "sigmoid", "hard_sigmoid", "tanh"}

# Layers that divide by statistics of their input, and so block the flow. In inference
# mode batch normalisation uses its own statistics instead.
_NORMALIZING = (
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.GroupNormalization,
    layers.UnitNormalization,
)

# The flow grows with every layer. If it exceeds the range of floats, input and R are
# multiplied by these. Without biases this scales all scores by one factor.
_SCALES = (1.0, 1e-10, 1e-20, 1e-30)


def flow_gradients(model, kernels, example=None):
    """Returns `dR/d|w|` for each kernel, (K, N) float32, with a largest score of 1.

    R is the sum of the outputs on an input of ones, for the model with absolute
    weights, in inference mode and float64. Layers that normalise by their own input
    only scale and shift. Outside TensorFlow, Keras still computes much in float32. So
    if a derivative is not finite, input and R are scaled down. The model does not
    change.

    Args:
        model: Built Keras model.
        kernels: List of its `Kernel`s.
        example: Inputs whose shape and dtype to use, or `None` to use the model's.

    Raises:
        ValueError: If the input's shape is not known, or the flow is zero.
    """
    specs = _input_specs(model, example)
    own = {id(kernel.variable) for kernel in kernels}
    others = [v for v in model.trainable_variables if id(v) not in own]
    with double_precision(), _for_flow(model):
        values = [_absolute(kernel.variable) for kernel in kernels]
        for scale in _SCALES:
            slopes = _derive_flow(model, kernels, values, others, specs, scale)
            with np.errstate(invalid="ignore", over="ignore"):
                # `np.max` is NaN if any score is.
                largest = np.max(
                    [
                        np.abs(ops.convert_to_numpy(value) * slope).max()
                        for value, slope in zip(values, slopes, strict=True)
                    ]
                )
            if np.isfinite(largest):
                break
    if not 0 < largest < float("inf"):
        raise ValueError(
            "The synaptic flow of the model is "
            f"{'zero' if largest == 0 else 'not finite'}, so 'synflow' cannot rank its "
            "weights. An activation may saturate on large inputs, or all paths are "
            "pruned. Use criterion 'snip' or 'magnitude'."
        )
    return [
        kernel.layout.to_matrix(
            ops.convert_to_tensor((slope / largest).astype("float32"))
        )
        for kernel, slope in zip(kernels, slopes, strict=True)
    ]


def _absolute(variable):
    return ops.cast(ops.abs(ops.convert_to_tensor(variable)), "float64")


def _derive_flow(model, kernels, values, others, specs, scale):
    inputs = _inputs(specs, scale)

    def flow(values):
        pairs = [(k.variable, v) for k, v in zip(kernels, values, strict=True)]
        pairs += [(variable, _absolute(variable)) for variable in others]
        with keras.StatelessScope() as scope:
            # A `state_mapping` would be cast to the variables' dtype; updates are not.
            for pair in pairs:
                scope.add_update(pair)
            outputs = model(inputs, training=False)
        return scale * sum(ops.sum(out) for out in keras.tree.flatten(outputs))

    # Eager, because a compiled float64 function would run only once.
    slopes = derivative(flow)(values)
    return [ops.convert_to_numpy(ops.stop_gradient(slope)) for slope in slopes]


class _Spec:
    """Holds a shape without the batch axis, and a dtype; a leaf in nested inputs."""

    def __init__(self, tensor):
        self.shape = tuple(tensor.shape[1:])
        self.dtype = keras.backend.standardize_dtype(tensor.dtype)


def _input_specs(model, example):
    if example is None:
        # Nested like the arguments of the model; a subclassed model has none.
        example = inputs_structure_of(model)
        if example is None:
            example = getattr(model, "inputs", None)
        if isinstance(example, list) and len(example) == 1:
            (example,) = example
    if example is None:
        raise ValueError(
            f"The input shape of '{model.name}' is not known. Give a batch of data, "
            "from which it is taken."
        )
    specs = keras.tree.map_structure(_Spec, example)
    for spec in keras.tree.flatten(specs):
        if None in spec.shape:
            raise ValueError(
                f"The input shape {(None, *spec.shape)} leaves an axis open. Give a "
                "batch of data, from which it is taken."
            )
    return specs


def _inputs(specs, size):
    """Returns one sample filled with `size`, or with ones if it holds integers."""

    def fill(spec):
        if "float" not in spec.dtype:
            return ops.ones((1, *spec.shape), spec.dtype)
        return ops.full((1, *spec.shape), size, dtype="float64")

    return keras.tree.map_structure(fill, specs)


@contextlib.contextmanager
def _for_flow(model):
    """Makes a model compute in float64 and pass all flow on, within the context."""
    with contextlib.ExitStack() as patches:
        for layer in all_layers(model):
            changes = {"dtype_policy": keras.DTypePolicy("float64")}
            name = getattr(getattr(layer, "activation", None), "__name__", None)
            # The gates of a recurrent layer keep their activations.
            if name in _SATURATING and not _is_recurrent(layer):
                changes["activation"] = keras.activations.linear
            if isinstance(layer, _NORMALIZING):
                changes["call"] = functools.partial(_scale_and_shift, layer)
            patches.enter_context(Patch(layer, **changes))
        yield


def _scale_and_shift(layer, inputs, *args, **kwargs):
    """Calls a normalising layer without its normalisation."""
    axes = getattr(layer, "axis", -1)
    axes = {axis % len(inputs.shape) for axis in keras.tree.flatten(axes)}
    shape = [n if axis in axes else 1 for axis, n in enumerate(inputs.shape)]
    # "scale" is a variable of RMSNormalization, but a setting of LayerNormalization.
    for name in ("gamma", "scale"):
        factor = getattr(layer, name, None)
        if isinstance(factor, keras.Variable):
            inputs = inputs * ops.reshape(factor, shape)
    shift = getattr(layer, "beta", None)
    if isinstance(shift, keras.Variable):
        inputs = inputs + ops.reshape(shift, shape)
    return inputs


def _is_recurrent(layer):
    cells = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
    return isinstance(layer, (layers.RNN, *cells)) or hasattr(layer, "cell")

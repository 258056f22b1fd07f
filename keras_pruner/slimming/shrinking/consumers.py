"""Tells which axes of which variables a layer's inputs are multiplied by."""

import dataclasses

import keras
import numpy as np
from keras import layers

from keras_pruner.backend import all_layers
from keras_pruner.channels import mean_square_of
from keras_pruner.kernels import own_variables


@dataclasses.dataclass(frozen=True, eq=False)
class Consumer:
    """An axis of a variable by which the channels of a layer's input are multiplied.

    Args:
        variable: `keras.Variable`.
        axis: Its axis, not negative.
        watched: Layer whose first argument has the channels, or `None` if none is
            seen. Its channels are on `input_axis`.
        input_axis: Axis of that argument.
        bias: Variable to which a constant input can be added, or `None`.
        folds: Whether a constant input other than zero adds the same to all outputs.
        needs_zero: Whether the channels must be zero even if the variable is.
    """

    variable: keras.Variable
    axis: int
    watched: object = None
    input_axis: int = -1
    bias: keras.Variable | None = None
    folds: bool = False
    needs_zero: bool = False

    def constant_times_rows(self, kernel, indices, constants):
        """Returns what constant inputs add to the outputs.

        Args:
            kernel: The variable's value, outputs on its last axis.
            indices: Indices of the inputs.
            constants: Their values.
        """
        rows = np.take(kernel.astype("float64"), indices, self.axis)
        # Windows are added up: (window, inputs, outputs) -> (inputs, outputs).
        rows = rows.sum(axis=tuple(range(self.axis)))
        return constants @ rows


_CONVOLUTIONS = layers.Conv1D, layers.Conv2D, layers.Conv3D
_TRANSPOSED = layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose
_CELLS = layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell
# Each channel of their inputs becomes channels of their outputs.
_PASSING = (
    layers.BatchNormalization,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.Embedding,
    layers.GroupNormalization,
    layers.PReLU,
)


def consumers_in(model):
    """Finds the consumers of a model.

    Returns:
        Dict from `(id(variable), axis)` to a `Consumer`, and the set of the ids of the
        variables of which it is known whether they consume.
    """
    cells = {id(x.cell): x for x in all_layers(model) if isinstance(x, layers.RNN)}
    found, known = {}, set()
    for layer in all_layers(model):
        own = {variable.name: variable for variable in own_variables(layer)}
        consumers = _consumers_of(layer, own, cells.get(id(layer)))
        if consumers is not None:
            known |= {id(variable) for variable in own.values()}
            for one in consumers:
                found[id(one.variable), one.axis] = one
    return found, known


def _consumers_of(layer, own, outer):
    """Returns the consumers of a layer, or `None` if its class is not known."""
    if isinstance(layer, _TRANSPOSED):
        return [_last(own["kernel"], layer, 1)]
    if isinstance(layer, _PASSING):
        return []
    if isinstance(layer, layers.SeparableConv1D | layers.SeparableConv2D):
        return [
            Consumer(own["pointwise_kernel"], len(own["pointwise_kernel"].shape) - 2)
        ]
    if isinstance(layer, _CONVOLUTIONS):
        kernel, bias = own["kernel"], own.get("bias")
        is_plain = layer.padding == "valid" or set(layer.kernel_size) == {1}
        axis = 1 if layer.data_format == "channels_first" else -1
        if layer.groups > 1:
            return [Consumer(kernel, len(kernel.shape) - 2)]
        return [Consumer(kernel, len(kernel.shape) - 2, layer, axis, bias, is_plain)]
    if isinstance(layer, layers.Dense):
        return [Consumer(own["kernel"], 0, layer, -1, own.get("bias"), True)]
    if isinstance(layer, layers.EinsumDense):
        return _of_einsum(layer, own["kernel"])
    if isinstance(layer, _CELLS):
        kernel = Consumer(own["kernel"], 0, outer, -1)
        return [kernel, Consumer(own["recurrent_kernel"], 0)]
    if (found := mean_square_of(layer)) is not None:
        return [
            Consumer(found.scale, number, layer, axis, needs_zero=True)
            for number, axis in enumerate(found.axes)
        ]
    return None


def _last(kernel, layer, back):
    axis = 1 if layer.data_format == "channels_first" else -1
    return Consumer(kernel, len(kernel.shape) - back, layer, axis)


def _of_einsum(layer, kernel):
    left, outputs = layer.equation.replace(" ", "").split("->")
    inputs, letters = left.split(",")
    found = []
    for axis, letter in enumerate(letters):
        if letter in inputs and letter not in outputs:
            place = inputs.replace("...", "").index(letter)
            if not inputs.endswith("..."):
                place -= len(inputs.replace("...", ""))
            found.append(Consumer(kernel, axis, layer, place))
    return found

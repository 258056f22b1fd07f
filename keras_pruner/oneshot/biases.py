"""Finds the bias that is added to the product of a kernel."""

import math
from typing import NamedTuple

import keras
from keras import layers, ops


class Bias(NamedTuple):
    """A bias over the outputs of a kernel's matrix.

    Args:
        variable: `keras.Variable` that holds it.
        row: Row of the variable that belongs to the kernel, or `None` for all of it.
    """

    variable: keras.Variable
    row: int | None = None

    def add(self, update):
        """Adds a vector (N,) to the bias; see `plus`."""
        self.variable.assign(self.plus(update))

    def plus(self, update):
        """Returns the value of the variable with a vector (N,) added to the bias.

        Args:
            update: Float32 tensor (N,), in the order of the matrix's columns.
        """
        value = ops.convert_to_tensor(self.variable)
        part = value if self.row is None else value[self.row]
        # The sum is rounded once, to the dtype of the variable.
        part = ops.cast(part, "float32") + ops.reshape(update, part.shape)
        if self.row is not None:
            rows = [ops.cast(row, "float32") for row in ops.unstack(value)]
            rows[self.row] = part
            part = ops.stack(rows)
        return ops.cast(part, self.variable.dtype)


def bias_of(kernel):
    """Returns the `Bias` that a layer adds to the product of a kernel, or `None`.

    It knows the layers of Keras, and the `bias` of a kernel that has one. Another layer
    may use its bias in another way.

    Args:
        kernel: `Kernel`.

    Example:

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 2))
    >>> kernel = find_kernels(layer).kernels[0]
    >>> bias_of(kernel).add(ops.array([1.0, 2.0, 3.0]))
    >>> ops.convert_to_numpy(layer.bias).tolist()
    [1.0, 2.0, 3.0]
    """
    if kernel.bias is not None:
        return Bias(kernel.bias)
    layer, name = kernel.layer, kernel.variable.name
    # The cell of a convolutional LSTM is private, but an attribute of its layer.
    holder = getattr(layer, "cell", layer)
    variable = getattr(holder, "bias", None)
    if not isinstance(layer, _KNOWN) or variable is None:
        return None
    if name == "depthwise_kernel":
        # The pointwise kernel of a separable convolution follows.
        return None
    outputs = kernel.layout.outputs
    if isinstance(layer, layers.EinsumDense) and not _covers_outputs(layer):
        return None
    if math.prod(variable.shape) == outputs:
        return Bias(variable)
    if tuple(variable.shape) == (2, outputs):
        # A GRU with `reset_after`: input and recurrent bias.
        return Bias(variable, row=int(name == "recurrent_kernel"))
    return None


_CONV_LSTMS = (layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D)
_KNOWN = (
    layers.Dense,
    layers.EinsumDense,
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
    layers.SimpleRNNCell,
    layers.GRUCell,
    layers.LSTMCell,
    *_CONV_LSTMS,
)


def _covers_outputs(layer):
    """Whether the bias of an `EinsumDense` runs over the matrix's columns in order."""
    left, output = layer.equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    shared = [a for a in kernel if a in output and a in inputs]
    rest = [a for a in kernel if a in output and a not in inputs]
    along = [a for a in output if a in (layer.bias_axes or "")]
    return along == [*shared, *rest]

"""What multiplies the kernels of recurrent cells, in one step."""

import keras
import numpy as np
from keras import layers, ops

from keras_pruner.oneshot.inputs.convolutions import conv_inputs
from keras_pruner.oneshot.inputs.rows import dense_inputs
from keras_pruner.oneshot.inputs.rules import register_kernel_inputs


def _state_of(states):
    """Returns the state that the recurrent kernel multiplies."""
    return states[0] if keras.tree.is_nested(states) else states


@register_kernel_inputs((layers.SimpleRNNCell, layers.LSTMCell))
def _cell(layer, inputs, states, *args, **kwargs):
    state = _state_of(states)
    return {"kernel": dense_inputs(inputs), "recurrent_kernel": dense_inputs(state)}


@register_kernel_inputs(layers.GRUCell)
def _gru_cell(layer, inputs, states, *args, **kwargs):
    state = _state_of(states)
    if layer.reset_after:
        recurrent = dense_inputs(state)
    else:
        # The candidate's columns see the state after the reset gate.
        units = layer.units
        reset = slice(units, 2 * units)
        gate = ops.matmul(inputs, layer.kernel[:, reset])
        gate = gate + ops.matmul(state, layer.recurrent_kernel[:, reset])
        if layer.use_bias:
            gate = gate + layer.bias[reset]
        gate = layer.recurrent_activation(gate)
        columns = np.arange(3 * units)[None]
        recurrent = [
            dense_inputs(state, columns=columns[:, : 2 * units]),
            dense_inputs(gate * state, columns=columns[:, 2 * units :]),
        ]
    return {"kernel": dense_inputs(inputs), "recurrent_kernel": recurrent}


@register_kernel_inputs((layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D))
def _conv_lstm_cell(cell, inputs, states, *args, **kwargs):
    once = (1,) * len(cell.kernel_size)
    return {
        "kernel": conv_inputs(
            inputs,
            cell.kernel_size,
            strides=cell.strides,
            padding=cell.padding,
            dilation_rate=cell.dilation_rate,
            data_format=cell.data_format,
        ),
        "recurrent_kernel": conv_inputs(
            _state_of(states),
            cell.kernel_size,
            strides=once,
            padding="same",
            dilation_rate=once,
            data_format=cell.data_format,
        ),
    }

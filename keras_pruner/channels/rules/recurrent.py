"""Rules for layers that repeat a call along an axis."""

import keras
from keras import layers

from keras_pruner.channels.labels import Labels
from keras_pruner.channels.rules.registry import register_channel_rule


def _recur(trace, layer, sequences, states):
    """Labels one step of a recurrent layer, whose last states are the next ones."""
    batch, steps, *rest = sequences.axes
    trace.pin(steps, "steps are computed one after the other")
    with trace.loop(steps):
        output, after = trace.call(
            layer.cell, Labels((batch, *rest)), states, training=False
        )
    for old, new in zip(
        keras.tree.flatten(states), keras.tree.flatten(after), strict=True
    ):
        trace.same_shape(old, new)
    if layer.return_sequences:
        output = Labels((batch, steps, *output.axes[1:]))
    return (output, *after) if layer.return_state else output


def _first_states(trace, initial_state, shapes):
    """Returns the given states, or new ones: zeros, or what a batch before has left."""
    if initial_state is None:
        return keras.tree.map_shape_structure(
            lambda shape: Labels(tuple(map(trace.fresh, shape))), shapes
        )
    is_one = isinstance(initial_state, Labels)
    return [initial_state] if is_one else list(initial_state)


@register_channel_rule((layers.RNN, layers.SimpleRNN, layers.LSTM, layers.GRU))
def _recurrent(trace, layer, sequences, initial_state=None, mask=None, training=False):
    sizes = layer.state_size
    shapes = keras.tree.map_structure(
        lambda size: (sequences.shape[0], size),
        [sizes] if isinstance(sizes, int) else list(sizes),
    )
    states = _first_states(trace, initial_state, shapes)
    return _recur(trace, layer, sequences, states)


@register_channel_rule((layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D))
def _conv_lstm(trace, layer, sequences, initial_state=None, mask=None, training=False):
    shape = layer.compute_output_shape(sequences.shape)
    shape = shape[0] if layer.return_state else shape
    shape = (shape[0], *shape[2 if layer.return_sequences else 1 :])
    states = _first_states(trace, initial_state, [shape, shape])
    return _recur(trace, layer, sequences, states)


@register_channel_rule(layers.TimeDistributed)
def _time_distributed(trace, layer, inputs, training=None, mask=None):
    batch, steps, *rest = inputs.axes
    with trace.loop(steps):
        outputs = trace.call(layer.layer, Labels((batch, *rest)))
    return Labels((batch, steps, *outputs.axes[1:]))


@register_channel_rule(layers.Bidirectional)
def _bidirectional(trace, layer, *args, **kwargs):
    # Keras takes the outputs of both directions to be equally wide.
    pairs = zip(
        layer.forward_layer.weights,
        layer.backward_layer.weights,
        strict=True,
    )
    for forward, backward in pairs:
        trace.same_shape(trace.variable(forward), trace.variable(backward))
    return trace.open(layer, *args, **kwargs)

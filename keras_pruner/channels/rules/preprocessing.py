"""Rules for layers that prepare data."""

from keras import layers

from keras_pruner.channels.labels import Labels
from keras_pruner.channels.rules.registry import register_channel_rule


@register_channel_rule(layers.Normalization)
def _normalization(trace, layer, inputs):
    for axis in layer.axis or ():
        trace.pin(inputs.axes[axis], "statistics of the data")
    return Labels(inputs.axes)


@register_channel_rule(layers.Rescaling)
def _rescaling(trace, layer, inputs):
    if not all(isinstance(x, int | float) for x in (layer.scale, layer.offset)):
        trace.pin(inputs.axes[-1], "a scale for each channel")
    return Labels(inputs.axes)

"""Rules for pooling, resizing and cropping."""

import re

import keras
from keras import layers

from keras_pruner.channels.rules.convolutions import with_positions
from keras_pruner.channels.rules.registry import operation_rule, register_channel_rule

# Keras has them since 3.13.
_ADAPTIVE = [
    getattr(layers, name)
    for name in dir(layers)
    if re.fullmatch(r"Adaptive(Average|Max)Pooling[123]D", name)
]


def _data_format(owner):
    return owner.data_format or keras.config.image_data_format()


@operation_rule(
    "MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool", "Resize"
)
def _pool(trace, operation, inputs):
    spec = operation.compute_output_spec(keras.KerasTensor(inputs.shape))
    if inputs.ndim < 3:
        raise ValueError("its inputs have no positions")
    if inputs.ndim == 3 and type(operation).__name__ == "Resize":
        # An image without a batch axis.
        raise ValueError("its images have no batch axis")
    return with_positions(trace, inputs, spec.shape, _data_format(operation))


@register_channel_rule(
    (
        layers.AveragePooling1D,
        layers.AveragePooling2D,
        layers.AveragePooling3D,
        layers.MaxPooling1D,
        layers.MaxPooling2D,
        layers.MaxPooling3D,
        layers.UpSampling1D,
        layers.UpSampling2D,
        layers.UpSampling3D,
        layers.ZeroPadding1D,
        layers.ZeroPadding2D,
        layers.ZeroPadding3D,
        layers.Cropping1D,
        layers.Cropping2D,
        layers.Cropping3D,
        layers.CenterCrop,
        layers.Resizing,
        *_ADAPTIVE,
    )
)
def _positions_change(trace, layer, inputs, training=False):
    shape = layer.compute_output_shape(inputs.shape)
    if inputs.ndim != len(shape) or inputs.ndim < 3:
        raise ValueError("its inputs have no positions")
    data_format = getattr(layer, "data_format", "channels_last")
    return with_positions(trace, inputs, shape, data_format)

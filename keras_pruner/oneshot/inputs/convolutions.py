"""What multiplies the kernels of convolutions: the places that a window covers."""

import functools

import numpy as np
from keras import layers, ops

from keras_pruner.oneshot.inputs.rows import KernelInputs, dense_inputs
from keras_pruner.oneshot.inputs.rules import register_kernel_inputs


def conv_inputs(
    inputs, window, *, strides, padding, dilation_rate, data_format, groups=1
):
    """Returns the `KernelInputs` of a convolution.

    Args:
        inputs: Tensor (batch, *spatial, channels), or channels first.
        window: Tuple of window sizes, one a spatial axis.
        strides: Tuple of strides.
        padding: `"valid"`, `"same"` or `"causal"`.
        dilation_rate: Tuple of dilations.
        data_format: `"channels_last"` or `"channels_first"`.
        groups: Groups of channels; their number for a depthwise convolution.
    """
    geometry = tuple(window), tuple(strides), padding, tuple(dilation_rate)
    return windowed_inputs(inputs, data_format, _conv_axis, geometry, groups)


def windowed_inputs(inputs, data_format, axis_map, geometry, groups=1):
    """Returns the inputs of a layer whose kernel slides over the spatial axes.

    Args:
        axis_map: Function from the size of an axis, and the values of `geometry` for
            it, to the places that each position sees, (positions, window), -1 for
            padding.
        geometry: Tuple of settings; a tuple has one value for each axis.
    """
    source = inputs
    if data_format == "channels_first":
        inputs = ops.moveaxis(inputs, 1, -1)
    batch, *spatial, channels = inputs.shape
    windows = []
    for axis, size in enumerate(spatial):
        own = [value[axis] if isinstance(value, tuple) else value for value in geometry]
        windows.append((size, axis_map(size, *own)))
    return KernelInputs(
        ops.reshape(inputs, (-1, channels)),
        (batch, *(len(places) for _, places in windows)),
        groups,
        tuple(windows),
        source=source,
        form=(axis_map.__name__, tuple(spatial), geometry, groups, data_format),
    )


def _conv_axis(size, window, stride, padding, dilation):
    """Places that a convolution reads along an axis, (positions, window)."""
    extent = (window - 1) * dilation + 1
    if padding == "same":
        num = -(-size // stride)
        before = max((num - 1) * stride + extent - size, 0) // 2
    elif padding == "causal":
        num, before = (size - 1) // stride + 1, extent - 1
    else:
        num, before = (size - extent) // stride + 1, 0
    places = np.arange(num)[:, None] * stride + np.arange(window) * dilation - before
    return np.where((places >= 0) & (places < size), places, -1)


@functools.lru_cache(maxsize=64)
def _transpose_axis(size, window, stride, padding, dilation, output_padding):
    """Places that a transposed convolution reads along an axis, (positions, window).

    Input i reaches output `i * stride + w * dilation - before` through window place w.
    Backends cut off different numbers `before`, so an impulse measures it.
    """
    middle = size // 2
    impulse = np.zeros((1, size, 1), "float32")
    impulse[0, middle] = 1.0
    response = ops.conv_transpose(
        impulse,
        np.eye(window, dtype="float32").reshape(window, window, 1),
        strides=stride,
        padding=padding,
        output_padding=output_padding,
        dilation_rate=dilation,
        data_format="channels_last",
    )
    response = ops.convert_to_numpy(response)[0] > 0.5  # (positions, window)
    position, place = np.argwhere(response)[0]
    before = middle * stride + place * dilation - position
    reached = np.arange(len(response))[:, None] + before - np.arange(window) * dilation
    places = reached // stride
    is_read = (reached % stride == 0) & (places >= 0) & (places < size)
    return np.where(is_read, places, -1)


def _inputs_of(layer, inputs, groups):
    return conv_inputs(
        inputs,
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
        groups=groups,
    )


def _num_channels(layer, inputs):
    return inputs.shape[-1 if layer.data_format == "channels_last" else 1]


@register_kernel_inputs((layers.Conv1D, layers.Conv2D, layers.Conv3D))
def _conv(layer, inputs, *args, **kwargs):
    return {"kernel": _inputs_of(layer, inputs, layer.groups)}


@register_kernel_inputs((layers.DepthwiseConv1D, layers.DepthwiseConv2D))
def _depthwise(layer, inputs, *args, **kwargs):
    return {"kernel": _inputs_of(layer, inputs, _num_channels(layer, inputs))}


@register_kernel_inputs((layers.SeparableConv1D, layers.SeparableConv2D))
def _separable(layer, inputs, *args, **kwargs):
    between = ops.depthwise_conv(
        inputs,
        layer.depthwise_kernel,
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
    )
    if layer.data_format == "channels_first":
        between = ops.moveaxis(between, 1, -1)
    return {
        "depthwise_kernel": _inputs_of(layer, inputs, _num_channels(layer, inputs)),
        "pointwise_kernel": dense_inputs(between, is_pointwise=False),
    }


@register_kernel_inputs(
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
)
def _conv_transpose(layer, inputs, *args, **kwargs):
    geometry = (
        layer.kernel_size,
        layer.strides,
        layer.padding,
        layer.dilation_rate,
        layer.output_padding,
    )
    geometry = tuple(tuple(g) if isinstance(g, list) else g for g in geometry)
    return {
        "kernel": windowed_inputs(inputs, layer.data_format, _transpose_axis, geometry)
    }

"""Rules for convolutions."""

import keras
from keras import layers

from keras_pruner.channels.labels import merge, split
from keras_pruner.channels.rules.registry import operation_rule, register_channel_rule

_WINDOW = "window of a convolution"


def channels_axis(data_format):
    """Returns the axis of the channels."""
    return 1 if data_format == "channels_first" else -1


def positions_axes(x, data_format):
    """Returns the numbers of the axes of the positions."""
    first = 2 if data_format == "channels_first" else 1
    return range(first, first + x.ndim - 2)


def with_positions(trace, x, shape, data_format):
    """Returns labels in which the positions of another shape are pinned."""
    for axis in positions_axes(x, data_format):
        # A window sees other positions if one is removed.
        trace.pin(x.axes[axis], _WINDOW)
        x = x.replace(axis, trace.pinned(shape[axis], _WINDOW))
    return x


def _convolve(trace, x, kernel, shape, data_format):
    """Returns the labels of a convolution, perhaps of groups.

    Args:
        trace: `Trace`.
        x: Labels of the inputs.
        kernel: Labels of shape `(*window, channels of a group, filters)`.
        shape: Shape of the outputs.
        data_format: `"channels_last"` or `"channels_first"`.
    """
    *window, inner, filters = kernel.axes
    place = channels_axis(data_format)
    channels = x.axes[place]
    num_groups = len(channels) // len(inner)
    if num_groups == 1:
        trace.unify(channels, inner)
    else:
        parts = split(trace.classes, channels, (num_groups, len(inner)))
        columns = (num_groups, len(filters) // num_groups)
        trace.unify(parts[0], split(trace.classes, filters, columns)[0])
        if len(inner) > 1:
            trace.unify(parts[1], inner)
        else:
            trace.pin(inner, "each group of the convolution has one channel")
    _pin_window(trace, window)
    outputs = with_positions(trace, x, shape, data_format).replace(place, filters)
    positions = [outputs.axes[i] for i in positions_axes(x, data_format)]
    trace.contract(x.axes[0], *positions, *window, inner, filters)
    return outputs


def _pin_window(trace, window):
    for ids in window:
        trace.pin(ids, _WINDOW)


def _depthwise(trace, x, kernel, shape, data_format):
    *window, channels, multiplier = kernel.axes
    place = channels_axis(data_format)
    trace.unify(x.axes[place], channels)
    _pin_window(trace, window)
    filters = channels
    if len(multiplier) > 1:
        filters = merge(trace.classes, [channels, multiplier])
    else:
        trace.pin(multiplier, "one filter for each channel")
    outputs = with_positions(trace, x, shape, data_format).replace(place, filters)
    positions = [outputs.axes[i] for i in positions_axes(x, data_format)]
    trace.contract(x.axes[0], *positions, *window, channels, multiplier)
    return outputs


def _biased(trace, layer, outputs):
    if layer.use_bias:
        place = channels_axis(layer.data_format)
        trace.unify(outputs.axes[place], trace.labels_of(layer.bias).axes[0])
    return trace.activate(layer.activation, outputs)


_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


@register_channel_rule((layers.Conv1D, layers.Conv2D, layers.Conv3D, *_DEPTHWISE))
def _conv(trace, layer, inputs):
    convolve = _depthwise if isinstance(layer, _DEPTHWISE) else _convolve
    shape = layer.compute_output_shape(inputs.shape)
    kernel = trace.labels_of(layer.kernel)
    outputs = convolve(trace, inputs, kernel, shape, layer.data_format)
    return _biased(trace, layer, outputs)


@register_channel_rule((layers.SeparableConv1D, layers.SeparableConv2D))
def _separable_conv(trace, layer, inputs):
    shape = layer.compute_output_shape(inputs.shape)
    kernels = layer.depthwise_kernel, layer.pointwise_kernel
    return _biased(trace, layer, _separable(trace, inputs, kernels, shape, layer))


def _separable(trace, x, kernels, shape, settings):
    depthwise, pointwise = map(trace.labels_of, kernels)
    inner = _depthwise(trace, x, depthwise, shape, settings.data_format)
    return _convolve(trace, inner, pointwise, shape, settings.data_format)


@register_channel_rule(
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
)
def _conv_transpose(trace, layer, inputs):
    shape = layer.compute_output_shape(inputs.shape)
    kernel = trace.labels_of(layer.kernel)
    return _biased(
        trace, layer, _transposed(trace, inputs, kernel, shape, layer.data_format)
    )


def _transposed(trace, x, kernel, shape, data_format):
    *window, filters, channels = kernel.axes
    place = channels_axis(data_format)
    trace.unify(x.axes[place], channels)
    _pin_window(trace, window)
    outputs = with_positions(trace, x, shape, data_format).replace(place, filters)
    # Each input is multiplied by the whole window.
    positions = [x.axes[i] for i in positions_axes(x, data_format)]
    trace.contract(x.axes[0], *positions, *window, filters, channels)
    return outputs


def _output_shape(operation, *tensors):
    """Returns the shape that an operation computes from tensors of some shapes."""
    specs = [keras.KerasTensor(x.shape) for x in tensors]
    return operation.compute_output_spec(*specs).shape


@operation_rule("Conv")
def _conv_operation(trace, operation, inputs, kernel):
    shape = _output_shape(operation, inputs, kernel)
    return _convolve(trace, inputs, kernel, shape, _format_of(operation))


@operation_rule("DepthwiseConv")
def _depthwise_operation(trace, operation, inputs, kernel):
    shape = _output_shape(operation, inputs, kernel)
    return _depthwise(trace, inputs, kernel, shape, _format_of(operation))


@operation_rule("ConvTranspose")
def _transpose_operation(trace, operation, inputs, kernel):
    shape = _output_shape(operation, inputs, kernel)
    return _transposed(trace, inputs, kernel, shape, _format_of(operation))


def _format_of(operation):
    return operation.data_format or keras.config.image_data_format()

"""Rules for normalization."""

from keras import layers

from keras_pruner.channels.labels import Labels
from keras_pruner.channels.rules.registry import operation_rule, register_channel_rule


@register_channel_rule(layers.BatchNormalization)
def _batch_normalization(trace, layer, inputs, training=False, mask=None):
    channels = inputs.axes[layer.axis]
    for variable in (
        layer.gamma,
        layer.beta,
        layer.moving_mean,
        layer.moving_variance,
    ):
        if variable is not None:
            trace.unify(channels, trace.labels_of(variable).axes[0])
    if layer.gamma is None:
        trace.classes.mark_alive(channels)
    return inputs


def mean_square(trace, layer, *args, **kwargs):
    """Labels a layer of which a `MeanSquare` is known."""
    found = trace.mean_squares[id(layer)]
    inputs = (args + tuple(kwargs.values()))[0]
    pairs = zip(found.axes, trace.labels_of(found.scale).axes, strict=True)
    for axis, ids in pairs:
        trace.unify(inputs.axes[axis], ids)
        trace.need_zeros(
            ids, "normalization over the axis, and its channels may not be zero"
        )
    return Labels(inputs.axes)


@operation_rule("BatchNorm")
def _batch_norm(trace, operation, x, mean, variance, offset=None, scale=None):
    for vector in (mean, variance, offset, scale):
        if vector is not None:
            trace.unify(x.axes[operation.axis], vector.axes[0])
    return Labels(x.axes)


@operation_rule("LayerNorm")
def _layer_norm(trace, operation, x, gamma=None, beta=None):
    return _normalized(trace, operation, x, gamma, beta)


@operation_rule("RMSNorm")
def _rms_norm(trace, operation, x, scale=None):
    return _normalized(trace, operation, x, scale)


def _normalized(trace, operation, x, *factors):
    axes = operation.axis
    for axis in [axes] if isinstance(axes, int) else axes:
        trace.pin(x.axes[axis], "normalization over the axis")
    for factor in factors:
        if isinstance(factor, Labels):
            for ids in factor.axes:
                trace.pin(ids, "normalization over the axis")
    return Labels(x.axes)

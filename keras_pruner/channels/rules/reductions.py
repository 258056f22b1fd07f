"""Rules for operations that combine all indices of an axis."""

from keras import layers

from keras_pruner.channels.labels import Labels
from keras_pruner.channels.rules.registry import operation_rule, register_channel_rule


def reduce(trace, x, axis, keepdims, name):
    """Returns the labels of a tensor that is reduced along axes, which are pinned."""
    if axis is None:
        axis = range(x.ndim)
    axes = {a % x.ndim for a in ([axis] if isinstance(axis, int) else axis)}
    kept = []
    for number, ids in enumerate(x.axes):
        if number not in axes:
            kept.append(ids)
            continue
        trace.pin(ids, f"{name} over the axis")
        if keepdims:
            kept.append(trace.pinned(1, f"{name} over the axis"))
    return Labels(tuple(kept))


@operation_rule(
    *"""All Amax Amin Any Argmax Argmin Logsumexp Max Mean Median Min Prod Ptp Std Sum
    Var Nanargmax Nanargmin Nanmax Nanmean Nanmedian Nanmin Nanprod Nanstd Nansum
    Nanvar""".split()
)
def _reduce(trace, operation, x):
    name = type(operation).__name__.lower()
    return reduce(trace, x, operation.axis, operation.keepdims, name)


@operation_rule("CountNonzero")
def _count(trace, operation, x):
    return reduce(trace, x, operation.axis, False, "a count")


@operation_rule("Norm")
def _norm(trace, operation, x):
    return reduce(trace, x, operation.axis, operation.keepdims, "norm")


@operation_rule("Moments")
def _moments(trace, operation, x):
    moments = reduce(trace, x, operation.axes, operation.keepdims, "moments")
    return moments, moments


@operation_rule(
    *"""Argsort Cumprod Cumsum LogSoftmax Nancumprod Nancumsum Normalize Softmax Sort
    Sparsemax""".split()
)
def _along(trace, operation, x):
    axis = operation.axis
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    for a in axes:
        trace.pin(x.axes[a], f"{type(operation).__name__.lower()} along the axis")
    if axis is None and type(operation).__name__ in (
        "Argsort",
        "Sort",
        "Cumsum",
        "Cumprod",
    ):
        raise ValueError("it flattens the tensor")
    return Labels(x.axes)


@operation_rule("TopK")
def _top_k(trace, operation, x):
    trace.pin(x.axes[-1], "its largest elements are chosen")
    chosen = x.replace(-1, trace.pinned(operation.k, "the largest elements"))
    return chosen, chosen


@register_channel_rule(layers.Softmax)
def _softmax(trace, layer, inputs, mask=None):
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    for axis in axes:
        trace.pin(inputs.axes[axis], "softmax along the axis")
    return Labels(inputs.axes) if mask is None else trace.broadcast(inputs, mask)

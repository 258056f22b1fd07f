"""Rules for operations that join tensors or add indices to them."""

import numpy as np

from keras_pruner.channels.labels import Labels, reshape
from keras_pruner.channels.rules.registry import operation_rule


def concatenate(trace, tensors, axis):
    """Returns the labels of tensors that are joined along an axis."""
    axis = axis % tensors[0].ndim
    trace.same_shape(*(x.without(axis) for x in tensors))
    ids = np.concatenate([x.axes[axis] for x in tensors])
    return tensors[0].replace(axis, ids)


@operation_rule("Concatenate")
def _concatenate(trace, operation, xs):
    return concatenate(trace, xs, operation.axis)


@operation_rule("Append")
def _append(trace, operation, x1, x2):
    if operation.axis is None:
        x1, x2 = (reshape(trace.classes, x, (int(np.prod(x.shape)),)) for x in (x1, x2))
    return concatenate(trace, [x1, x2], operation.axis or 0)


@operation_rule("Stack")
def _stack(trace, operation, x):
    first = trace.same_shape(*x)
    axis = operation.axis % (first.ndim + 1)
    # The tensors are counted by code, so none of them can be left out.
    stacked = trace.pinned(len(x), "tensors that are stacked")
    return Labels((*first.axes[:axis], stacked, *first.axes[axis:]))


@operation_rule("Pad")
def _pad(trace, operation, x, constant_values=None):
    widths = operation.pad_width
    if isinstance(widths, int):
        widths = [(widths, widths)] * x.ndim
    widths = [(w, w) if isinstance(w, int) else tuple(w) for w in widths]
    if len(widths) == 1:
        widths = widths * x.ndim
    axes = []
    for ids, (before, after) in zip(x.axes, widths, strict=True):
        if before or after:
            if operation.mode != "constant":
                trace.pin(ids, f"it is padded in mode '{operation.mode}'")
                ids = trace.pinned(len(ids), "padding")
            ids = np.concatenate(
                [trace.pinned(before, "padding"), ids, trace.pinned(after, "padding")]
            )
        axes.append(ids)
    return Labels(tuple(axes))

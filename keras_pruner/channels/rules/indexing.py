"""Rules for operations that take parts of tensors."""

import numpy as np

from keras_pruner.channels.labels import Labels
from keras_pruner.channels.rules.registry import operation_rule


@operation_rule("GetItem")
def _get_item(trace, operation, x, key):
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(
        item is None or item is Ellipsis or isinstance(item, slice | int | np.integer)
        for item in keys
    ):
        raise ValueError("it selects elements by their values")
    if any(isinstance(item, bool) for item in keys):
        raise ValueError("it selects elements by their values")
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    place = keys.index(Ellipsis)
    used = sum(item is not None for item in keys) - 1
    keys[place : place + 1] = [slice(None)] * (x.ndim - used)
    axes, pending = [], iter(x.axes)
    for item in keys:
        if item is None:
            axes.append(trace.pinned(1, "an axis of size 1"))
        elif isinstance(item, slice):
            axes.append(sliced(trace, next(pending), item))
        else:
            trace.pin(next(pending), "one index of the axis is read")
    return Labels(tuple(axes))


def sliced(trace, ids, part):
    """Returns the ids of a part of an axis."""
    if any(
        not (limit is None or isinstance(limit, int | np.integer))
        for limit in (part.start, part.stop, part.step)
    ):
        raise ValueError("its slice is computed")
    chosen = ids[part]
    if len(chosen) == len(ids):
        return chosen
    if part.step not in (None, 1):
        trace.pin(ids, "every n-th index of the axis is read")
    trace.divided.append(chosen)
    return chosen


@operation_rule("Slice")
def _slice(trace, operation, inputs, start_indices):
    if isinstance(start_indices, Labels):
        raise ValueError("its start is computed")
    axes = []
    for ids, start, size in zip(
        inputs.axes, start_indices, operation.shape, strict=True
    ):
        stop = None if size == -1 else int(start) + int(size)
        axes.append(sliced(trace, ids, slice(int(start), stop)))
    return Labels(tuple(axes))


@operation_rule("SliceUpdate")
def _slice_update(trace, operation, inputs, start_indices, updates):
    for ids, part in zip(inputs.axes, updates.axes, strict=True):
        if len(ids) == len(part):
            trace.unify(ids, part)
        else:
            trace.pin(ids, "a part of the axis is replaced")
            trace.pin(part, "a part of the axis is replaced")
    return Labels(inputs.axes)


@operation_rule("Split", "ArraySplit")
def _split(trace, operation, x):
    axis, where = operation.axis, operation.indices_or_sections
    parts = np.array_split(x.axes[axis], where)
    trace.divided += parts
    return [x.replace(axis, ids) for ids in parts]


@operation_rule("Unstack")
def _unstack(trace, operation, x):
    trace.pin(x.axes[operation.axis], "its indices are read one by one")
    return [x.without(operation.axis)] * x.shape[operation.axis]


@operation_rule("Take")
def _take(trace, operation, x, indices):
    if operation.axis is None:
        raise ValueError("it takes elements of the flat tensor")
    axis = operation.axis % x.ndim
    trace.pin(x.axes[axis], "its indices are looked up")
    axes = indices.axes if isinstance(indices, Labels) else ()
    if not isinstance(indices, Labels):
        axes = tuple(
            trace.pinned(size, "indices to look up") for size in np.shape(indices)
        )
    return Labels((*x.axes[:axis], *axes, *x.axes[axis + 1 :]))


@operation_rule("TakeAlongAxis")
def _take_along_axis(trace, operation, x, indices):
    if operation.axis is None or not isinstance(indices, Labels):
        raise ValueError("it takes elements of the flat tensor")
    axis = operation.axis % x.ndim
    trace.pin(x.axes[axis], "its indices are looked up")
    trace.pin(indices.axes[axis], "its indices are looked up")
    others = trace.broadcast(x.without(axis), indices.without(axis)).axes
    return Labels((*others[:axis], indices.axes[axis], *others[axis:]))


@operation_rule("OneHot")
def _one_hot(trace, operation, x):
    axis = operation.axis % (x.ndim + 1)
    classes = trace.pinned(operation.num_classes, "classes of a one-hot encoding")
    return Labels((*x.axes[:axis], classes, *x.axes[axis:]))


@operation_rule("Roll")
def _roll(trace, operation, x):
    if operation.axis is None:
        raise ValueError("it rolls the flat tensor")
    axes = (
        operation.axis if isinstance(operation.axis, tuple | list) else [operation.axis]
    )
    for axis in axes:
        trace.pin(x.axes[axis], "its indices are moved by a fixed number")
    # Pinned ids are alike, so their order does not matter.
    return Labels(x.axes)


@operation_rule("Tril", "Triu")
def _triangle(trace, operation, x):
    for axis in (-2, -1):
        trace.pin(x.axes[axis], "a triangle of the matrix is kept")
    return Labels(x.axes)

"""Rules for operations that change the shape or the order of axes."""

import math

import numpy as np

from keras_pruner.channels.labels import Labels, merge, reshape, split
from keras_pruner.channels.rules.registry import operation_rule


def _full_shape(shape, x):
    """Returns a shape with the size for -1 filled in."""
    shape = [int(size) for size in np.atleast_1d(np.asarray(shape))]
    known = math.prod(size for size in shape if size != -1)
    return tuple(math.prod(x.shape) // known if s == -1 else s for s in shape)


@operation_rule("Reshape")
def _reshape(trace, operation, x):
    shape = operation.newshape
    shape = [shape] if isinstance(shape, int) else shape
    # Keras writes `None` for one size that it does not know.
    shape = [-1 if size is None else size for size in shape]
    return reshape(trace.classes, x, _full_shape(shape, x) if shape else ())


@operation_rule("Ravel")
def _ravel(trace, operation, x):
    return reshape(trace.classes, x, (math.prod(x.shape),))


@operation_rule("Transpose")
def _transpose(trace, operation, x):
    order = operation.axes
    order = range(x.ndim)[::-1] if order is None else order
    return Labels(tuple(x.axes[axis] for axis in order))


@operation_rule("Swapaxes")
def _swapaxes(trace, operation, x):
    axes = list(x.axes)
    one, two = operation.axis1, operation.axis2
    axes[one], axes[two] = axes[two], axes[one]
    return Labels(tuple(axes))


@operation_rule("Moveaxis")
def _moveaxis(trace, operation, x):
    sources = [axis % x.ndim for axis in _as_tuple(operation.source)]
    targets = [axis % x.ndim for axis in _as_tuple(operation.destination)]
    order = [axis for axis in range(x.ndim) if axis not in sources]
    for target, source in sorted(zip(targets, sources, strict=True)):
        order.insert(target, source)
    return Labels(tuple(x.axes[axis] for axis in order))


def _as_tuple(value):
    return (value,) if isinstance(value, int) else tuple(value)


@operation_rule("ExpandDims")
def _expand_dims(trace, operation, x):
    places = _as_tuple(operation.axis)
    ndim = x.ndim + len(places)
    places = {place % ndim for place in places}
    axes = iter(x.axes)
    return Labels(
        tuple(
            trace.pinned(1, "an axis of size 1") if place in places else next(axes)
            for place in range(ndim)
        )
    )


@operation_rule("Squeeze")
def _squeeze(trace, operation, x):
    if operation.axis is None:
        dropped = {axis for axis in range(x.ndim) if x.shape[axis] == 1}
    else:
        dropped = {axis % x.ndim for axis in _as_tuple(operation.axis)}
    for axis in dropped:
        trace.pin(x.axes[axis], "an axis of size 1 is dropped")
    return Labels(tuple(ids for i, ids in enumerate(x.axes) if i not in dropped))


@operation_rule("BroadcastTo")
def _broadcast_to(trace, operation, x):
    fresh = Labels(tuple(trace.fresh(size) for size in operation.shape))
    for axis in range(-x.ndim, 0):
        if x.shape[axis] == fresh.shape[axis]:
            fresh = fresh.replace(axis, x.axes[axis])
    return trace.broadcast(x, fresh)


@operation_rule("Repeat")
def _repeat(trace, operation, x):
    if operation.axis is None:
        x = reshape(trace.classes, x, (math.prod(x.shape),))
    axis = 0 if operation.axis is None else operation.axis
    if not isinstance(operation.repeats, int):
        repeats = np.asarray(operation.repeats).reshape(-1).tolist()
        trace.pin(x.axes[axis], "its indices are repeated unequally")
        counts = repeats if len(repeats) > 1 else repeats * x.shape[axis]
        return x.replace(axis, np.repeat(x.axes[axis], counts))
    return x.replace(axis, repeated(trace, x.axes[axis], operation.repeats))


def repeated(trace, ids, repeats, tiled=False):
    """Returns the ids of an axis whose indices are repeated, one by one or as a whole.

    The copies of all indices at one place can be removed too.
    """
    if repeats == 1:
        return ids
    copies = trace.fresh(repeats)
    return merge(trace.classes, [copies, ids] if tiled else [ids, copies])


@operation_rule("Tile")
def _tile(trace, operation, x):
    repeats = _as_tuple(operation.repeats)
    missing = len(repeats) - x.ndim
    axes = [trace.pinned(1, "an axis of size 1")] * missing + list(x.axes)
    repeats = (1,) * -missing + repeats
    return Labels(
        tuple(
            repeated(trace, ids, int(count), tiled=True)
            for ids, count in zip(axes, repeats, strict=True)
        )
    )


@operation_rule("Flip", "Fliplr", "Flipud")
def _flip(trace, operation, x):
    axis = {"Fliplr": 1, "Flipud": 0}.get(type(operation).__name__)
    if axis is None:
        axis = operation.axis
    axes = range(x.ndim) if axis is None else _as_tuple(axis)
    for axis in axes:
        x = x.replace(axis, x.axes[axis][::-1])
    return Labels(x.axes)


@operation_rule("DepthToSpace")
def _depth_to_space(trace, operation, x):
    size = operation.block_size
    place = _channels_axis(operation.data_format)
    parts = split(
        trace.classes, x.axes[place], (size, size, -(-x.shape[place] // size**2))
    )
    return _blocks(trace, x, place, parts)


def _channels_axis(data_format):
    return 1 if data_format == "channels_first" else -1


def _blocks(trace, x, place, parts):
    first, second, channels = parts
    spatial = [2, 3] if place == 1 else [1, 2]
    for axis, block in zip(spatial, (first, second), strict=True):
        # Positions are never removed, so neither are the blocks of channels.
        trace.pin(block, "channels become positions")
        size = len(x.axes[axis]) * len(block)
        x = x.replace(axis, trace.pinned(size, "positions"))
    return x.replace(place, channels)


@operation_rule("SpaceToDepth")
def _space_to_depth(trace, operation, x):
    size = operation.block_size
    place = _channels_axis(operation.data_format)
    spatial = [2, 3] if place == 1 else [1, 2]
    for axis in spatial:
        trace.pin(x.axes[axis], "positions become channels")
    blocks = trace.pinned(size * size, "positions become channels")
    channels = merge(trace.classes, [blocks, x.axes[place]])
    for axis in spatial:
        x = x.replace(axis, x.axes[axis][::size])
    return x.replace(place, channels)

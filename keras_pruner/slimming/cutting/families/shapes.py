"""Cutters of layers and operations whose arguments are shapes or places."""

import numpy as np
from keras import layers

from keras_pruner.slimming.cutting.registry import register_cutter


def _sizes(old, tensor, first=0):
    """Returns a shape in which the axes that lost indices have their new sizes.

    Args:
        old: The shape as written in a config.
        tensor: `(shape, indices)` of the recorded tensor.
        first: Axis of the tensor that the first entry of `old` is.
    """
    new = list(old)
    for axis, kept in enumerate(tensor[1][first:]):
        if kept is not None and axis < len(new) and new[axis] not in (-1, None):
            new[axis] = len(kept)
    return new


@register_cutter(layers.Reshape)
def _cut_reshape_layer(layer, part):
    tensors = part.tensors_of(layer)
    if tensors is None:
        return {}
    return {"target_shape": _sizes(layer.target_shape, tensors[1][0], 1)}


@register_cutter(layers.Lambda)
def _cut_lambda(layer, part):
    shape, tensors = layer.get_config().get("output_shape"), part.tensors_of(layer)
    # A function is called with the shape of the smaller inputs.
    if tensors is None or not isinstance(shape, tuple):
        return {}
    return {"output_shape": tuple(_sizes(shape, tensors[1][0], 1))}


@register_cutter((layers.Dropout, layers.GaussianDropout, layers.AlphaDropout))
def _cut_noise_shape(layer, part):
    shape, tensors = getattr(layer, "noise_shape", None), part.tensors_of(layer)
    if shape is None or tensors is None:
        return {}
    sizes = _sizes(shape, tensors[1][0])
    return {
        "noise_shape": [
            old if old == 1 else new for old, new in zip(shape, sizes, strict=True)
        ]
    }


@register_cutter("Reshape")
def _cut_reshape(operation, part):
    tensors = part.tensors_of(operation)
    if tensors is None or isinstance(operation.newshape, int):
        return {}
    return {"newshape": _sizes(operation.newshape, tensors[1][0])}


@register_cutter("BroadcastTo")
def _cut_broadcast(operation, part):
    tensors = part.tensors_of(operation)
    return {} if tensors is None else {"shape": _sizes(operation.shape, tensors[1][0])}


@register_cutter("Split")
@register_cutter("ArraySplit")
def _cut_split(operation, part):
    tensors = part.tensors_of(operation)
    if tensors is None:
        return {}
    axis = operation.axis
    if all(indices[axis] is None for _, indices in tensors[1]):
        return {}
    sizes = [
        shape[axis] if indices[axis] is None else len(indices[axis])
        for shape, indices in tensors[1]
    ]
    return {"indices_or_sections": np.cumsum(sizes[:-1]).tolist()}


def cut_key(key, tensor):
    """Returns the key of `x[key]` for the indices that are left of x.

    Args:
        key: Integer, slice, `...`, `None`, or a tuple of these.
        tensor: `(shape, indices)` of x.

    Example:

    >>> cut_key((..., slice(2, 4)), ((2, 4), (None, np.array([0, 3]))))
    (Ellipsis, slice(1, 2, None))
    """
    shape, indices = tensor
    keys = list(key) if isinstance(key, list | tuple) else [key]
    used = sum(one is not None and one is not Ellipsis for one in keys)
    if Ellipsis not in keys:
        keys.append(Ellipsis)
    axis, new = 0, []
    for one in keys:
        if one is Ellipsis:
            axis += len(shape) - used
            new.append(one)
            continue
        if one is not None:
            kept = indices[axis]
            one = one if kept is None else _cut_one(one, kept, shape[axis])
            axis += 1
        new.append(one)
    return tuple(new)


def _cut_one(key, kept, size):
    if not isinstance(key, slice):
        return int(np.searchsorted(kept, key % size))
    if key.step not in (None, 1, -1):
        chosen = np.arange(size)[key]
        places = np.searchsorted(kept, np.intersect1d(chosen, kept))
        steps = np.unique(np.diff(places))
        if len(steps) > 1:
            raise ValueError(
                f"The channels left of {key} are not evenly spaced, so that no slice "
                "says them."
            )
        step = int(steps[0]) if len(steps) else 1
        return slice(int(places[0]), int(places[-1]) + 1, step)
    start, stop, step = key.indices(size)
    if step == -1:
        if key.start is None and key.stop is None:
            return key
        raise ValueError(f"A reversed slice, {key}, cannot be cut.")
    return slice(int(np.searchsorted(kept, start)), int(np.searchsorted(kept, stop)))

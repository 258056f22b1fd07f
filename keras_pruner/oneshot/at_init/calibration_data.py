"""Turns the data of a user into batches of tensors."""

import keras
import numpy as np
from keras import ops


def as_batches(data, batch_size, model):
    """Returns the data of a user as a list of batches of tensors.

    Args:
        data: Tuple `(x,)`, `(x, y)` or `(x, y, sample_weight)` of arrays (or nested
            ones) with samples along the first axis; or an iterable of such batches,
            e.g. a `tf.data.Dataset`, a `keras.utils.PyDataset` or a torch `DataLoader`.
        batch_size: Samples in a batch, for arrays.
        model: The model that the batches are for.

    Raises:
        ValueError: If the data is empty, or its shapes do not fit each other or the
            model.
        TypeError: If the data is of another type.
    """
    # A list of tuples is a list of batches, but `[x, y]` means `(x, y)`.
    is_batches = isinstance(data, list) and all(
        isinstance(part, list | tuple) for part in data
    )
    if isinstance(data, tuple | list) and not is_batches and _is_array(data[0]):
        batches = _cut(data, batch_size)
    elif hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
        batches = [_as_tuple(batch) for batch in _iterate(data)]
    else:
        raise TypeError(
            "`data` must be a tuple (x, y) of arrays or an iterable of batches. "
            f"Received: {data!r} of type {type(data).__name__}"
        )
    if not batches:
        raise ValueError("`data` is empty: give at least one batch of samples.")
    batches = keras.tree.map_structure(_as_tensor, batches)
    _check_inputs(batches[0][0], model)
    return batches


def _is_array(value):
    leaves = keras.tree.flatten(value)
    return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)


def _cut(data, batch_size):
    lengths = {len(leaf) for leaf in keras.tree.flatten(tuple(data))}
    if len(lengths) > 1:
        raise ValueError(
            "The arrays of `data` hold different numbers of samples: "
            f"{', '.join(map(str, sorted(lengths)))}."
        )
    starts = range(0, lengths.pop(), batch_size)
    parts = [slice(start, start + batch_size) for start in starts]
    return [_part_of(tuple(data), part) for part in parts]


def _part_of(data, part):
    return keras.tree.map_structure(lambda array: array[part], data)


def _iterate(data):
    if isinstance(data, keras.utils.PyDataset):
        return [data[index] for index in range(len(data))]
    return data


def _as_tuple(batch):
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,)


def _as_tensor(array):
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    array = np.asarray(array)
    if array.dtype == "float64":
        array = array.astype("float32")
    return ops.convert_to_tensor(array)


def _check_inputs(x, model):
    expected = getattr(model, "inputs", None)
    received = keras.tree.flatten(x)
    if not expected:
        return
    shapes = [tuple(tensor.shape) for tensor in expected]
    fits = len(shapes) == len(received) and all(
        len(shape) == len(tensor.shape)
        and all(a in (None, b) for a, b in zip(shape, tensor.shape, strict=True))
        for shape, tensor in zip(shapes, received, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`data` does not fit '{model.name}': it takes inputs of shape "
            f"{', '.join(map(str, shapes))}, but the first batch has "
            f"{', '.join(str(tuple(tensor.shape)) for tensor in received)}."
        )

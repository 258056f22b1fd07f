"""Turns a user's data into batches of unlabelled samples, all of one shape."""

import dataclasses

import keras
import numpy as np

from keras_pruner.backend import inputs_structure_of
from keras_pruner.checks import check_in_range
from keras_pruner.comparison import check_samples
from keras_pruner.pytorch import is_torch_module, required_arguments

_BATCH_SIZE = 128
# Empty batches in a row after which endless data count as empty.
_MOST_EMPTY = 1000
_FORMS = (
    "`data` is an array, a dict or tuple of arrays for several inputs, a "
    "`tf.data.Dataset`, a `keras.utils.PyDataset`, a torch `DataLoader`, or another "
    "iterable of batches"
)


@dataclasses.dataclass(frozen=True)
class Samples:
    """Holds batches of a model's inputs.

    Attributes:
        batches: List of the inputs, nested as the model takes them, as NumPy arrays.
            All have the same shapes.
    """

    batches: list

    def __len__(self):
        return sum(_size_of(batch) for batch in self.batches)

    def __repr__(self):
        shapes = keras.tree.map_structure(lambda x: tuple(x.shape), self.batches[0])
        return f"<Samples: {len(self)} in {len(self.batches)} batches of {shapes}>"


def collect_samples(model, data, *, num_samples=512, batch_size=None, seed=0):
    """Draws samples from the data of a user.

    Arrays are drawn from without repetition; other data give their first samples, so
    endless data end too. All batches get one size, which avoids compiling again. The
    last samples that would not fill a batch are left out: fewer than there are batches,
    unless you choose the size.

    Args:
        model: Built Keras model, or `torch.nn.Module`.
        data: See `prune_one_shot`. A tuple `(x, y)` or `(x, y, sample_weight)` loses
            its labels. If the model takes as many inputs as the tuple has parts, the
            parts are these inputs.
        num_samples: Most samples to take, >= 1.
        batch_size: Samples in a batch, >= 1; `None` for about 128, or as many as the
            inputs of the model have.
        seed: Integer, seed of the draw from arrays. No global random state is used.

    Returns:
        `Samples`.

    Raises:
        ValueError: If the data is empty, does not fit the model, differs in shape from
            batch to batch, or holds NaN or infinite numbers.
        TypeError: If the data has another type.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> x, y = np.zeros((300, 2)), np.zeros(300)
    >>> collect_samples(model, (x, y))
    <Samples: 300 in 3 batches of (100, 2)>
    """
    check_in_range(num_samples, "`num_samples`", 1, integer=True)
    if batch_size is not None:
        check_in_range(batch_size, "`batch_size`", 1, integer=True)
    if _is_nest_of_arrays(data):
        inputs = _as_arrays(_inputs_in(data, model))
        size = _size_of(inputs)
        if size > num_samples:
            drawn = np.random.default_rng(seed).choice(size, num_samples, replace=False)
            inputs = _part_of(inputs, np.sort(drawn))
    elif hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
        inputs = _gather(data, model, num_samples)
    else:
        raise TypeError(f"{_FORMS}. Received: {data!r} of type {type(data).__name__}")
    size = _size_of(inputs)
    if not size:
        raise ValueError("`data` is empty: give at least one sample, better hundreds.")
    _check_fit(inputs, model)
    check_samples(inputs, "`data`")
    fixed = fixed_batch_size(model)
    if fixed is not None:
        _check_batch_size(fixed, batch_size, size, model)
        batch_size = fixed
    if batch_size is None:
        batch_size = size // -(-size // _BATCH_SIZE)
    batch_size = min(batch_size, size)
    starts = range(0, size - batch_size + 1, batch_size)
    return Samples([_part_of(inputs, slice(i, i + batch_size)) for i in starts])


def fixed_batch_size(model):
    """Returns the batch size that a model's inputs have, or `None` if it is open."""
    inputs = getattr(model, "inputs", None) or []
    sizes = {x.shape[0] for x in inputs if isinstance(x, keras.KerasTensor) and x.shape}
    return next((size for size in sizes if size is not None), None)


def _check_batch_size(fixed, batch_size, size, model):
    if batch_size not in (None, fixed):
        raise ValueError(
            f"The inputs of '{model.name}' have batches of {fixed} samples. Received: "
            f"batch_size={batch_size}"
        )
    if size < fixed:
        raise ValueError(
            f"The inputs of '{model.name}' have batches of {fixed} samples. `data` "
            f"gives {size}: give at least {fixed}."
        )


def _gather(data, model, num_samples):
    """Returns the first samples of an iterable of batches, joined."""
    batches, left, num_empty = [], num_samples, 0
    for batch in _batches_of(data):
        inputs = _as_arrays(_inputs_in(batch, model))
        if batches and _shapes_of(inputs) != _shapes_of(batches[0]):
            raise ValueError(
                "The batches of `data` differ in shape: samples of "
                f"{_shapes_of(batches[0])} and of {_shapes_of(inputs)}. Pad or crop "
                "them to one shape."
            )
        num_empty = 0 if _size_of(inputs) else num_empty + 1
        if num_empty == _MOST_EMPTY:
            raise ValueError(
                f"{num_empty} batches of `data` in a row are empty. Look at what makes "
                "them, e.g. a filter that lets nothing pass."
            )
        batches.append(_part_of(inputs, slice(left)))
        left -= _size_of(batches[-1])
        if left <= 0:
            break
    if not batches:
        raise ValueError("`data` is empty: give at least one batch of samples.")
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def _batches_of(data):
    if isinstance(data, keras.utils.PyDataset):
        number = data.num_batches
        return (data[i] for i in range(number)) if number else _endless(data)
    return data


def _endless(data):
    index = 0
    while True:
        yield data[index]
        index += 1


def _inputs_in(batch, model):
    """Returns the inputs in a batch, without labels and weights."""
    if not isinstance(batch, tuple | list):
        return batch
    structure = _structure_of(model)
    if isinstance(structure, tuple | list):
        # The first part of (x, y) holds all inputs by itself.
        is_inputs = len(batch) == len(structure) and not keras.tree.is_nested(batch[0])
        if len(structure) == 1 and len(batch) == 1:
            return batch[0]
        return batch if is_inputs else batch[0]
    if not batch:
        raise ValueError("`data` holds an empty tuple instead of the model's inputs.")
    if structure is None and isinstance(batch, list):
        # A model of unknown inputs may take a list.
        return batch
    if len(batch) > 3:
        raise ValueError(
            f"`data` has {len(batch)} parts, but {type(model).__name__} takes one "
            "input, and (x, y, sample_weight) are three."
        )
    return batch[0]


def _structure_of(model):
    """Returns the model's symbolic inputs, nested as it takes them, or `None`."""
    if is_torch_module(model):
        names = required_arguments(model)
        return names if len(names) > 1 else "".join(names) or None
    structure = inputs_structure_of(model)
    if structure is None and len(getattr(model, "inputs", None) or ()) == 1:
        return model.inputs[0]
    return structure


def _is_nest_of_arrays(data):
    if isinstance(data, list) and all(isinstance(part, tuple | list) for part in data):
        # A list of batches.
        return False
    if isinstance(data, tuple | list | dict) or hasattr(data, "shape"):
        leaves = keras.tree.flatten(data)
        return bool(leaves) and all(hasattr(leaf, "shape") for leaf in leaves)
    return False


def _as_arrays(inputs):
    return keras.tree.map_structure(_as_array, inputs)


def _as_array(value):
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
    if hasattr(value, "toarray"):
        raise ValueError(
            f"`data` holds a sparse matrix, {type(value).__name__}. Keras models take "
            "dense arrays: give `x.toarray()`."
        )
    array = np.asarray(value)
    if not array.ndim:
        raise ValueError(f"{_FORMS}. Received a part without samples: {value!r}")
    return array.astype("float32") if array.dtype == "float64" else array


def _size_of(inputs):
    sizes = {len(leaf) for leaf in keras.tree.flatten(inputs)}
    if len(sizes) != 1:
        raise ValueError(
            "The inputs in `data` hold different numbers of samples: "
            f"{', '.join(map(str, sorted(sizes))) or 'none'}."
        )
    return sizes.pop()


def _part_of(inputs, index):
    return keras.tree.map_structure(lambda array: array[index], inputs)


def _shapes_of(inputs):
    return ", ".join(str(leaf.shape[1:]) for leaf in keras.tree.flatten(inputs))


def _check_fit(inputs, model):
    expected = getattr(model, "inputs", None)
    if not expected or is_torch_module(model):
        return
    structure, shapes = _structure_of(model), [tuple(x.shape) for x in expected]
    if isinstance(inputs, dict) and isinstance(structure, dict):
        missing = [name for name in structure if name not in inputs]
        if missing:
            raise ValueError(
                f"`data` lacks the input '{missing[0]}' of '{model.name}', which takes "
                f"{', '.join(structure)}."
            )
        inputs = {name: inputs[name] for name in structure}
    elif isinstance(inputs, dict) and all(x.name in inputs for x in expected):
        # Keras finds the inputs of a list by their names.
        inputs = [inputs[x.name] for x in expected]
    received = keras.tree.flatten(inputs)
    fits = len(shapes) == len(received) and all(
        len(shape) == array.ndim
        and all(a in (None, b) for a, b in zip(shape[1:], array.shape[1:], strict=True))
        for shape, array in zip(shapes, received, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`data` does not fit '{model.name}': it takes inputs of shape "
            f"{', '.join(map(str, shapes))}, but the data has "
            f"{', '.join(str(array.shape) for array in received)}."
        )
    for tensor, array in zip(expected, received, strict=True):
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if array.dtype.kind == "c" and "complex" not in dtype:
            raise ValueError(
                f"`data` holds complex numbers, but '{model.name}' takes {dtype}. Give "
                "real inputs, e.g. the real and the imaginary parts."
            )

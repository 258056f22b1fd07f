"""Divides the data of a user into inputs and labels."""

import dataclasses

import keras

from keras_pruner.backend import inputs_structure_of

_FORMS = (
    "`data` is an array, or a dict or list of arrays, as the model takes them; a tuple "
    "`(x, y)` or `(x, y, sample_weight)`; a `tf.data.Dataset`, a "
    "`keras.utils.PyDataset` or a torch `DataLoader`"
)


@dataclasses.dataclass(frozen=True)
class LabelledData:
    """Inputs of a model, perhaps with labels.

    Args:
        inputs: A batch of inputs, nested as the model takes them, or `None`.
        labelled: Tuple of the arguments of `model.evaluate`, or `None` without labels.
    """

    inputs: object = None
    labelled: tuple | None = None

    @classmethod
    def of(cls, model, data, labels=None):
        """Returns the `LabelledData` of what a user gives.

        Raises:
            TypeError: If the data has another form.
            ValueError: If it is empty, or has labels twice.
        """
        if data is None:
            if labels is not None:
                raise ValueError("`labels` needs `data`, the inputs that they label.")
            return cls()
        if labels is not None:
            return cls(data, (data, labels))
        if _is_labelled(model, data):
            return cls(data[0], tuple(data))
        if isinstance(data, tuple | list | dict) or hasattr(data, "shape"):
            return cls(data)
        batch = _first_batch(data)
        if _is_labelled(model, batch):
            return cls(batch[0], (data,))
        is_alone = isinstance(batch, tuple | list) and len(batch) == 1
        return cls(batch[0] if is_alone else batch)


def _is_labelled(model, data):
    """Whether data is `(x, y)` or `(x, y, sample_weight)`, not a tuple of inputs."""
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        # Batches of a torch `DataLoader` are lists.
        is_pair = isinstance(data, list) and len(data) == 2
        if not is_pair or not all(hasattr(part, "detach") for part in data):
            return False
    structure = inputs_structure_of(model)
    takes_several = isinstance(structure, tuple | list) and len(structure) > 1
    return not takes_several or keras.tree.is_nested(data[0])


def _first_batch(data):
    if isinstance(data, keras.utils.PyDataset):
        return data[0]
    if not hasattr(data, "__iter__"):
        raise TypeError(f"{_FORMS}. Received: {data!r} of type {type(data).__name__}")
    if iter(data) is data:
        raise TypeError(
            f"{_FORMS}. Both models need the data, but {type(data).__name__} ends "
            "after one pass."
        )
    for batch in data:
        return batch
    raise ValueError("`data` is empty: give at least one batch.")

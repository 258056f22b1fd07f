"""Views of tensors as axes of ids, and what happens to these when shapes change."""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Labels:
    """Stands for a tensor: an id for each index of each axis.

    Args:
        axes: Tuple with an int64 array of ids for each axis.
        variable: The `keras.Variable` that the tensor is, or `None`.
    """

    axes: tuple
    variable: object = None

    @property
    def shape(self):
        return tuple(len(ids) for ids in self.axes)

    @property
    def ndim(self):
        return len(self.axes)

    def replace(self, axis, ids):
        """Returns labels in which one axis has other ids."""
        axis = axis % self.ndim
        return Labels((*self.axes[:axis], ids, *self.axes[axis + 1 :]))

    def without(self, axis):
        """Returns labels without an axis."""
        axis = axis % self.ndim
        return Labels((*self.axes[:axis], *self.axes[axis + 1 :]))

    def __repr__(self):
        return f"<Labels of shape {self.shape}>"


def merge(classes, axes):
    """Returns the ids of one axis that holds all combinations of several axes.

    Args:
        classes: `IndexClasses`.
        axes: Sequence of arrays of ids, the slowest first.

    Example:

    >>> from keras_pruner.channels.index_classes import IndexClasses
    >>> classes = IndexClasses()
    >>> heads, units = classes.fresh(2), classes.fresh(3)
    >>> merged = merge(classes, [heads, units])
    >>> [column.tolist() for column in classes.columns_of(merged)]
    [[0, 0, 0, 1, 1, 1], [2, 3, 4, 2, 3, 4]]
    """
    shape = tuple(len(ids) for ids in axes)
    for ids in axes:
        if len(ids) == 1:
            classes.pin(ids, "an axis of size 1 is merged with another")
    columns, last = [], None
    for number, ids in enumerate(axes):
        grid = np.broadcast_to(
            ids.reshape([-1 if i == number else 1 for i in range(len(axes))]), shape
        ).reshape(-1)
        if len(ids) > 1 or last is None:
            last = grid
        if not classes.is_pinned(ids).all():
            columns.append(grid)
    if not columns:
        return last
    return columns[0] if len(columns) == 1 else classes.expanded(columns)


def split(classes, ids, shape):
    """Returns the ids of the axes into which one axis is divided.

    Args:
        classes: `IndexClasses`.
        ids: Array of ids.
        shape: Sizes of the axes, the slowest first; their product is `len(ids)`.
    """
    size_one = classes.pinned(1, "an axis of size 1")
    large = [size for size in shape if size > 1]
    if not large:
        if shape:
            classes.pin(ids, "an axis of size 1 is reshaped")
        return [size_one] * len(shape)
    parts = iter(_split(classes, ids, large))
    return [next(parts) if size > 1 else size_one for size in shape]


def _split(classes, ids, shape):
    if len(shape) == 1:
        return [ids]
    if len(ids) == 0 or classes.is_pinned(ids).all():
        return [np.resize(ids, size) for size in shape]
    grid = classes.find(ids).reshape(shape)
    varies = [
        axis for axis in range(len(shape)) if (grid != grid.take([0], axis=axis)).any()
    ]
    if len(varies) == 1:
        # All other axes repeat the same indices.
        return [
            grid[tuple(slice(None) if i == axis else 0 for i in range(len(shape)))]
            if axis in varies
            else classes.pinned(size, "an axis that repeats the channels")
            for axis, size in enumerate(shape)
        ]
    for columns in (classes.columns_of(ids), classes.leaf_columns_of(ids)):
        if columns is not None and len(columns) == len(shape):
            parts = _factors(columns, shape)
            if parts is not None:
                return parts
    parts = [classes.fresh(size) for size in shape]
    classes.unify(ids, merge(classes, parts))
    return parts


def _factors(columns, shape):
    """Returns the axes of which columns are the combinations, or `None`."""
    parts = []
    for axis, column in enumerate(columns):
        grid = column.reshape(shape)
        first = tuple(slice(None) if i == axis else slice(1) for i in range(len(shape)))
        if (grid != grid[first]).any():
            return None
        parts.append(grid[first].reshape(-1))
    return parts


def reshape(classes, labels, shape):
    """Returns the labels of a tensor in another shape, in row-major order.

    Axes that a reshape neither merges nor divides keep their ids.

    Args:
        classes: `IndexClasses`.
        labels: `Labels`.
        shape: Tuple of sizes; their product is that of `labels.shape`.

    Raises:
        ValueError: If the products differ.
    """
    if math.prod(shape) != math.prod(labels.shape) or math.prod(shape) == 0:
        raise ValueError(f"No tensor of shape {labels.shape} has the shape {shape}.")
    axes, old, new = [], list(labels.axes), list(shape)
    while old or new:
        taken, sizes = [], []
        # The smallest runs of axes of both shapes with equal products.
        while True:
            have, want = math.prod(len(ids) for ids in taken), math.prod(sizes)
            if taken and sizes and have == want:
                break
            if old and (have < want or not taken):
                taken.append(old.pop(0))
            elif new:
                sizes.append(new.pop(0))
            elif old:
                taken.append(old.pop(0))
            else:
                break
        axes += _regroup(classes, taken, sizes)
    return Labels(tuple(axes))


def _regroup(classes, taken, sizes):
    if [len(ids) for ids in taken] == sizes:
        return taken
    if not sizes:
        classes.pin(np.concatenate(taken), "an axis of size 1 is dropped")
        return []
    if not taken:
        return [classes.pinned(1, "an axis of size 1")] * len(sizes)
    ids = taken[0] if len(taken) == 1 else merge(classes, taken)
    return split(classes, ids, sizes)

"""Tells which indices stay when channels are removed."""

import numpy as np


class Kept:
    """Indices that stay in variables and tensors when channels are removed."""

    def __init__(self, removed, labels):
        self._removed = removed
        self._labels = labels

    def indices(self, variable):
        """Returns, for each axis of a variable, which indices stay.

        Returns:
            Tuple of sorted int64 arrays, or `None` for an axis that keeps all.

        Raises:
            ValueError: If the variable is not one of the model.
        """
        if id(variable) not in self._labels:
            raise ValueError(f"Variable '{variable.path}' is not one of the model.")
        return self.indices_of(self._labels[id(variable)])

    def shape(self, variable):
        """Returns the shape that a variable keeps."""
        return self.shape_of(self._labels[id(variable)])

    def indices_of(self, labels):
        """Returns the same as `indices`, for `Labels` of a `Call`."""
        return tuple(map(self.kept_of, labels.axes))

    def shape_of(self, labels):
        """Returns the shape that a tensor with these `Labels` keeps."""
        return tuple(map(self.size_of, labels.axes))

    def kept_of(self, ids):
        """Returns the indices of an axis that stay, or `None` for all."""
        removed = self._removed[ids]
        return np.flatnonzero(~removed) if removed.any() else None

    def size_of(self, ids):
        """Returns how many indices of an axis stay."""
        return int(np.count_nonzero(~self._removed[ids]))

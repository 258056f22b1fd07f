from keras import ops

from keras_pruner.backend import reduce_groups
from keras_pruner.components.patterns.base import Pattern


class AxisGroups(Pattern):
    """Groups of whole rows or columns of a kernel's matrix, by an index map.

    It divides one kernel of a unit, whose kernels each lose group i along an axis of
    their own: the heads of an attention layer, say. It has no name of its own.

    Example:

    >>> pattern = AxisGroups(axis=1, num_groups=2, index_map=(0, 1, 1, 0))
    >>> layout = KernelLayout((2, 4), (), inputs=2, outputs=4)
    >>> scores = ops.convert_to_tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    >>> ops.convert_to_numpy(pattern.group_scores(scores, layout, "sum")).tolist()
    [18.0, 18.0]
    >>> pruned = ops.convert_to_tensor([True, False])
    >>> ops.convert_to_numpy(pattern.spread(pruned, layout)).astype(int).tolist()
    [[1, 0, 0, 1], [1, 0, 0, 1]]

    Args:
        axis: 0 for rows (K), 1 for columns (N).
        num_groups: Number of groups.
        index_map: Tuple with the group of each index along the axis, -1 for an index
            that is in no group; every group has the same number of indices. `None` for
            runs of equal length, one after the other.

    Raises:
        ValueError: If the groups of `index_map` differ in size.
    """

    name = "axis"

    def __init__(self, axis, num_groups, index_map=None):
        self.axis = axis
        self.groups = num_groups
        self.index_map = None if index_map is None else tuple(index_map)
        if index_map is not None:
            sizes = {self.index_map.count(group) for group in range(num_groups)}
            if len(sizes) > 1:
                raise ValueError(
                    "Groups along an axis have equal sizes. Received: an index map "
                    f"with groups of {', '.join(map(str, sorted(sizes)))} indices"
                )

    def _indices(self, layout):
        """Returns how many indices of the axis each group has."""
        if self.index_map is not None:
            return self.index_map.count(0)
        return (layout.rows, layout.outputs)[self.axis] // self.groups

    def num_groups(self, layout):
        return self.groups

    def group_size(self, layout):
        return self._indices(layout) * (layout.outputs, layout.rows)[self.axis]

    def group_scores(self, scores, layout, reduction):
        length = self._indices(layout)
        if self.index_map is not None:
            order = [
                index
                for group in range(self.groups)
                for index, own in enumerate(self.index_map)
                if own == group
            ]
            order = ops.convert_to_tensor(order, dtype="int32")
            scores = ops.take(scores, order, axis=self.axis)
        if self.axis == 0:
            parts = ops.reshape(scores, (self.groups, length, layout.outputs))
            return reduce_groups(parts, (1, 2), reduction)
        parts = ops.reshape(scores, (layout.rows, self.groups, length))
        return reduce_groups(parts, (0, 2), reduction)

    def spread(self, values, layout):
        if self.index_map is None:
            line = ops.repeat(values, self._indices(layout))
        else:
            # Zero, or `False`, for an index that is in no group.
            values = ops.concatenate([values, ops.zeros((1,), values.dtype)])
            places = [self.groups if g < 0 else g for g in self.index_map]
            line = ops.take(values, ops.convert_to_tensor(places, dtype="int32"))
        if self.axis == 0:
            return ops.tile(ops.expand_dims(line, 1), (1, layout.outputs))
        return ops.tile(ops.expand_dims(line, 0), (layout.rows, 1))

    def get_config(self):
        return {
            "axis": self.axis,
            "num_groups": self.groups,
            "index_map": self.index_map,
        }

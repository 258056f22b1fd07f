import keras
import numpy as np
from keras import ops

from keras_pruner.backend import reduce_groups
from keras_pruner.components.patterns.base import Pattern


class ChannelSlices(Pattern):
    """Groups of slices along axes of a variable: those of a channel.

    It divides one variable of a channel group. Unlike `AxisGroups` it knows the axes of
    the variable, not of the matrix. A channel may have any number of indices, an index
    may belong to several channels, and a square kernel may lose rows and columns with
    the same channel. The scores of all slices of a channel are added.

    Example:

    A channel enters a dense layer through `Flatten` at two positions:

    >>> rows = ChannelSlices(2, [(0, [[0, 2], [1, 3]])])
    >>> layout = KernelLayout((4, 2), (), inputs=4, outputs=2)
    >>> scores = ops.reshape(ops.arange(8, dtype="float32"), (4, 2))
    >>> ops.convert_to_numpy(rows.group_scores(scores, layout, "sum")).tolist()
    [10.0, 18.0]
    >>> pruned = ops.convert_to_tensor([True, False])
    >>> ops.convert_to_numpy(rows.spread(pruned, layout)).astype(int).tolist()
    [[1, 1], [0, 0], [1, 1], [0, 0]]

    Args:
        num_channels: Number of channels.
        slices: List of pairs of an axis and a sequence with the indices of each channel
            along the axis.
    """

    name = "channel_slices"

    def __init__(self, num_channels, slices):
        self.num_channels = num_channels
        self.slices = [
            (axis, tuple(np.asarray(own, np.int64) for own in indices))
            for axis, indices in slices
        ]
        self._key = (
            num_channels,
            tuple(
                (axis, tuple(map(len, indices)), np.concatenate(indices).tobytes())
                for axis, indices in self.slices
            ),
        )

    def channels_on_axes(self, shape):
        """Returns pairs of an axis and the channels of its indices.

        Args:
            shape: Shape of the variable.

        Returns:
            List of pairs; see `channels_along` for the second.
        """
        return [(axis, channels_along(own, shape[axis])) for axis, own in self.slices]

    def num_groups(self, layout):
        return self.num_channels

    def group_size(self, layout):
        """Returns the mean number of weights of a channel, rounded up."""
        weights = sum(
            sum(map(len, indices)) * (layout.size // layout.shape[axis])
            for axis, indices in self.slices
        )
        return -(-weights // self.num_channels)

    def group_scores(self, scores, layout, reduction):
        values = layout.from_matrix(scores)
        parts = [
            _reduce(values, axis, indices, reduction) for axis, indices in self.slices
        ]
        return sum(parts[1:], parts[0])

    def spread(self, values, layout):
        """Copies values to the slices.

        A weight of several channels gets the product of their values, or whether any
        of them is `True`. A weight of none gets 1 or `False`.
        """
        is_bool = keras.backend.standardize_dtype(values.dtype) == "bool"
        join = ops.logical_or if is_bool else ops.multiply
        neutral = ops.zeros((1,), "bool") if is_bool else ops.ones((1,), values.dtype)
        values, spread = ops.concatenate([values, neutral]), None
        for axis, channels in self.channels_on_axes(layout.shape):
            shape = [1] * len(layout.shape)
            shape[axis] = -1
            for places in channels:
                line = ops.reshape(ops.take(values, ops.array(places, "int32")), shape)
                spread = line if spread is None else join(spread, line)
        return layout.to_matrix(ops.broadcast_to(spread, layout.shape))

    def get_config(self):
        slices = [[axis, [own.tolist() for own in i]] for axis, i in self.slices]
        return {"num_channels": self.num_channels, "slices": slices}

    def __eq__(self, other):
        return type(self) is type(other) and self._key == other._key

    def __hash__(self):
        return hash(self._key)

    def __repr__(self):
        axes = ", ".join(str(axis) for axis, _ in self.slices)
        return f"<ChannelSlices of {self.num_channels} channels on axes {axes}>"


def channels_along(indices, length):
    """Returns the channels to which each index of an axis belongs.

    Args:
        indices: Sequence with the indices of each channel.
        length: Length of the axis.

    Returns:
        Int64 array (m, length) of channels, with the number of channels where an index
        has less than m of them.

    Example:

    >>> channels_along([[0, 1], [1, 3]], length=4).tolist()
    [[0, 0, 2, 1], [2, 1, 2, 2]]
    """
    channels = np.repeat(np.arange(len(indices)), list(map(len, indices)))
    places = np.concatenate([np.asarray(own, np.int64) for own in indices])
    order = np.argsort(places, kind="stable")
    channels, places = channels[order], places[order]
    rank = np.arange(len(places)) - np.searchsorted(places, places)
    table = np.full((1 + rank.max(initial=0), length), len(indices))
    table[rank, places] = channels
    return table


def _reduce(values, axis, indices, reduction):
    """Reduces a tensor over the indices of each channel along an axis."""
    length, sizes = values.shape[axis], np.array(list(map(len, indices)))
    lines = ops.reshape(ops.moveaxis(values, axis, 0), (length, -1))
    parts = "sum" if reduction == "mean" else reduction
    lowest = -float("inf") if reduction == "max" else 0.0
    filler = ops.full((1,), lowest, values.dtype)
    lines_reduced = ops.concatenate([reduce_groups(lines, (1,), parts), filler])
    # (channels, most indices of a channel), filled up with the place of the filler.
    table = np.full((len(indices), max(1, sizes.max())), length)
    for channel, own in enumerate(indices):
        table[channel, : len(own)] = own
    members = ops.take(lines_reduced, ops.array(table, "int32"), axis=0)
    scores = reduce_groups(members, (1,), parts)
    if reduction == "mean":
        shares = 1.0 / np.maximum(1, sizes * lines.shape[1])
        scores = scores * ops.array(shares, "float32")
    return scores

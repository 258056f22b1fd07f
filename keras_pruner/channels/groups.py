"""Defines which parts of a model's variables belong to the same channel."""

import dataclasses

import keras
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """One axis of one variable on which the channels of a group lie.

    Args:
        path: Names from the model's child down to the variable, joined by `/`.
        variable: `keras.Variable`.
        layer: The layer that owns the variable.
        axis: Axis of the variable.
        indices: Tuple with an int64 array for each channel of the group: the indices
            along the axis that are removed with the channel. A channel that enters a
            `Dense` layer through `Flatten` has one index for each position.
    """

    path: str
    variable: keras.Variable
    layer: keras.layers.Layer
    axis: int
    indices: tuple

    def removed_by(self, channels):
        """Returns a sorted int64 array of the indices that go with some channels."""
        chosen = [self.indices[channel] for channel in channels]
        return np.unique(np.concatenate([np.empty(0, np.int64), *chosen]))


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that lie on the same axes of the same variables.

    Channel i of the group is removed from all members at once, or from none. Channels
    of one group may be removed independently of each other.

    Args:
        name: Name of the first layer that computes the channels, made unique.
        kind: `"channels"`, or `"heads"` if an index of an attention's head axis.
        members: Tuple of `Member`s, in the order of the model's calls.
    """

    name: str
    kind: str
    members: tuple

    @property
    def size(self):
        """Number of channels."""
        return len(self.members[0].indices)

    def __repr__(self):
        return f"<ChannelGroup '{self.name}' of {self.size} {self.kind}>"


@dataclasses.dataclass(frozen=True, eq=False)
class Pin:
    """Tells why an axis of a variable keeps all its indices.

    Args:
        path: Names from the model's child down to the variable, joined by `/`.
        variable: `keras.Variable`.
        axis: Axis of the variable.
        reason: Why.
    """

    path: str
    variable: keras.Variable
    axis: int
    reason: str

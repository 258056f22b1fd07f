"""Lets a user's layer say which of its weights are pruned."""

import abc
from typing import Any

import keras

from keras_pruner.backend import is_view
from keras_pruner.kernels import (
    KernelLayout,
    conv_layout,
    dense_layout,
    registered_layouts,
)


class PrunableLayer(abc.ABC):
    """Is a base class of layers that say themselves which weights are pruned.

    Extend it beside `keras.layers.Layer`. `PruningCallback` finds these weights, too.

    Example:

    >>> class Scaled(keras.layers.Dense, PrunableLayer):
    ...     def get_prunable_weights(self):
    ...         return [self.kernel]
    >>> layer = Scaled(4, name="scaled")
    >>> layer.build((None, 2))
    >>> layer.prunable_kernels()["kernel"].shape
    (2, 4)
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[Any]:
        """Returns the list of the variables to prune, once the layer is built."""

    def prunable_kernels(self) -> dict[str, KernelLayout]:
        """Returns a dict from a variable's name to its `KernelLayout`."""
        return layouts_of(self)


def layouts_of(layer):
    """Returns `{name: KernelLayout}` of the weights that a layer says are prunable.

    The last axis is that of the outputs, unless a rule knows the layer better.
    """
    known = registered_layouts(layer) or {} if _is_built(layer) else {}
    return {
        variable.name: known.get(variable.name) or _layout(tuple(variable.shape))
        for variable in weights_of(layer)
    }


def weights_of(layer):
    """Returns the variables that a layer says are prunable; none before it is built."""
    if not _is_built(layer):
        return []
    weights = layer.get_prunable_weights()
    return [weight.variable if is_view(weight) else weight for weight in weights]


def _is_built(layer):
    return isinstance(layer, keras.layers.Layer) and layer.built


def _layout(shape):
    return dense_layout(shape) if len(shape) < 3 else conv_layout(shape)

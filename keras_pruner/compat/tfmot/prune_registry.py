"""Knows which layers of Keras can be pruned, and which of their weights."""

import functools

from keras import layers

from keras_pruner.compat.tfmot.prunable_layer import PrunableLayer

# Layers without a weight to prune.
_PLAIN = (
    "ELU LeakyReLU ReLU Softmax PReLU Activation ActivityRegularization "
    "Cropping1D Cropping2D Cropping3D UpSampling1D UpSampling2D UpSampling3D "
    "ZeroPadding1D ZeroPadding2D ZeroPadding3D DepthwiseConv1D DepthwiseConv2D "
    "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout "
    "GaussianDropout GaussianNoise Flatten Lambda Masking Permute RepeatVector Reshape "
    "Identity Add Average Concatenate Dot Maximum Minimum Multiply Subtract "
    "BatchNormalization LayerNormalization GroupNormalization UnitNormalization "
    "Normalization Rescaling Resizing CenterCrop "
    "AveragePooling1D AveragePooling2D AveragePooling3D "
    "GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D "
    "GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D "
    "MaxPooling1D MaxPooling2D MaxPooling3D"
).split()
_WITH_KERNEL = (
    "Dense EinsumDense Conv1D Conv2D Conv3D "
    "Conv1DTranspose Conv2DTranspose Conv3DTranspose"
).split()
_HEADS = [f"_{part}_dense.kernel" for part in ("query", "key", "value", "output")]


class PruneRegistry:
    """Knows the prunable weights of Keras' layers, by the exact class of the layer."""

    _LAYERS_WEIGHTS_MAP = (
        {getattr(layers, name): [] for name in _PLAIN}
        | {getattr(layers, name): ["kernel"] for name in _WITH_KERNEL}
        | {
            layers.SeparableConv1D: ["pointwise_kernel"],
            layers.SeparableConv2D: ["pointwise_kernel"],
            layers.Embedding: ["embeddings"],
            layers.MultiHeadAttention: _HEADS,
        }
    )
    _RNN_CELLS_WEIGHTS_MAP = dict.fromkeys(
        (layers.GRUCell, layers.LSTMCell, layers.SimpleRNNCell),
        ["kernel", "recurrent_kernel"],
    )
    _RNN_LAYERS = frozenset({layers.GRU, layers.LSTM, layers.RNN, layers.SimpleRNN})

    @classmethod
    def supports(cls, layer):
        """Whether the registry knows how to prune a layer.

        Args:
            layer: Keras layer. A subclass of a known class is not known. A recurrent
                layer is if all its cells are known, or are `PrunableLayer`s.
        """
        if type(layer) in cls._RNN_LAYERS:
            return all(
                type(cell) in cls._RNN_CELLS_WEIGHTS_MAP
                or isinstance(cell, PrunableLayer)
                for cell in _cells_of(layer)
            )
        return type(layer) in cls._LAYERS_WEIGHTS_MAP

    @classmethod
    def is_plain(cls, layer):
        """Whether it knows that a layer has no weight to prune."""
        return cls._LAYERS_WEIGHTS_MAP.get(type(layer)) == []

    @classmethod
    def make_prunable(cls, layer):
        """Gives a layer the method `get_prunable_weights`.

        Args:
            layer: Keras layer.

        Returns:
            The same layer.

        Raises:
            ValueError: If the registry does not support it.
        """
        if not cls.supports(layer):
            raise ValueError(
                f"'{layer.name}' cannot be pruned: the class {type(layer).__name__} is "
                "not in the registry, or it has a recurrent cell that is not. Extend "
                "`PrunableLayer`, and return the weights to prune from "
                "`get_prunable_weights`."
            )
        layer.get_prunable_weights = functools.partial(cls.weights_of, layer)
        return layer

    @classmethod
    def weights_of(cls, layer):
        """Returns the list of the prunable weights of a supported layer."""
        if type(layer) not in cls._RNN_LAYERS:
            names = cls._LAYERS_WEIGHTS_MAP[type(layer)]
            return [_attribute(layer, name) for name in names]
        weights = []
        for cell in _cells_of(layer):
            if isinstance(cell, PrunableLayer):
                weights += cell.get_prunable_weights()
            else:
                names = cls._RNN_CELLS_WEIGHTS_MAP[type(cell)]
                weights += [getattr(cell, name) for name in names]
        return weights


def _cells_of(layer):
    is_stack = isinstance(layer.cell, layers.StackedRNNCells)
    return layer.cell.cells if is_stack else [layer.cell]


def _attribute(layer, path):
    return functools.reduce(getattr, path.split("."), layer)

"""Chooses which layers of a model are pruned, by the engine that runs it."""

import abc

import keras
from keras import layers

from keras_pruner.backend import functional_of, links_of, producer_of
from keras_pruner.training import is_graph


class PruningPolicy(abc.ABC):
    """Chooses the layers of a model that `prune_low_magnitude` wraps."""

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Returns whether a layer is wrapped.

        Args:
            layer: Keras layer of the model.
        """

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises a `ValueError` if the policy makes no sense for a model.

        Args:
            model: Sequential or Functional model.
        """


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes the 1x1 `Conv2D`s of a model that XNNPACK can run sparsely.

    XNNPACK runs a part of the model sparsely: from a `Conv2D` of 3x3 with strides 2 on
    3 channels, after a `ZeroPadding2D(1)`, to a `GlobalAveragePooling2D`. Between them
    it takes a few kinds of layers.

    References:
        [Fast Sparse ConvNets, Elsen et al., 2019](https://arxiv.org/abs/1911.09723)
    """

    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        return isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        if not is_graph(model):
            raise ValueError(
                f"Subclassed models are not supported by {type(self).__name__}, "
                f"because they have no graph of layers. Received: '{model.name}'"
            )
        if not model.built:
            raise ValueError(
                f"Unbuilt models are not supported by {type(self).__name__}. Begin "
                f"'{model.name}' with `keras.Input`."
            )
        graph = _Graph(model)
        starts = graph.until(graph.first, graph.starts_sparse_part, graph.readers)
        if not starts:
            raise ValueError(
                "Could not find a `Conv2D` with a 3x3 kernel, stride 2x2 and 'valid' "
                "padding that reads 3 channels from a `ZeroPadding2D(1)` in every "
                "input branch of the model. XNNPACK begins to run sparsely there."
            )
        ends = graph.until(graph.last, _ends_sparse_part, graph.producers)
        if not ends:
            raise ValueError(
                "Could not find a `GlobalAveragePooling2D` in every output branch of "
                "the model. XNNPACK ends to run sparsely there."
            )

        def is_end(layer):
            if layer in ends:
                return True
            if not graph.is_supported(layer):
                raise ValueError(
                    f"Layer '{layer.name}' ({type(layer).__name__}) is not supported "
                    f"by {type(self).__name__}, because XNNPACK does not run it "
                    "sparsely."
                )
            return False

        graph.until(
            [reader for start in starts for reader in graph.readers(start)],
            is_end,
            graph.readers,
        )


class _Graph:
    """The operations of a model, also of nested ones, and which reads which.

    Attributes:
        first: List of the model's inputs.
        last: List of the operations that make the model's outputs.
    """

    def __init__(self, model):
        self._links = []
        self.first, self.last = self._add(model)

    def _add(self, model):
        graph = functional_of(model)
        ends = {}

        def parts(operation):
            if not isinstance(operation, keras.Model):
                return [_plain(operation)], [_plain(operation)]
            if id(operation) not in ends:
                ends[id(operation)] = self._add(operation)
            return ends[id(operation)]

        for producer, reader in links_of(graph):
            self._links += [
                (a, b) for a in parts(producer)[1] for b in parts(reader)[0]
            ]
        first = [producer_of(x)[0] for x in graph.inputs]
        made = [parts(producer_of(x)[0])[1] for x in graph.outputs]
        return first, [operation for part in made for operation in part]

    def readers(self, operation):
        return [b for a, b in self._links if a is operation]

    def producers(self, operation):
        return [a for a, b in self._links if b is operation]

    def until(self, begin, is_end, following):
        """Walks from some operations on; returns the ends, or none if one is missing.

        Args:
            begin: List of operations.
            is_end: Function from an operation to a bool: whether the walk ends there.
            following: Function from an operation to the next ones.
        """
        waiting, seen, found = list(begin), list(begin), []
        while waiting:
            operation = waiting.pop()
            if is_end(operation):
                found.append(operation)
                continue
            after = following(operation)
            if not after:
                return []
            for one in after:
                if one not in seen:
                    seen.append(one)
                    waiting.append(one)
        return found

    def _padding_before(self, layer):
        """Returns the size of the zero padding right before a layer, or `None`."""
        before = self.producers(layer)
        if len(before) != 1 or not isinstance(before[0], layers.ZeroPadding2D):
            return None
        return before[0].padding

    def starts_sparse_part(self, layer):
        return (
            isinstance(layer, layers.Conv2D)
            and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
            and layer.strides == (2, 2)
            and layer.padding == "valid"
            and self._padding_before(layer) == ((1, 1), (1, 1))
        )

    def is_supported(self, layer):
        """Whether XNNPACK runs a layer within a sparse part."""
        if isinstance(layer, layers.DepthwiseConv2D):
            return self._is_supported_depthwise(layer)
        if isinstance(layer, layers.Conv2D):
            sizes = layer.kernel_size, layer.strides, layer.dilation_rate
            return layer.groups == 1 and set(sizes) == {(1, 1)}
        if isinstance(layer, layers.GlobalAveragePooling2D):
            return layer.keepdims
        if isinstance(layer, layers.BatchNormalization):
            return layer.axis in (3, -1)
        if isinstance(layer, layers.UpSampling2D):
            return layer.interpolation == "bilinear"
        if isinstance(layer, layers.Activation):
            name = keras.activations.serialize(layer.activation)
            return name in ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
        if isinstance(layer, keras.layers.Layer):
            return isinstance(layer, _ALWAYS_SUPPORTED)
        return type(layer).__name__ in ("Add", "Subtract", "Multiply", "Identity")

    def _is_supported_depthwise(self, layer):
        size = layer.kernel_size
        if size not in ((3, 3), (5, 5)) or layer.depth_multiplier != 1:
            return False
        if layer.dilation_rate not in (1, (1, 1)):
            return False
        if layer.padding == "same":
            return layer.strides == (1, 1)
        half = size[0] // 2
        is_padded = self._padding_before(layer) == ((half, half), (half, half))
        return is_padded and layer.strides in ((1, 1), (2, 2))


_ALWAYS_SUPPORTED = (
    layers.Add,
    layers.Multiply,
    layers.ZeroPadding2D,
    layers.ReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Dropout,
    layers.InputLayer,
)


def _ends_sparse_part(layer):
    return isinstance(layer, layers.GlobalAveragePooling2D)


def _plain(operation):
    """Returns the layer in a wrapper of this package, or the operation itself."""
    return operation.layer if hasattr(operation, "mask_of") else operation

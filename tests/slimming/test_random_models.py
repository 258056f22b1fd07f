"""Random Functional graphs of many layers: shrunk equals masked."""

import math

import keras
import numpy as np
import pytest
from keras import layers, ops
from models_to_cut import IS_JAX, randomize, removed_half, with_zeros

from keras_pruner.channels import ChannelGraph
from keras_pruner.comparison import compare_models, outputs_of, runnable_inputs
from keras_pruner.slimming import cut, verify
from keras_pruner.slimming.cutting.part import Part

# Raise it to search longer.
NUM_GRAPHS = 1 if IS_JAX else 8


class RandomModel:
    """Grows a graph by random layers from one image."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.model = self._build()
        randomize(self.model, seed)

    def _pick(self, choices):
        return choices[int(self.random.integers(len(choices)))]

    def _build(self):
        inputs = keras.Input((6, 6, 3))
        self.images, self.vectors = [inputs], []
        self.images.append(layers.Conv2D(self._width(), 3, padding="same")(inputs))
        for _ in range(int(self.random.integers(4, 12))):
            x = self._pick(self.images[1:])
            if x.shape[1] >= 3 and x.shape[-1] <= 64:
                self.images.append(self._pick(self.STEPS)(self, x))
        flat = [self._pick(self.VECTORS)(self, x) for x in self.images[-2:]]
        x = layers.Concatenate()(flat)
        x = layers.Dense(self._width(), activation="tanh")(x)
        return keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(1)(flat[0])])

    def _width(self):
        return 2 * int(self.random.integers(2, 6))

    def convolution(self, x):
        padding = self._pick(["same", "valid"])
        kernel, strides = self._pick([(1, 1), (2, 1), (3, 1), (3, 2)])
        use_bias = self._pick([True, False])
        return layers.Conv2D(
            self._width(), kernel, strides, padding, use_bias=use_bias
        )(x)

    def grouped(self, x):
        groups = self._pick([1, 2])
        if x.shape[-1] % groups:
            groups = 1
        return layers.Conv2D(2 * self._width(), 1, groups=groups)(x)

    def depthwise(self, x):
        multiplier = self._pick([1, 2])
        return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier)(x)

    def separable(self, x):
        return layers.SeparableConv2D(self._width(), 2, padding="same")(x)

    def transposed(self, x):
        return layers.Conv2DTranspose(self._width(), 2, padding="same")(x)

    def normalization(self, x):
        options = [layers.BatchNormalization(), layers.PReLU(shared_axes=[1, 2])]
        options.append(layers.LayerNormalization())
        options.append(layers.RMSNormalization(epsilon=0.01))
        options.append(layers.BatchNormalization(scale=False))
        if x.shape[-1] % 2 == 0:
            options.append(layers.GroupNormalization(2))
        return self._pick(options)(x)

    def activation(self, x):
        names = ["relu", "sigmoid", "swish", "gelu", "hard_sigmoid", "tanh", "elu"]
        return layers.Activation(self._pick(names))(x)

    def residual(self, x):
        y = layers.Conv2D(x.shape[-1], 3, padding="same", activation="relu")(x)
        return self._pick([layers.Add(), layers.Multiply(), layers.Maximum()])([x, y])

    def join(self, x):
        others = [y for y in self.images[1:] if y.shape[1:3] == x.shape[1:3]]
        return layers.Concatenate()([x, self._pick(others), x])

    def add_other(self, x):
        others = [y for y in self.images[1:] if y.shape == x.shape]
        return x + self._pick(others)

    def gate(self, x):
        y = layers.GlobalAveragePooling2D(keepdims=True)(x)
        y = layers.Conv2D(self._width(), 1, activation="relu")(y)
        width = self._pick([1, x.shape[-1]])
        return x * layers.Conv2D(width, 1, activation="sigmoid")(y)

    def pool(self, x):
        return self._pick([layers.MaxPooling2D, layers.AveragePooling2D])(2, 1)(x)

    def pad(self, x):
        return self._pick([layers.ZeroPadding2D(1), layers.UpSampling2D(2)])(x)

    def split_and_join(self, x):
        size = x.shape[-1] // 2
        a, b = ops.split(x, [size], axis=-1)
        return self._pick(
            [
                lambda: ops.concatenate([b, a], axis=-1),
                lambda: layers.Concatenate()([a, ops.relu(b), a]),
                lambda: x[..., :size] if size else x,
            ]
        )()

    def fold(self, x):
        _, height, width, channels = x.shape
        y = layers.Reshape((height * width, channels))(x)
        y = layers.Permute((2, 1))(y)
        y = layers.Permute((2, 1))(y)
        return layers.Reshape((height, width, channels))(y)

    def flatten(self, x):
        return layers.Flatten()(x)

    def mean(self, x):
        return self._pick([layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D])()(
            x
        )

    def sequence(self, x):
        y = layers.Reshape((x.shape[1] * x.shape[2], x.shape[3]))(x)
        y = y[:, :4]
        return self._pick(
            [
                layers.LSTM(self._width()),
                layers.GRU(self._width()),
                layers.Bidirectional(layers.SimpleRNN(self._width())),
                lambda z: layers.Flatten()(layers.MultiHeadAttention(2, 4)(z, z)),
                lambda z: layers.Flatten()(layers.TimeDistributed(layers.Dense(4))(z)),
            ]
        )(y)

    STEPS = (
        convolution, grouped, depthwise, separable, transposed, normalization,
        activation, residual, join, add_other, gate, pool, pad, split_and_join, fold,
    )  # fmt: skip
    VECTORS = flatten, mean, sequence


def shift_outputs_of_first(model):
    """Swaps two filters of the first convolution, which later layers do not know."""
    kernel = model.layers[1].kernel
    kernel.assign(ops.flip(kernel, -1))


@pytest.mark.parametrize("seed", range(NUM_GRAPHS))
def test_shrunk_equals_masked(seed, tmp_path):
    model = RandomModel(seed).model
    graph = ChannelGraph(model)
    kept = graph.kept(removed_half(graph, seed, share=0.4))
    smaller = cut(model, graph, kept)
    zeros, part = with_zeros(model, kept), Part(kept)
    verify(model, smaller, values=zeros)
    sizes = [math.prod(part.shape_of(v)) for v in model.variables if "float" in v.dtype]
    made = [math.prod(v.shape) for v in smaller.variables if "float" in v.dtype]
    assert sum(made) == sum(sizes)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    assert compare_models(smaller, loaded).difference == 0
    arguments, before, _ = runnable_inputs(model)
    after = outputs_of(smaller, arguments)
    if graph.groups:
        assert any(
            np.abs(a - b).max() > 1e-4 for a, b in zip(before, after, strict=True)
        )
    if smaller.layers[1].filters > 1:
        shift_outputs_of_first(smaller)
        with pytest.raises(ValueError, match="computes other outputs"):
            verify(model, smaller, values=zeros)

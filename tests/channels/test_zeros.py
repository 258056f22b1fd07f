"""Channels before a normalization by the mean square go if they are zero with them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_pruner import ChannelGraph
from keras_pruner.channels import mean_square_of


class MeanSquare(layers.Layer):
    """As packages of models define it; `offset` 1 is that of Gemma."""

    def __init__(self, offset=0, centered=False, epsilon=0.1, **kwargs):
        super().__init__(**kwargs)
        self.offset, self.centered, self.epsilon = offset, centered, epsilon

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale")

    def call(self, x):
        x = ops.cast(x, "float32")
        mean = ops.mean(x, -1, keepdims=True) if self.centered else 0.0
        square = ops.mean(ops.power(x - mean, 2), axis=-1, keepdims=True)
        x = x * ops.rsqrt(square + self.epsilon) * (self.offset + self.scale)
        return ops.cast(x, self.compute_dtype)


def model_with(between, norm=None):
    """Returns a model with a function of a tensor before a normalization."""
    inputs = keras.Input((4, 5))
    x = between(layers.Dense(8, name="before")(inputs))
    x = (norm or layers.RMSNormalization(name="norm"))(x)
    return keras.Model(inputs, layers.Dense(2, name="after")(x))


def is_cuttable(model):
    groups = [
        {f"{m.path}[{m.axis}]" for m in g.members} for g in ChannelGraph(model).groups
    ]
    return any({"before/kernel[1]", "after/kernel[0]"} <= group for group in groups)


def frozen_bias(x):
    layer = layers.Dense(8)
    x = layer(x) + x
    layer.bias.trainable = False
    return x


ZERO = {
    "nothing": lambda x: x,
    "gelu": lambda x: ops.gelu(x),
    "activation_layer": lambda x: layers.Activation("silu")(x),
    "residual": lambda x: layers.Add()([x, layers.Dense(8, "tanh")(x)]),
    "gate": lambda x: x * layers.Dense(8, "relu")(x),
    "scaled": lambda x: x * 3.0,
    "batch_normalization": lambda x: layers.BatchNormalization()(x),
    "uncentered": lambda x: layers.BatchNormalization(center=False)(x),
    "convolution": lambda x: layers.Conv1D(8, 3, padding="same")(x) + x,
    "attention": lambda x: x + layers.MultiHeadAttention(2, 3)(x, x),
    "lstm": lambda x: x + layers.LSTM(8, return_sequences=True)(x),
    "gru": lambda x: x + layers.GRU(8, return_sequences=True)(x),
    "halved": lambda x: x / 2.0,
    "clipped": lambda x: ops.clip(x, -6, 6),
    "summed_over_time": lambda x: ops.cumsum(x, axis=1),
    "repeated": lambda x: layers.RepeatVector(3)(x[:, 0]),
    "step_by_step": lambda x: x + layers.TimeDistributed(layers.Dense(8))(x),
    "tiled": lambda x: x + ops.tile(x[:, :1], (1, 4, 1)),
    "joined": lambda x: ops.concatenate([x[..., 4:], x[..., :4]], axis=-1),
}
ALIVE = {
    "sigmoid": lambda x: ops.sigmoid(x),
    "activation_of_a_layer": lambda x: layers.Dense(8, "sigmoid")(x) + x,
    "softplus_layer": lambda x: layers.Activation("softplus")(x),
    "clipped_above_zero": lambda x: ops.clip(x, 1, 6),
    "divided_by": lambda x: 2.0 / (x + 3.0),
    "shifted": lambda x: x + 1.0,
    "one_for_all": lambda x: x + layers.Dense(1)(x),
    "exponential": lambda x: x - ops.exp(x),
    "unscaled": lambda x: layers.BatchNormalization(scale=False)(x),
    "frozen_bias": frozen_bias,
    "recurrent": lambda x: (
        x + layers.LSTM(8, activation="sigmoid", return_sequences=True)(x)
    ),
    "constant": lambda x: x + np.ones((1, 1, 8), "float32"),
}


@pytest.mark.parametrize("name", ZERO)
def test_channels_that_are_zero_with_their_weights_are_cut(name):
    assert is_cuttable(model_with(ZERO[name]))


@pytest.mark.parametrize("name", ALIVE)
def test_channels_that_may_not_be_zero_stay(name):
    model = model_with(ALIVE[name])
    assert not is_cuttable(model)
    pins = {f"{p.path}[{p.axis}]": p.reason for p in ChannelGraph(model).pins}
    reason = "norm: normalization over the axis, and its channels may not be zero"
    assert pins["norm/scale[0]"] == reason


@pytest.mark.parametrize("offset", [0, 1])
def test_classes_of_other_packages_are_recognized(offset):
    norm = MeanSquare(offset, name="norm")
    assert is_cuttable(model_with(ZERO["nothing"], norm))
    before = [np.array(w) for w in norm.get_weights()]
    found = mean_square_of(norm)
    assert (found.axes, found.epsilon, found.offset) == ((-1,), "epsilon", offset)
    assert found.scale is norm.scale
    np.testing.assert_array_equal(norm.get_weights(), before)


@pytest.mark.parametrize(
    "norm",
    [
        MeanSquare(centered=True),
        MeanSquare(offset=2),
        layers.LayerNormalization(center=False),
        layers.LayerNormalization(),
        layers.Dense(8, use_bias=False),
    ],
    ids=["centered", "offset", "uncentered_layer", "layer", "dense"],
)
def test_other_layers_are_not(norm):
    model = model_with(ZERO["nothing"], norm)
    assert mean_square_of(norm) is None
    assert isinstance(norm, layers.Dense) or not is_cuttable(model)


def test_root_of_the_variance_is_no_mean_square():
    with pytest.warns(UserWarning, match="deprecated"):
        norm = layers.LayerNormalization(rms_scaling=True)
    assert not is_cuttable(model_with(ZERO["nothing"], norm))


def test_several_axes_and_merged_ones():
    inputs = keras.Input((5,))
    x = layers.EinsumDense("bi,ijk->bjk", (3, 4), name="a")(inputs)
    norm = layers.RMSNormalization(axis=[1, 2], name="norm")
    x = layers.EinsumDense("bjk,jko->bo", (2,), name="b")(norm(x))
    graph = ChannelGraph(keras.Model(inputs, x))
    members = [[(m.path, m.axis) for m in group.members] for group in graph.groups]
    assert members == [
        [("a/kernel", 1), ("norm/scale", 0), ("b/kernel", 0)],
        [("a/kernel", 2), ("norm/scale", 1), ("b/kernel", 1)],
    ]

    def merged(x):
        x = layers.Reshape((4, 2, 4))(x)
        return layers.Reshape((4, 8))(x * layers.Dense(4)(x))

    assert not is_cuttable(model_with(merged))

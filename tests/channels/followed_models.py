"""Models whose channels the tests follow."""

import keras
import numpy as np
from keras import layers, ops

SEQUENCE, IMAGE, VOLUME = (6, 6), (6, 6, 6), (4, 4, 4, 6)


def between(layer, shape):
    """Returns a model with a layer between two layers with kernels.

    Args:
        layer: Function of a tensor with 8 channels.
        shape: Shape of the inputs.
    """
    inputs = keras.Input(shape)
    convolution = [layers.Conv1D, layers.Conv2D, layers.Conv3D][len(shape) - 2]
    x = layer(convolution(8, 1, name="before")(inputs))
    if len(x.shape) > 4:
        x = layers.Reshape((-1, x.shape[-1]))(x)
    last = layers.Conv2D(4, 1, name="after") if len(x.shape) == 4 else None
    x = (last or layers.Dense(4, name="after"))(x)
    return keras.Model(inputs, x)


def _twice(layer):
    return lambda x: layer(x, x)


def _with_dense(layer):
    return lambda x: layer([x, layers.Dense(8)(x)])


# Name -> function that makes the layer, and the shape of its inputs.
LAYERS = {
    "average_pooling_1d": (lambda: layers.AveragePooling1D(2), SEQUENCE),
    "max_pooling_2d": (lambda: layers.MaxPooling2D(2), IMAGE),
    "max_pooling_3d": (lambda: layers.MaxPooling3D(2), VOLUME),
    "global_average_pooling": (lambda: layers.GlobalAveragePooling2D(), IMAGE),
    "global_max_pooling": (lambda: layers.GlobalMaxPooling1D(), SEQUENCE),
    "adaptive_pooling": (lambda: layers.AdaptiveAveragePooling2D(2), IMAGE),
    "up_sampling": (lambda: layers.UpSampling2D(2), IMAGE),
    "zero_padding": (lambda: layers.ZeroPadding2D(1), IMAGE),
    "cropping": (lambda: layers.Cropping1D(1), SEQUENCE),
    "center_crop": (lambda: layers.CenterCrop(4, 4), IMAGE),
    "resizing": (lambda: layers.Resizing(4, 4), IMAGE),
    "conv_1d_of_groups": (lambda: layers.Conv1D(8, 3, groups=2), SEQUENCE),
    "conv_1d_causal": (lambda: layers.Conv1D(8, 3, padding="causal"), SEQUENCE),
    "conv_2d_depthwise_by_groups": (lambda: layers.Conv2D(16, 3, groups=8), IMAGE),
    "conv_3d": (lambda: layers.Conv3D(8, 2), VOLUME),
    "conv_transpose": (lambda: layers.Conv2DTranspose(8, 3, strides=2), IMAGE),
    "depthwise": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
    "separable": (lambda: layers.SeparableConv1D(8, 3), SEQUENCE),
    "batch_normalization": (lambda: layers.BatchNormalization(), IMAGE),
    "layer_normalization": (lambda: layers.LayerNormalization(), IMAGE),
    "group_normalization": (lambda: layers.GroupNormalization(4), IMAGE),
    "rms_normalization": (lambda: layers.RMSNormalization(), IMAGE),
    "unit_normalization": (lambda: layers.UnitNormalization(), IMAGE),
    "prelu": (lambda: layers.PReLU(shared_axes=[1, 2]), IMAGE),
    "mish": (lambda: layers.Activation("mish"), IMAGE),
    "softmax": (lambda: layers.Softmax(), IMAGE),
    "glu": (lambda: ops.glu, IMAGE),
    "dropout": (lambda: layers.Dropout(0.5), IMAGE),
    "flatten": (lambda: layers.Flatten(), IMAGE),
    "reshape": (lambda: layers.Reshape((6, 6, 2, 4)), IMAGE),
    "permute": (lambda: layers.Permute((3, 1, 2)), IMAGE),
    "einsum_dense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 4), bias_axes="de"),
        SEQUENCE,
    ),
    "lstm": (lambda: layers.LSTM(5, return_sequences=True), SEQUENCE),
    "gru": (lambda: layers.GRU(5), SEQUENCE),
    "gru_bias_once": (lambda: layers.GRU(5, reset_after=False), SEQUENCE),
    "gru_of_parts": (lambda: layers.GRU(5, implementation=1), SEQUENCE),
    "simple_rnn": (lambda: layers.SimpleRNN(5), SEQUENCE),
    "stacked_cells": (
        lambda: layers.RNN([layers.LSTMCell(5), layers.GRUCell(3)]),
        SEQUENCE,
    ),
    "bidirectional": (lambda: layers.Bidirectional(layers.LSTM(5)), SEQUENCE),
    "bidirectional_sum": (
        lambda: layers.Bidirectional(layers.GRU(5), merge_mode="sum"),
        SEQUENCE,
    ),
    "time_distributed": (lambda: layers.TimeDistributed(layers.Dense(5)), SEQUENCE),
    "conv_lstm": (lambda: layers.ConvLSTM1D(5, 3, return_sequences=True), IMAGE),
    "spectral_normalization": (
        lambda: layers.SpectralNormalization(layers.Conv2D(5, 3)),
        IMAGE,
    ),
    "attention": (lambda: _twice(layers.MultiHeadAttention(2, 4)), SEQUENCE),
    "grouped_attention": (
        lambda: _twice(layers.GroupQueryAttention(3, 4, 2)),
        SEQUENCE,
    ),
    "dot_attention": (lambda: lambda x: layers.Attention()([x, x]), SEQUENCE),
    "add": (lambda: _with_dense(layers.Add()), SEQUENCE),
    "maximum": (lambda: _with_dense(layers.Maximum()), SEQUENCE),
    "multiply": (lambda: _with_dense(layers.Multiply()), SEQUENCE),
    "concatenate": (lambda: _with_dense(layers.Concatenate()), SEQUENCE),
    "depth_to_space": (lambda: lambda x: ops.depth_to_space(x, 2), IMAGE),
    "space_to_depth": (lambda: lambda x: ops.space_to_depth(x, 2), IMAGE),
    "split": (lambda: lambda x: _swap_halves(x), IMAGE),
    "stack": (lambda: lambda x: ops.max(ops.stack([x, 2 * x]), axis=0), IMAGE),
    "roll": (lambda: lambda x: ops.roll(x, 1, axis=-1), IMAGE),
    "flip": (lambda: lambda x: ops.flip(x, axis=-1), IMAGE),
    "repeat": (lambda: lambda x: ops.repeat(x, 2, axis=-1), IMAGE),
    "tile": (lambda: lambda x: ops.tile(x, (1, 1, 2)), SEQUENCE),
    "pad": (lambda: lambda x: ops.pad(x, [(0, 0), (0, 0), (1, 2)]), SEQUENCE),
    "cumsum": (lambda: lambda x: ops.cumsum(x, axis=-1), SEQUENCE),
    "mean_of_channels": (
        lambda: lambda x: x * ops.mean(x, axis=-1, keepdims=True),
        SEQUENCE,
    ),
}


def _swap_halves(x):
    first, second = ops.split(x, 2, axis=-1)
    return ops.concatenate([second, first], axis=-1)


def layer_model(name):
    """Returns the model of a name in `LAYERS`."""
    make, shape = LAYERS[name]
    return between(make(), shape)


class RandomGraph:
    """Builds a Functional model of convolutions by random choices."""

    def __init__(self, seed):
        self._random = np.random.default_rng(seed)
        keras.utils.set_random_seed(seed)

    def build(self, num_layers=9):
        inputs = keras.Input((6, 6, 3))
        self._tensors = [layers.Conv2D(8, 3, padding="same")(inputs)]
        steps = [
            getattr(self, name) for name in sorted(dir(self)) if name.startswith("by_")
        ]
        for _ in range(num_layers):
            step = steps[self._random.integers(len(steps))]
            self._tensors.append(step(self._pick()))
        x = layers.Concatenate()(self._tensors[-2:])
        x = self._choose(layers.Flatten(), layers.GlobalAveragePooling2D())(x)
        x = layers.Dense(6, activation="tanh")(x)
        return keras.Model(inputs, layers.Dense(2)(x))

    def _choose(self, *items):
        return items[self._random.integers(len(items))]

    def _pick(self):
        recent = self._tensors[-3:]
        return recent[self._random.integers(len(recent))]

    def by_add(self, x):
        other = self._pick()
        if other.shape != x.shape:
            other = layers.Conv2D(x.shape[-1], 1)(other)
        return self._choose(layers.Add(), layers.Maximum(), layers.Multiply())(
            [x, other]
        )

    def by_batch_normalization(self, x):
        return layers.BatchNormalization()(x)

    def by_activation(self, x):
        return layers.Activation(self._choose("relu", "tanh", "sigmoid"))(x)

    def by_concatenation(self, x):
        x = layers.Concatenate()([x, self._pick()])
        return layers.Conv2D(8, 1)(x) if x.shape[-1] > 24 else x

    def by_convolution(self, x):
        groups = self._choose(1, 1, 2) if x.shape[-1] % 2 == 0 else 1
        return layers.Conv2D(8, 3, padding="same", groups=groups)(x)

    def by_depthwise(self, x):
        multiplier = self._choose(1, 2) if x.shape[-1] <= 12 else 1
        return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=multiplier)(x)

    def by_gate(self, x):
        gate = layers.Dense(4, activation="relu")(layers.GlobalAveragePooling2D()(x))
        gate = layers.Dense(x.shape[-1], activation="sigmoid")(gate)
        return layers.Multiply()([x, layers.Reshape((1, 1, x.shape[-1]))(gate)])

    def by_halves(self, x):
        return _swap_halves(x) if x.shape[-1] % 2 == 0 else x

    def by_shuffle(self, x):
        channels = x.shape[-1]
        if channels % 2:
            return x
        x = layers.Reshape((6, 6, 2, channels // 2))(x)
        return layers.Reshape((6, 6, channels))(layers.Permute((1, 2, 4, 3))(x))

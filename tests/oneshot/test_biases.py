"""The bias that belongs to a kernel is found, and shifts the kernel's own outputs."""

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import layers

from keras_pruner.kernels import find_kernels
from keras_pruner.oneshot.biases import bias_of

SEQUENCE = (2, 5, 4)
IMAGE = (2, 5, 5, 4)
# What has a bias over the outputs of every kernel.
CORRECTED = {
    "dense": (layers.Dense(3), (2, 4)),
    "einsum": (
        layers.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="de"),
        SEQUENCE,
    ),
    "conv 1": (layers.Conv1D(6, 3, groups=2), SEQUENCE),
    "conv 2": (layers.Conv2D(6, 3, padding="same"), IMAGE),
    "transposed": (layers.Conv2DTranspose(3, 3, strides=2), IMAGE),
    "depthwise": (layers.DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
}
UNCORRECTED = {
    "no bias": (layers.Dense(3, use_bias=False), (2, 4)),
    "one bias for several outputs": (
        layers.EinsumDense("abc,cde->abde", (5, 2, 3), bias_axes="e"),
        SEQUENCE,
    ),
    "transposed bias": (
        layers.EinsumDense("abc,cde->abed", (5, 3, 2), bias_axes="ed"),
        SEQUENCE,
    ),
    "no bias of a convolution": (layers.Conv1D(3, 3, use_bias=False), SEQUENCE),
}


def kernels_of(layer, shape):
    layer.build(shape)
    return find_kernels(layer).kernels


@pytest.mark.parametrize("name", CORRECTED)
def test_an_update_shifts_each_output_of_the_kernel(name):
    layer, shape = CORRECTED[name]
    keras.utils.set_random_seed(0)
    (kernel,) = kernels_of(layer, shape)
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    before = value_of(layer(x))
    update = np.arange(1, kernel.layout.outputs + 1, dtype="float32")
    bias_of(kernel).add(update)
    # The outputs of the layer are the columns of the matrix, in their order.
    columns = before.reshape(-1, kernel.layout.outputs) + update
    np.testing.assert_allclose(
        value_of(layer(x)).reshape(columns.shape), columns, atol=1e-5
    )


@pytest.mark.parametrize("name", UNCORRECTED)
def test_a_bias_that_is_no_vector_of_the_columns_is_left_alone(name):
    (kernel,) = kernels_of(*UNCORRECTED[name])
    assert bias_of(kernel) is None


def test_of_a_separable_convolution_only_the_last_kernel_has_the_bias():
    layer = layers.SeparableConv2D(4, 3)
    found = {k.variable.name: bias_of(k) for k in kernels_of(layer, IMAGE)}
    assert found["depthwise_kernel"] is None
    assert found["pointwise_kernel"].variable is layer.bias


@pytest.mark.parametrize("reset_after", [True, False])
def test_kernels_of_a_gru(reset_after):
    layer = layers.GRU(3, reset_after=reset_after)
    kernels = {k.variable.name: k for k in kernels_of(layer, SEQUENCE)}
    bias_of(kernels["kernel"]).add(np.arange(9, dtype="float32"))
    bias_of(kernels["recurrent_kernel"]).add(np.full(9, 10, "float32"))
    expected = [np.arange(9), np.full(9, 10)]
    if not reset_after:
        # One bias, which is added to both products.
        expected = sum(expected)
    np.testing.assert_array_equal(value_of(layer.cell.bias), expected)


@pytest.mark.parametrize("make", [layers.LSTM, layers.SimpleRNN])
def test_kernels_of_recurrent_layers_share_a_bias(make):
    layer = make(3)
    for kernel in kernels_of(layer, SEQUENCE):
        assert bias_of(kernel).variable is layer.cell.bias


def test_a_convolutional_lstm_keeps_its_bias_in_a_cell():
    layer = layers.ConvLSTM2D(2, 3)
    for kernel in kernels_of(layer, (2, 3, 5, 5, 1)):
        assert bias_of(kernel).variable is layer.cell.bias


def test_a_sum_is_rounded_once():
    layer = layers.Dense(2, dtype="bfloat16")
    (kernel,) = kernels_of(layer, (2, 4))
    layer.bias.assign([1.0, 1.0])
    # 1/256 alone is lost next to 1 in bfloat16, and 3/256 is not.
    bias_of(kernel).add(np.array([1 / 256, 3 / 256], "float32"))
    assert value_of(layer.bias).astype("float32").tolist() == [1.0, 1.015625]


class Scaled(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
        self.bias = self.add_weight(shape=(3,), name="bias")

    def prunable_kernels(self):
        from keras_pruner.kernels import dense_layout

        return {"kernel": dense_layout(tuple(self.kernel.shape))}

    def call(self, x):
        return (x @ self.kernel) * self.bias


def test_the_bias_of_an_unknown_layer_is_left_alone():
    (kernel,) = kernels_of(Scaled(), (2, 4))
    assert bias_of(kernel) is None

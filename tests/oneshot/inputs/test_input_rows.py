"""Rows times the kernel's matrix give the layer's real output, for each layer kind."""

import keras
import numpy as np
import pytest
from collected import collect, product, randomize
from conftest import BACKEND, value_of
from keras import layers

from keras_pruner.kernels import (
    dense_layout,
    find_kernels,
    register_kernel_rule,
    stacked_layout,
)
from keras_pruner.oneshot.inputs import (
    InputCollector,
    KernelInputs,
    register_kernel_inputs,
)

# Keyword arguments of a layer, the shape of a sample, for each layer with one kernel.
CASES = {
    "dense": (layers.Dense, {"units": 3}, (4,)),
    "dense on steps": (layers.Dense, {"units": 3}, (2, 5, 4)),
    "einsum": (
        layers.EinsumDense,
        {"equation": "abc,cd->abd", "output_shape": (None, 3), "bias_axes": "d"},
        (5, 4),
    ),
    "einsum, ellipsis": (
        layers.EinsumDense,
        {"equation": "...x,xy->...y", "output_shape": 3, "bias_axes": "y"},
        (5, 4),
    ),
    "conv1d": (layers.Conv1D, {"filters": 3, "kernel_size": 3, "strides": 2}, (9, 4)),
    "conv1d, same": (
        layers.Conv1D,
        {"filters": 3, "kernel_size": 4, "strides": 3, "padding": "same"},
        (10, 2),
    ),
    "conv1d, causal": (
        layers.Conv1D,
        {"filters": 3, "kernel_size": 3, "padding": "causal", "dilation_rate": 2},
        (9, 4),
    ),
    "conv2d": (
        layers.Conv2D,
        {"filters": 3, "kernel_size": (3, 2), "strides": (2, 1)},
        (7, 5, 4),
    ),
    "conv2d, same": (
        layers.Conv2D,
        {"filters": 3, "kernel_size": (2, 5), "strides": (2, 3), "padding": "same"},
        (7, 8, 2),
    ),
    "conv2d, stride beyond the window": (
        layers.Conv2D,
        {"filters": 3, "kernel_size": 1, "strides": 2, "padding": "same"},
        (5, 6, 2),
    ),
    "conv2d, groups": (
        layers.Conv2D,
        {"filters": 6, "kernel_size": 3, "groups": 2, "padding": "same"},
        (4, 4, 4),
    ),
    "conv2d, dilated": (
        layers.Conv2D,
        {"filters": 3, "kernel_size": 3, "dilation_rate": (2, 3), "padding": "same"},
        (7, 8, 2),
    ),
    "conv3d": (
        layers.Conv3D,
        {"filters": 3, "kernel_size": (2, 3, 1), "strides": 2, "padding": "same"},
        (4, 5, 3, 2),
    ),
    "depthwise1d": (
        layers.DepthwiseConv1D,
        {"kernel_size": 3, "strides": 2, "padding": "same", "depth_multiplier": 2},
        (8, 3),
    ),
    "depthwise2d": (
        layers.DepthwiseConv2D,
        {"kernel_size": (3, 2), "depth_multiplier": 2},
        (5, 6, 3),
    ),
    "depthwise2d, same": (
        layers.DepthwiseConv2D,
        {"kernel_size": 3, "strides": 2, "padding": "same"},
        (6, 5, 3),
    ),
    "transpose1d": (
        layers.Conv1DTranspose,
        {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"},
        (5, 4),
    ),
    "transpose1d, stride beyond the window": (
        layers.Conv1DTranspose,
        {"filters": 3, "kernel_size": 2, "strides": 3},
        (4, 2),
    ),
    "transpose1d, one step": (
        layers.Conv1DTranspose,
        {"filters": 3, "kernel_size": 4, "strides": 2, "padding": "same"},
        (1, 2),
    ),
    "transpose2d": (
        layers.Conv2DTranspose,
        {"filters": 3, "kernel_size": (4, 3), "strides": (2, 3)},
        (3, 4, 2),
    ),
    "transpose2d, output padding": (
        layers.Conv2DTranspose,
        {"filters": 3, "kernel_size": 3, "strides": 2, "output_padding": 1},
        (3, 4, 2),
    ),
    "transpose2d, dilated": (
        layers.Conv2DTranspose,
        {"filters": 3, "kernel_size": 3, "dilation_rate": 2, "padding": "valid"},
        (4, 3, 2),
    ),
    "transpose3d": (
        layers.Conv3DTranspose,
        {"filters": 3, "kernel_size": 2, "strides": 2, "padding": "same"},
        (2, 3, 2, 2),
    ),
}


def one_layer(layer, shape):
    model = keras.Sequential([keras.Input(shape), layer])
    randomize(model)
    return model


def batch_of(shape, size=3):
    return np.random.default_rng(0).normal(size=(size, *shape)).astype("float32")


@pytest.mark.parametrize("case", CASES)
def test_rows_times_matrix_give_the_output(case):
    layer_class, settings, shape = CASES[case]
    layer = layer_class(activation="tanh", **settings)
    model = one_layer(layer, shape)
    x = batch_of(shape)
    (kernel,) = find_kernels(model).kernels
    rows = collect(model, x)[kernel.path]
    before = product(kernel, rows) + value_of(layer.bias).reshape(-1)
    expected = value_of(model(x))
    assert np.allclose(np.tanh(before).reshape(expected.shape), expected, atol=1e-5)
    assert all(values.dtype == np.float32 for values, _ in rows)


EINSUMS = [
    # (equation, output shape, shape of a sample)
    ("abc,cde->abde", (None, 2, 3), (4, 5)),
    ("abcd,cde->abe", (None, 3), (4, 2, 5)),
    ("abcd,dce->abe", (None, 3), (4, 2, 5)),
    ("abc,bcd->abd", (4, 3), (4, 5)),
    ("abc,cbd->adb", (3, 4), (4, 5)),
    ("abcd,bcde->abce", (3, 2, 6), (3, 2, 5)),
    ("abc,cd->adb", (3, None), (4, 5)),
    ("abc,bd->acd", (None, 3), (4, 5)),
    ("abc,cd->ad", (3,), (4, 5)),
    ("ab...,bc->ac...", (3,), (4, 5)),
]


@pytest.mark.parametrize("equation, output_shape, shape", EINSUMS)
def test_rows_of_einsum_kernels(equation, output_shape, shape):
    layer = layers.EinsumDense(equation, output_shape)
    model = one_layer(layer, shape)
    x = batch_of(shape)
    (kernel,) = find_kernels(model).kernels
    outputs = product(kernel, collect(model, x)[kernel.path])
    # Along N lie the shared letters, then the rest; positions are in the input's order.
    left, output = equation.replace("...", "z").split("->")
    inputs, kernel_letters = left.split(",")
    own = [a for a in kernel_letters if a in output]
    columns = [a for a in own if a in inputs] + [a for a in own if a not in inputs]
    rest = [a for a in inputs if a in output and a not in kernel_letters]
    expected = value_of(model(x))
    expected = np.transpose(expected, [output.index(a) for a in (*rest, *columns)])
    assert np.allclose(outputs, expected.reshape(outputs.shape), atol=1e-5)


@pytest.mark.parametrize(
    "layer_class, shape",
    [(layers.SeparableConv1D, (9, 3)), (layers.SeparableConv2D, (7, 6, 3))],
)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_rows_of_separable_convolutions(layer_class, shape, padding):
    layer = layer_class(4, 3, strides=2, padding=padding, depth_multiplier=2)
    model = one_layer(layer, shape)
    x = batch_of(shape)
    depthwise, pointwise = find_kernels(model).kernels
    found = collect(model, x)
    ((between, _),) = found[pointwise.path]
    assert np.allclose(product(depthwise, found[depthwise.path]), between[0], atol=1e-5)
    outputs = product(pointwise, found[pointwise.path]) + value_of(layer.bias)
    expected = value_of(model(x))
    assert np.allclose(outputs.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="its CPU has no channels first")
@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.Conv2D(4, 3, groups=2, data_format="channels_first"),
        lambda: layers.DepthwiseConv2D(3, data_format="channels_first"),
        lambda: layers.Conv2DTranspose(3, 2, data_format="channels_first"),
        lambda: layers.SeparableConv2D(3, 2, data_format="channels_first"),
    ],
)
def test_rows_with_channels_first(layer):
    model = one_layer(layer(), (2, 5, 4))
    x = batch_of((2, 5, 4))
    kernel = find_kernels(model).kernels[-1]
    outputs = product(kernel, collect(model, x)[kernel.path])
    expected = np.moveaxis(value_of(model(x)), 1, -1)
    bias = value_of(model.layers[-1].bias)
    assert np.allclose((outputs + bias).reshape(expected.shape), expected, atol=1e-5)


def test_rows_of_an_embedding_are_one_hot():
    model = one_layer(layers.Embedding(6, 4), (5,))
    x = np.array([[0, 1, 2, 5, 5], [3, 3, 4, 1, 0]])
    (kernel,) = find_kernels(model, embeddings=True).kernels
    rows = collect(model, x)[kernel.path]
    assert rows[0][0].shape == (1, 10, 6)
    expected = value_of(model(x)).reshape(10, 4)
    assert np.allclose(product(kernel, rows), expected, atol=1e-6)


class LanguageModel(keras.Model):
    def __init__(self, tie_weights):
        super().__init__()
        self.embedding = layers.ReversibleEmbedding(6, 4, tie_weights=tie_weights)

    def call(self, tokens):
        return self.embedding(self.embedding(tokens), reverse=True)


def test_both_tables_of_a_reversible_embedding():
    model = LanguageModel(tie_weights=False)
    x = np.array([[0, 1, 2], [3, 4, 5]])
    model(x)
    table, back = find_kernels(model, embeddings=True).kernels
    found = collect(model, x)
    assert np.allclose(product(table, found[table.path]), found[back.path][0][0][0])
    expected = value_of(model(x)).reshape(6, 6)
    assert np.allclose(product(back, found[back.path]), expected, atol=1e-6)


def test_a_tied_embedding_is_left_out_with_a_reason():
    model = LanguageModel(tie_weights=True)
    x = np.array([[0, 1, 2], [3, 4, 5]])
    model(x)
    (kernel,) = kernels = find_kernels(model, embeddings=True).kernels
    assert collect(model, x) == {}
    left_out = InputCollector(model, kernels).order(x).left_out
    assert "multiplies by the transposed table" in left_out[kernel]


def test_a_large_table_is_left_out_with_a_reason():
    model = one_layer(layers.Embedding(5000, 2), (3,))
    (kernel,) = kernels = find_kernels(model, embeddings=True).kernels
    left_out = InputCollector(model, kernels).order(np.zeros((1, 3))).left_out
    assert "more than 4096 rows" in left_out[kernel]


@pytest.mark.parametrize("key", ["self", "cross"])
def test_rows_of_multi_head_attention(key):
    query, value = keras.Input((3, 5)), keras.Input((4, 6))
    value = query if key == "self" else value
    attention = layers.MultiHeadAttention(2, 4)
    model = keras.Model(
        [query] if key == "self" else [query, value], attention(query, value)
    )
    randomize(model)
    x = [batch_of(tensor.shape[1:], 2) for tensor in model.inputs]
    found = {path.split("/")[-2]: v for path, v in collect(model, x).items()}
    kernels = {k.layer.name: k for k in find_kernels(model).kernels}

    def heads(name):
        bias = value_of(kernels[name].layer.bias)
        rows = product(kernels[name], found[name]) + bias.reshape(-1)
        return rows.reshape(2, -1, *bias.shape)

    q, k, v = heads("query"), heads("key"), heads("value")
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(4)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", weights, v).reshape(6, -1)
    assert np.allclose(found["attention_output"][0][0][0], mixed, atol=1e-5)
    outputs = product(kernels["attention_output"], found["attention_output"])
    outputs = outputs + value_of(kernels["attention_output"].layer.bias)
    assert np.allclose(outputs, value_of(model(x)).reshape(6, -1), atol=1e-5)


def test_rows_of_grouped_query_attention():
    inputs = keras.Input((3, 5))
    attention = layers.GroupQueryAttention(4, num_query_heads=4, num_key_value_heads=2)
    model = keras.Model(inputs, attention(inputs, inputs))
    randomize(model)
    x = batch_of((3, 5), 2)
    found = collect(model, x)
    for kernel in find_kernels(model).kernels:
        (rows,) = found[kernel.path]
        if kernel.layer.name == "attention_output":
            outputs = product(kernel, [rows]) + value_of(kernel.layer.bias)
            expected = value_of(model(x)).reshape(6, -1)
            assert np.allclose(outputs, expected, atol=1e-5)
        else:
            assert np.array_equal(rows[0], x.reshape(1, 6, 5))
    assert len(found) == 4


@pytest.mark.parametrize(
    "inner, shape",
    [
        (lambda: layers.Dense(3), (4, 5)),
        (lambda: layers.Conv2D(3, 2), (2, 4, 3, 2)),
    ],
)
def test_rows_of_time_distributed_layers(inner, shape):
    model = one_layer(layers.TimeDistributed(inner()), shape)
    x = batch_of(shape)
    (kernel,) = find_kernels(model).kernels
    outputs = product(kernel, collect(model, x)[kernel.path])
    outputs = outputs + value_of(kernel.layer.bias)
    expected = np.moveaxis(value_of(model(x)), 1, 0)  # step by step
    assert np.allclose(outputs.reshape(expected.shape), expected, atol=1e-5)


class Experts(layers.Layer):
    """Two matrices: half of the batch multiplies each."""

    def build(self, input_shape):
        shape = (2, input_shape[-1], 3)
        self.experts = self.add_weight(shape=shape, name="experts")

    def call(self, x):
        return keras.ops.einsum("bec,ecd->bed", x, self.experts)


def test_a_rule_for_a_custom_layer():
    register_kernel_rule(Experts, lambda layer: {"experts": stacked_layout((2, 4, 3))})

    @register_kernel_inputs(Experts)
    def rule(layer, x):
        places = keras.ops.reshape(x, (-1, 8))
        return {"experts": KernelInputs(places, x.shape[:1], groups=2)}

    inputs = keras.Input((2, 4))
    branches = Experts()(inputs), Experts()(keras.ops.flip(inputs, 1))
    model = keras.Model(inputs, branches)
    x = batch_of((2, 4))
    found = collect(model, x)
    for kernel in find_kernels(model).kernels:
        outputs = product(kernel, found[kernel.path])
        own = x if kernel.layer is model.layers[1] else x[:, ::-1]
        assert np.allclose(
            outputs, value_of(kernel.layer(own)).reshape(3, 6), atol=1e-5
        )


class Scale(layers.Layer):
    def __init__(self, square=False):
        super().__init__()
        self.square = square

    def prunable_kernels(self):
        return {v.name: dense_layout(v.shape) for v in self.weights}

    def build(self, input_shape):
        self.first = self.add_weight(shape=(input_shape[-1], 3), name="first")
        if self.square:
            self.second = self.add_weight(shape=(3, 3), name="second")

    def call(self, x):
        x = keras.ops.matmul(x, self.first)
        return keras.ops.matmul(x, self.second) if self.square else x


def test_a_custom_layer_with_one_matrix_needs_no_rule():
    model = one_layer(Scale(), (5, 4))
    x = batch_of((5, 4))
    (kernel,) = find_kernels(model).kernels
    outputs = product(kernel, collect(model, x)[kernel.path])
    assert np.allclose(outputs.reshape(3, 5, 3), value_of(model(x)), atol=1e-5)


def test_a_custom_layer_with_two_matrices_is_left_out_with_a_reason():
    model = one_layer(Scale(square=True), (4,))
    kernels = find_kernels(model).kernels
    order = InputCollector(model, kernels).order(batch_of((4,)))
    assert order.stages == () and list(order.left_out) == list(kernels)
    assert "`register_kernel_inputs`" in order.left_out[kernels[0]]


class Turned(Scale):
    def call(self, x):
        return super().call(keras.ops.transpose(x["x"]))


def test_a_custom_layer_with_other_inputs_is_left_out_with_a_reason():
    layer = Turned()
    layer.build((None, 4))
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(inputs))
    model.turned = layer
    model.call = lambda x, **kwargs: layer({"x": keras.ops.transpose(x)})
    kernel = find_kernels(layer).kernels[0]
    order = InputCollector(model, [kernel]).order(batch_of((4,)))
    assert "the last axis of the layer's input is no 4" in order.left_out[kernel]


class Doubled(layers.Dense):
    def build(self, input_shape):
        super().build((None, 2 * input_shape[-1]))
        self.input_spec = None

    def call(self, x):
        return super().call(keras.ops.concatenate([x, x], -1))


class Normalised(layers.Dense):
    def call(self, x):
        return 2 * super().call(keras.ops.tanh(x))


@pytest.mark.parametrize("layer_class", [Doubled, Normalised])
def test_a_subclass_that_changes_its_inputs_is_read_at_its_base_class(
    layer_class,
):
    model = one_layer(layer_class(3, use_bias=False), (4,))
    x, (kernel,) = batch_of((4,)), find_kernels(model).kernels
    outputs = product(kernel, collect(model, x)[kernel.path])
    scale = 2 if layer_class is Normalised else 1
    np.testing.assert_allclose(scale * outputs, value_of(model(x)), atol=1e-5)


class Own(layers.Dense):
    def call(self, x):
        return keras.ops.matmul(keras.ops.tanh(x), self.kernel)


def test_a_subclass_with_a_call_of_its_own_is_left_out_with_a_reason():
    model = one_layer(Own(3), (4,))
    kernels = find_kernels(model).kernels
    order = InputCollector(model, kernels).order(batch_of((4,)))
    reason = "Own.call does not run Dense.call, whose inputs are known"
    assert reason in order.left_out[kernels[0]]


def test_a_rule_that_does_not_fit_raises_an_error():
    class Wrong(layers.Dense):
        pass

    @register_kernel_inputs(Wrong)
    def rule(layer, x, **kwargs):
        return {"kernel": x[:, 1:]}

    model = one_layer(Wrong(3, name="wrong"), (4,))
    message = r"'wrong/kernel' do not fit its matrix of shape \(4, 3\): .* length 3"
    with pytest.raises(ValueError, match=message):
        collect(model, batch_of((4,)))

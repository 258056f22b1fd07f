"""Operations of each layer, by hand and by the compiler."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, set_kernel
from keras import layers, ops

from keras_pruner import count_flops, wrap
from keras_pruner.channels import ChannelGraph


def functional(shape, *steps):
    x = inputs = keras.Input(shape)
    for step in steps:
        x = step(x)
    return keras.Model(inputs, x)


def attention(x):
    return layers.MultiHeadAttention(2, 5, name="mha")(x, x)


# Multiply-adds of one sample.
BY_HAND = {
    "dense": ((7,), layers.Dense(5), 7 * 5),
    "dense at 3 positions": ((3, 7), layers.Dense(5), 3 * 7 * 5),
    "einsum": ((3, 7), layers.EinsumDense("abc,cde->abde", (None, 2, 4)), 3 * 7 * 8),
    "conv, valid": ((8, 8, 3), layers.Conv2D(4, 3), 6 * 6 * 9 * 3 * 4),
    "conv, same": ((8, 8, 3), layers.Conv2D(4, 3, padding="same"), 64 * 9 * 3 * 4),
    "conv, strides": ((9, 9, 3), layers.Conv2D(4, 3, strides=2), 4 * 4 * 9 * 3 * 4),
    "conv, groups": ((8, 4), layers.Conv1D(6, 3, groups=2), 6 * 3 * 2 * 6),
    "conv 3D": ((4, 4, 4, 2), layers.Conv3D(3, 2), 27 * 8 * 2 * 3),
    "depthwise": ((8, 8, 3), layers.DepthwiseConv2D(3), 36 * 9 * 3),
    "depthwise, multiplier": (
        (8, 8, 3),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        36 * 9 * 6,
    ),
    "separable": ((8, 8, 3), layers.SeparableConv2D(5, 3), 36 * (9 * 3 + 3 * 5)),
    "transposed": (
        (4, 4, 3),
        layers.Conv2DTranspose(5, 2, strides=2),
        16 * 4 * 3 * 5,
    ),
    "simple rnn": ((6, 4), layers.SimpleRNN(5), 6 * (4 + 5) * 5),
    "lstm": ((6, 4), layers.LSTM(5), 6 * (4 + 5) * 4 * 5),
    "gru": ((6, 4), layers.GRU(5), 6 * (4 + 5) * 3 * 5),
    "both directions": ((6, 4), layers.Bidirectional(layers.LSTM(5)), 2 * 6 * 9 * 20),
    "time distributed": (
        (6, 8, 4),
        layers.TimeDistributed(layers.Conv1D(5, 3)),
        6 * 6 * 3 * 4 * 5,
    ),
    # Query, key, value, scores, weighted values, outputs.
    "attention": (
        (6, 8),
        attention,
        4 * 6 * 8 * 2 * 5 + 2 * 2 * 6 * 6 * 5,
    ),
    "normalization": ((8,), layers.BatchNormalization(), 0),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_operations_of_a_layer_are_those_counted_by_hand(name):
    shape, layer, multiply_adds = BY_HAND[name]
    if not callable(getattr(layer, "get_config", None)):
        model = functional(shape, layer)
    else:
        model = functional(shape, type(layer).from_config(layer.get_config()))
    found = count_flops(model)
    assert found.flops == found.totals()["flops"] == 2 * multiply_adds
    assert [row for row in found.rows() if row["skipped"]] == []


def test_rows_name_the_layers_and_add_up():
    found = count_flops(build_mlp())
    assert found.rows() == [
        {
            "path": "hidden",
            "layer": "Dense",
            "flops": 256,
            "effective_flops": 256,
            "skipped": None,
        },
        {
            "path": "head",
            "layer": "Dense",
            "flops": 48,
            "effective_flops": 48,
            "skipped": None,
        },
    ]
    text = found.to_text(width=100)
    assert text.startswith("304 FLOPs for inputs of shape (1, 16), 2 for each multiply")
    lines = [line.split() for line in text.split("\n")]
    assert ["layer", "class", "FLOPs", "share"] in lines
    assert ["head", "Dense", "48", "15.79%"] in lines
    assert ["total", "304", "100.00%"] in lines
    assert "these 2 layers" not in found.to_html() and "head" in found.to_html()


def test_a_shared_layer_counts_each_call():
    shared = layers.Dense(4, name="shared")
    assert count_flops(functional((4,), shared, shared)).rows()[0]["flops"] == 64


def test_products_in_a_subclassed_model_count_without_a_layer():
    class Scores(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3, name="dense")

        def call(self, x):
            y = self.dense(x)
            return ops.matmul(y, ops.transpose(y, (0, 2, 1)))

    model = Scores()
    model(np.zeros((2, 5, 4), "float32"))
    found = count_flops(model, np.zeros((1, 5, 4), "float32"))
    assert [(row["path"], row["flops"]) for row in found.rows()] == [
        ("dense", 2 * 5 * 4 * 3),
        ("(model)", 2 * 5 * 5 * 3),
    ]


def test_zeros_of_a_kernel_lower_the_effective_operations():
    model = build_mlp()
    set_kernel(model.layers[0], np.arange(128).reshape(16, 8) % 4)
    found = count_flops(model)
    assert (found.flops, found.effective_flops) == (304, 256 * 3 // 4 + 48)
    assert "240 of them are products by a weight that is not zero" in str(found)
    assert "effective" in str(found)


def half_zeros(model):
    """Makes every second weight of all kernels zero."""
    for weight in model.weights:
        if weight.name.endswith("kernel"):
            values = np.arange(np.prod(weight.shape)).reshape(weight.shape) % 2
            weight.assign(values)
    return model


@pytest.mark.parametrize(
    "second",
    [
        layers.EinsumDense("abc,cd->abd", (None, 6)),
        layers.MultiHeadAttention(2, 3, use_bias=False),
        layers.LSTM(4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_zeros_of_a_layer_lower_no_operations_of_the_next(second):
    x = inputs = keras.Input((5, 4))
    for first in (layers.Dense(4), layers.EinsumDense("abc,cd->abd", (None, 4))):
        x = first(x)
    step = type(second).from_config(second.get_config())
    is_attention = isinstance(step, layers.MultiHeadAttention)
    model = keras.Model(inputs, step(x, x) if is_attention else step(x))
    found = count_flops(half_zeros(model))
    # The scores and the weighted values have no weights.
    without_weights = 2 * 2 * 2 * 5 * 5 * 3 if is_attention else 0
    assert found.effective_flops == (found.flops + without_weights) / 2


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_quantized_layers_count_as_those_of_floats(mode):
    def attend(x):
        return layers.MultiHeadAttention(2, 4, name="attention")(x, x)

    model = functional(
        (6, 8),
        layers.Dense(4, name="dense"),
        attend,
        layers.TimeDistributed(layers.Dense(3)),
    )
    set_kernel(model.get_layer("dense"), np.arange(32).reshape(8, 4) % 2)
    flops = count_flops(model).flops
    model.quantize(mode)
    found = count_flops(model)
    assert found.flops == flops
    row = next(row for row in found.rows() if row["path"] == "dense")
    assert row["effective_flops"] == row["flops"] / 2
    assert [row for row in found.rows() if row["skipped"]] == []


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_embedding_counts_its_way_back():
    def back(x):
        return embedding(x, reverse=True)

    embedding = layers.ReversibleEmbedding(7, 4, tie_weights=True)
    model = functional((5,), embedding, back)
    flops = count_flops(model).flops
    model.quantize("int8")
    assert count_flops(model).flops == flops == 2 * 5 * 4 * 7


def test_masks_of_wrapper_layers_lower_the_effective_operations():
    model = wrap(build_mlp(), include="hidden")
    (mask,) = model.layers[0].masks.values()
    mask.assign(np.arange(128).reshape(16, 8) % 2)
    found = count_flops(model)
    assert (found.flops, found.effective_flops) == (304, 128 + 48)


def test_kernel_without_a_product_is_listed_as_not_counted():
    class Odd(layers.Dense):
        def call(self, inputs):
            # Follows no index: the shape is not static inside.
            return ops.convert_to_tensor(np.asarray(inputs) @ np.asarray(self.kernel))

    odd = Odd(2, name="odd")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="plain")])
    model.add(odd)
    found = count_flops(model)
    rows = {row["path"]: row["skipped"] for row in found.rows()}
    assert rows["plain"] is None
    assert rows["odd/kernel"] == "not counted: no product with this kernel was found"


def test_open_axes_have_the_size_of_given_inputs():
    model = functional((None, 4), layers.Dense(3))
    assert "(1, 8, 4)" in str(count_flops(model))
    given = count_flops(model, np.zeros((2, 5, 4), "float32"))
    assert given.flops == 2 * 2 * 5 * 4 * 3
    assert given.input_shapes == [(2, 5, 4)]
    assert ChannelGraph(model).input_shapes == [(1, 8, 4)]


def test_wrong_models_raise():
    with pytest.raises(TypeError, match="Expected a Keras model"):
        count_flops("model")
    with pytest.raises(ValueError, match="is not built"):
        count_flops(keras.Sequential([layers.Dense(2)]))


@pytest.mark.skipif(BACKEND != "jax", reason="asks XLA by JAX")
def test_the_compiler_counts_the_same():
    import jax

    model = functional(
        (8, 8, 3),
        layers.Conv2D(6, 3, use_bias=False),
        layers.Reshape((36, 6)),
        layers.Dense(5, use_bias=False),
    )
    states = [
        [v.value for v in vs]
        for vs in (model.trainable_variables, model.non_trainable_variables)
    ]
    forward = jax.jit(lambda *a: model.stateless_call(*a, training=False)[0])
    lowered = forward.lower(*states, np.zeros((1, 8, 8, 3), "float32"))
    assert count_flops(model).flops == lowered.cost_analysis()["flops"]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="asks TensorFlow's profiler")
def test_the_profiler_counts_the_same():
    import tensorflow as tf

    model = functional(
        (8, 8, 3),
        layers.Conv2D(6, 3, padding="same", use_bias=False),
        layers.DepthwiseConv2D(3, use_bias=False),
        layers.Flatten(),
        layers.Dense(5, use_bias=False),
    )
    function = tf.function(lambda x: model(x, training=False))
    graph = function.get_concrete_function(tf.zeros((1, 8, 8, 3))).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    found = tf.compat.v1.profiler.profile(graph, cmd="op", options=options)
    assert count_flops(model).flops == found.total_float_ops

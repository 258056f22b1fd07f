"""Which variables are prunable, and that each is the matrix its layer multiplies by."""

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import layers, ops

from keras_pruner.config import PruningConfig
from keras_pruner.kernels import (
    KernelLayout,
    conv_layout,
    conv_transpose_layout,
    dense_layout,
    depthwise_layout,
    einsum_layout,
    find_all_kernels,
    find_kernels,
    register_kernel_rule,
    rules,
    select_kernels,
    stacked_layout,
)
from keras_pruner.pruners import KerasBasePruner

EMBEDDING_REASON = (
    "embeddings are pruned only when asked for: add 'Embedding' to layer_types"
)


@pytest.fixture
def own_rules(monkeypatch):
    """Forgets the rules that a test registers."""
    monkeypatch.setattr(rules, "_RULES", list(rules._RULES))


def built(layer, *shape):
    """A layer built for inputs of a shape without its batch axis."""
    layer.build((None, *shape))
    return layer


def found_in(model, **options):
    """Paths and shapes of the prunable kernels; nothing may be skipped."""
    search = find_kernels(model, **options)
    assert search.skipped == ()
    return {kernel.path: tuple(kernel.variable.shape) for kernel in search.kernels}


def layout_of(layer, *shape):
    (kernel,) = find_kernels(built(layer, *shape)).kernels
    assert kernel.layer is layer
    assert kernel.layout.shape == tuple(kernel.variable.shape)
    return kernel.layout


def sizes(layout):
    """Window, inputs that an output sees, outputs, groups."""
    return layout.window, layout.inputs, layout.outputs, layout.groups


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def matrix_and_output(layer, x):
    """The matrix of a layer's only kernel, and what the layer makes of `x`."""
    y = layer(ops.convert_to_tensor(x))
    (kernel,) = find_kernels(layer).kernels
    matrix = kernel.layout.to_matrix(ops.convert_to_tensor(kernel.variable))
    return kernel.layout, value_of(matrix), value_of(y)


def assert_close(made, expected):
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)


# Layouts of layers.


def test_dense_is_inputs_by_outputs():
    layout = layout_of(layers.Dense(3), 4)
    assert sizes(layout) == ((), 4, 3, 1)
    assert (layout.rows, layout.outputs, layout.size) == (4, 3, 12)
    assert layout.dimensions == (4, 3)


@pytest.mark.parametrize(
    ("layer_class", "rank"),
    [(layers.Conv1D, 1), (layers.Conv2D, 2), (layers.Conv3D, 3)],
)
def test_convolution_is_window_and_inputs_by_filters(layer_class, rank):
    layout = layout_of(layer_class(5, 2), *[6] * rank, 4)
    assert sizes(layout) == ((2,) * rank, 4, 5, 1)
    assert (layout.window_size, layout.rows) == (2**rank, 4 * 2**rank)
    assert layout.dimensions == (*[2] * rank, 4, 5)


def test_grouped_convolution_sees_the_inputs_of_a_group():
    layout = layout_of(layers.Conv2D(6, 3, groups=2), 8, 8, 4)
    assert sizes(layout) == ((3, 3), 2, 6, 2)
    assert layout.rows == 18


@pytest.mark.parametrize(
    ("layer_class", "rank"),
    [
        (layers.Conv1DTranspose, 1),
        (layers.Conv2DTranspose, 2),
        (layers.Conv3DTranspose, 3),
    ],
)
def test_transposed_convolution_has_its_inputs_last(layer_class, rank):
    layout = layout_of(layer_class(5, 2), *[6] * rank, 4)
    assert layout.shape == (*[2] * rank, 5, 4)
    assert sizes(layout) == ((2,) * rank, 4, 5, 1)


@pytest.mark.parametrize(
    ("layer_class", "rank"), [(layers.DepthwiseConv1D, 1), (layers.DepthwiseConv2D, 2)]
)
def test_depthwise_convolution_is_window_by_inputs_and_multiples(layer_class, rank):
    layout = layout_of(layer_class(2, depth_multiplier=3), *[6] * rank, 4)
    assert sizes(layout) == ((2,) * rank, 1, 12, 4)


@pytest.mark.parametrize(
    ("layer_class", "rank"), [(layers.SeparableConv1D, 1), (layers.SeparableConv2D, 2)]
)
def test_separable_convolution_is_a_depthwise_and_a_pointwise_one(layer_class, rank):
    layer = layer_class(5, 2, depth_multiplier=3, name="conv")
    depthwise, pointwise = find_kernels(built(layer, *[6] * rank, 4)).kernels
    assert depthwise.path == "conv/depthwise_kernel"
    assert sizes(depthwise.layout) == ((2,) * rank, 1, 12, 4)
    assert pointwise.path == "conv/pointwise_kernel"
    assert sizes(pointwise.layout) == ((1,) * rank, 12, 5, 1)


@pytest.mark.parametrize(
    ("equation", "shape", "rows", "outputs", "groups"),
    [
        # A query projection; an output projection; a plain dense layer.
        ("abc,cde->abde", (4, 2, 5), 4, 10, 1),
        ("abcd,cde->abe", (4, 5, 2), 20, 2, 1),
        ("...x,xy->...y", (4, 7), 4, 7, 1),
        # Outputs first in the kernel; contracted letters swapped; in the middle.
        ("ab,cb->ac", (3, 4), 4, 3, 1),
        ("abcd,edc->abe", (2, 5, 4), 20, 2, 1),
        ("abc,dce->abde", (2, 4, 5), 4, 10, 1),
        # A letter that all three share: one small matrix for each b.
        ("abc,bcd->abd", (3, 4, 5), 4, 15, 3),
        ("abc, cd -> abd", (4, 7), 4, 7, 1),
    ],
)
def test_einsum_contracts_the_letters_that_the_output_lacks(
    equation, shape, rows, outputs, groups
):
    layout = einsum_layout(equation, shape)
    assert (layout.rows, layout.outputs, layout.groups) == (rows, outputs, groups)
    assert layout.dimensions == (rows, outputs)


def test_einsum_that_scales_elementwise_has_rows_of_one():
    layout = einsum_layout("ab,b->ab", (3,))
    assert (layout.rows, layout.outputs, layout.groups) == (1, 3, 3)


def test_multi_head_attention_has_four_einsum_kernels():
    x = layers.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    model = keras.Model(x, attention(x, x))
    assert found_in(model) == {
        "attention/query/kernel": (8, 2, 3),
        "attention/key/kernel": (8, 2, 3),
        "attention/value/kernel": (8, 2, 3),
        "attention/attention_output/kernel": (2, 3, 8),
    }
    matrices = [(k.layout.rows, k.layout.outputs) for k in find_kernels(model).kernels]
    assert matrices == [(8, 6), (8, 6), (8, 6), (6, 8)]


def test_grouped_query_attention_has_fewer_keys_than_queries():
    x = layers.Input((5, 8))
    attention = layers.GroupQueryAttention(3, 4, 2, name="attention")
    model = keras.Model(x, attention(x, x))
    assert found_in(model) == {
        "attention/query/kernel": (8, 4, 3),
        "attention/key/kernel": (8, 2, 3),
        "attention/value/kernel": (8, 2, 3),
        "attention/attention_output/kernel": (4, 3, 8),
    }
    matrices = [(k.layout.rows, k.layout.outputs) for k in find_kernels(model).kernels]
    assert matrices == [(8, 12), (8, 6), (8, 6), (12, 8)]


@pytest.mark.parametrize(
    ("layer_class", "cell", "gates"),
    [
        (layers.LSTM, "lstm_cell", 4),
        (layers.GRU, "gru_cell", 3),
        (layers.SimpleRNN, "simple_rnn_cell", 1),
    ],
)
def test_recurrent_layer_has_a_kernel_and_a_recurrent_kernel(layer_class, cell, gates):
    layer = built(layer_class(3, name="rnn"), 6, 4)
    assert found_in(layer) == {
        f"rnn/{cell}/kernel": (4, 3 * gates),
        f"rnn/{cell}/recurrent_kernel": (3, 3 * gates),
    }
    made = [sizes(kernel.layout) for kernel in find_kernels(layer).kernels]
    assert made == [((), 4, 3 * gates, 1), ((), 3, 3 * gates, 1)]


def test_bidirectional_layer_has_the_kernels_of_both_directions():
    layer = layers.Bidirectional(layers.SimpleRNN(3, name="rnn"), name="both")
    assert found_in(built(layer, 6, 4)) == {
        "both/forward_rnn/simple_rnn_cell/kernel": (4, 3),
        "both/forward_rnn/simple_rnn_cell/recurrent_kernel": (3, 3),
        "both/backward_rnn/simple_rnn_cell/kernel": (4, 3),
        "both/backward_rnn/simple_rnn_cell/recurrent_kernel": (3, 3),
    }


def test_convolutional_lstm_has_two_convolution_kernels():
    layer = built(layers.ConvLSTM2D(3, 2, name="rnn"), 6, 5, 5, 2)
    assert found_in(layer) == {
        "rnn/kernel": (2, 2, 2, 12),
        "rnn/recurrent_kernel": (2, 2, 3, 12),
    }
    made = [sizes(kernel.layout) for kernel in find_kernels(layer).kernels]
    assert made == [((2, 2), 2, 12, 1), ((2, 2), 3, 12, 1)]


def test_time_distributed_layer_shows_the_layer_inside():
    layer = layers.TimeDistributed(layers.Dense(3, name="dense"), name="each")
    assert found_in(built(layer, 5, 4)) == {"each/dense/kernel": (4, 3)}


def test_embedding_is_skipped_unless_asked_for():
    layer = built(layers.Embedding(10, 4, name="table"), 5)
    search = find_kernels(layer)
    assert search.kernels == ()
    (skipped,) = search.skipped
    assert (skipped.path, skipped.shape) == ("table/embeddings", (10, 4))
    assert skipped.reason == EMBEDDING_REASON
    assert skipped.size == 40


def test_embedding_that_is_asked_for_is_vocabulary_by_features():
    layer = built(layers.Embedding(10, 4, name="table"), 5)
    (kernel,) = find_kernels(layer, embeddings=True).kernels
    assert kernel.path == "table/embeddings"
    assert sizes(kernel.layout) == ((), 10, 4, 1)


@pytest.mark.parametrize("embeddings", [False, True])
def test_untied_embedding_lists_both_its_tables(embeddings):
    # Every variable of two or more axes is found or skipped, never left out.
    layer = layers.ReversibleEmbedding(10, 4, tie_weights=False, name="table")
    search = find_kernels(built(layer, 5), embeddings=embeddings)
    paths = [item.path for item in (*search.kernels, *search.skipped)]
    assert sorted(paths) == ["table/embeddings", "table/reverse_embeddings"]


def test_layer_without_matrices_is_neither_found_nor_skipped():
    layer = built(layers.BatchNormalization(), 4)
    search = find_kernels(layer)
    assert (search.kernels, search.skipped) == ((), ())


def test_layer_of_unknown_class_is_skipped_with_a_reason():
    first, _ = find_kernels(built(Mixer(name="mixer"), 4)).skipped
    assert (first.path, first.shape) == ("mixer/mix", (4, 2))
    assert first.reason == (
        "no rule for layer class Mixer: register one with `register_kernel_rule`, "
        "or give the layer `prunable_kernels()`"
    )


def test_biases_are_never_kernels():
    layer = built(layers.Dense(3, name="dense"), 4)
    assert len(layer.variables) == 2
    assert found_in(layer) == {"dense/kernel": (4, 3)}


# Matrices.


def test_matrix_of_a_dense_kernel_is_the_kernel():
    kernel = np.arange(6.0).reshape(2, 3)
    assert value_of(dense_layout((2, 3)).to_matrix(kernel)).tolist() == kernel.tolist()


def test_matrix_of_a_convolution_has_the_inputs_of_a_position_together():
    # kernel[position, input, filter] = 100 position + 10 input + filter
    kernel = np.array(
        [[[0.0, 1.0], [10.0, 11.0]], [[100.0, 101.0], [110.0, 111.0]]],
    )
    matrix = value_of(conv_layout((2, 2, 2)).to_matrix(kernel))
    assert matrix.tolist() == [[0, 1], [10, 11], [100, 101], [110, 111]]


def test_matrix_of_a_transposed_convolution_swaps_its_last_axes():
    # One position, outputs 0 and 1, inputs 0, 1 and 2.
    kernel = np.array([[[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]])
    matrix = value_of(conv_transpose_layout((1, 2, 3)).to_matrix(kernel))
    assert matrix.tolist() == [[0, 10], [1, 11], [2, 12]]


def test_matrix_of_an_einsum_with_outputs_first_is_transposed():
    kernel = np.array([[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]])
    matrix = value_of(einsum_layout("ab,cb->ac", (2, 3)).to_matrix(kernel))
    assert matrix.tolist() == [[0, 10], [1, 11], [2, 12]]


@pytest.mark.parametrize(
    "layout",
    [
        dense_layout((3, 5)),
        dense_layout((2, 3, 5)),
        conv_layout((3, 2, 4, 6), groups=2),
        conv_transpose_layout((3, 2, 4, 6)),
        depthwise_layout((3, 2, 4, 6)),
        einsum_layout("abc,dce->abde", (2, 4, 5)),
        einsum_layout("abcd,edc->abe", (2, 5, 4)),
        einsum_layout("abc,bcd->abd", (3, 4, 5)),
        stacked_layout((3, 4, 5)),
        # A cycle of three axes, which is not its own inverse.
        KernelLayout((2, 3, 4), (), 4, 6, permutation=(2, 0, 1)),
    ],
)
def test_from_matrix_is_the_inverse_of_to_matrix(layout):
    kernel = np.arange(float(layout.size)).reshape(layout.shape)
    matrix = layout.to_matrix(ops.convert_to_tensor(kernel))
    assert tuple(matrix.shape) == (layout.rows, layout.outputs)
    assert np.array_equal(value_of(layout.from_matrix(matrix)), kernel)
    assert sorted(value_of(matrix).ravel()) == list(range(layout.size))


def test_matrix_of_a_dense_layer_times_its_input_is_its_output():
    x = random(2, 4)
    _, matrix, y = matrix_and_output(layers.Dense(3), x)
    assert_close(y, x @ matrix)


@pytest.mark.parametrize(
    ("equation", "output_shape", "x_shape", "order"),
    [
        ("abc,cde->abde", (None, 2, 5), (6, 3, 4), (0, 1, 2)),
        ("abcd,cde->abe", (None, 2), (6, 3, 4, 5), (0, 1, 2, 3)),
        ("...x,xy->...y", 7, (6, 3, 4), (0, 1, 2)),
        ("ab,cb->ac", 3, (6, 4), (0, 1)),
        # The kernel holds d before c, so the input's d runs before its c.
        ("abcd,edc->abe", (None, 2), (6, 3, 4, 5), (0, 1, 3, 2)),
        ("abc,dce->abde", (None, 2, 5), (6, 3, 4), (0, 1, 2)),
    ],
)
def test_matrix_of_an_einsum_times_its_input_is_its_output(
    equation, output_shape, x_shape, order
):
    x = random(*x_shape)
    layer = layers.EinsumDense(equation, output_shape)
    layout, matrix, y = matrix_and_output(layer, x)
    flat = x.transpose(order).reshape(-1, layout.rows)
    assert_close(y.reshape(len(flat), -1), flat @ matrix)


def test_matrix_of_a_grouped_einsum_has_one_block_of_columns_for_each_group():
    x = random(6, 3, 4)
    layer = layers.EinsumDense("abc,bcd->abd", (3, 5))
    layout, matrix, y = matrix_and_output(layer, x)
    assert layout.groups == 3
    for group in range(3):
        columns = matrix[:, 5 * group : 5 * group + 5]
        assert_close(y[:, group], x[:, group] @ columns)


def patches(x, window):
    """(batch, positions, window * channels) of a 2-D convolution, window first."""
    batch, height, width, channels = x.shape
    made = [
        x[:, i : i + window, j : j + window].reshape(batch, -1)
        for i in range(height - window + 1)
        for j in range(width - window + 1)
    ]
    return np.stack(made, axis=1)


def test_matrix_of_a_convolution_times_the_patches_is_its_output():
    x = random(2, 4, 5, 3)
    _, matrix, y = matrix_and_output(layers.Conv2D(6, 2), x)
    assert_close(y.reshape(2, -1, 6), patches(x, 2) @ matrix)


def test_matrix_of_a_grouped_convolution_has_its_columns_by_group():
    x = random(2, 4, 5, 4)
    _, matrix, y = matrix_and_output(layers.Conv2D(6, 2, groups=2), x)
    for group in range(2):
        seen = patches(x[..., 2 * group : 2 * group + 2], 2)
        columns = slice(3 * group, 3 * group + 3)
        assert_close(y.reshape(2, -1, 6)[..., columns], seen @ matrix[:, columns])


def test_matrix_of_a_depthwise_convolution_has_its_columns_by_input():
    x = random(2, 4, 5, 3)
    _, matrix, y = matrix_and_output(layers.DepthwiseConv2D(2, depth_multiplier=2), x)
    for channel in range(3):
        seen = patches(x[..., channel : channel + 1], 2)
        columns = slice(2 * channel, 2 * channel + 2)
        assert_close(y.reshape(2, -1, 6)[..., columns], seen @ matrix[:, columns])


def test_matrix_of_a_transposed_convolution_spreads_each_input():
    x = random(2, 4, 3)
    layer = layers.Conv1DTranspose(5, 2, strides=2)
    _, matrix, y = matrix_and_output(layer, x)
    expected = np.zeros((2, 8, 5), "float32")
    for step in range(4):
        for position in range(2):
            rows = matrix[3 * position : 3 * position + 3]
            expected[:, 2 * step + position] += x[:, step] @ rows
    assert_close(y, expected)


def test_matrix_of_a_recurrent_kernel_times_its_input_is_one_step():
    x = random(2, 1, 4)
    layer = layers.SimpleRNN(3)
    y = value_of(layer(ops.convert_to_tensor(x)))
    kernel, _ = find_kernels(layer).kernels
    matrix = value_of(kernel.layout.to_matrix(ops.convert_to_tensor(kernel.variable)))
    assert_close(y, np.tanh(x[:, 0] @ matrix))


# Models.


def test_shared_layer_is_counted_once():
    shared = layers.Dense(4, name="shared")
    x = layers.Input((4,))
    model = keras.Model(x, shared(shared(x)))
    assert found_in(model) == {"shared/kernel": (4, 4)}


def test_shared_layer_in_two_models_is_counted_once():
    shared = layers.Dense(4, name="shared")
    inner = [keras.Sequential([layers.Input((4,)), shared], name=name) for name in "ab"]
    x = layers.Input((4,))
    model = keras.Model(x, inner[1](inner[0](x)))
    assert found_in(model) == {"a/shared/kernel": (4, 4)}


def test_shared_layer_in_a_dict_of_modules_is_counted_once():
    layer = built(layers.Dense(3), 4)
    (selection,) = select_kernels({"first": layer, "second": layer}, PruningConfig())
    found = selection.kernels
    assert [kernel.path for kernel in found] == ["first"]


def test_nested_models_are_in_the_path():
    deepest = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, name="dense")], name="deepest"
    )
    inner = keras.Sequential([layers.Input((4,)), deepest], name="inner")
    outer = keras.Sequential(
        [layers.Input((4,)), inner, layers.Dense(2, name="head")], name="outer"
    )
    assert found_in(outer) == {
        "inner/deepest/dense/kernel": (4, 3),
        "head/kernel": (3, 2),
    }


def test_paths_are_those_of_a_saved_copy(tmp_path):
    model = keras.Sequential(
        [layers.Input((6, 4)), layers.LSTM(3, name="rnn"), layers.Dense(2, name="head")]
    )
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert list(found_in(copy)) == [
        "rnn/lstm_cell/kernel",
        "rnn/lstm_cell/recurrent_kernel",
        "head/kernel",
    ]
    assert found_in(copy) == found_in(model)


class Tower(keras.Model):
    def __init__(self):
        super().__init__(name="tower")
        self.blocks = [layers.Dense(4, name="b0"), layers.Dense(4, name="b1")]
        self.heads = {"x": layers.Dense(2, name="hx"), "y": layers.Dense(3, name="hy")}

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return [head(x) for head in self.heads.values()]


def test_subclassed_model_shows_layers_in_lists_and_dicts():
    model = Tower()
    model(np.ones((1, 5), "float32"))
    assert found_in(model) == {
        "b0/kernel": (5, 4),
        "b1/kernel": (4, 4),
        "hx/kernel": (4, 2),
        "hy/kernel": (4, 3),
    }


class Twins(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(4, name="same")
        self.second = layers.Dense(2, name="same")

    def call(self, x):
        return self.second(self.first(x))


def test_layers_of_one_name_get_numbered_paths():
    model = Twins()
    model(np.ones((1, 5), "float32"))
    assert found_in(model) == {"same/kernel": (5, 4), "same/kernel#2": (4, 2)}


def test_name_is_the_first_part_of_every_path():
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3, name="dense")])
    assert found_in(model, name="net") == {"net/dense/kernel": (4, 3)}


def test_search_finds_the_variables_themselves():
    layer = built(layers.Dense(3, name="dense"), 4)
    (kernel,) = find_kernels(layer).kernels
    assert kernel.variable is layer.kernel
    assert repr(kernel) == "<Kernel 'dense/kernel' (4, 3)>"


# Rules.


class Mixer(layers.Layer):
    """A layer with a matrix that no rule knows."""

    def build(self, input_shape):
        self.mix = self.add_weight(shape=(input_shape[-1], 2), name="mix")
        self.table = self.add_weight(shape=(3, 3), name="table")
        self.built = True


class Projection(layers.Dense):
    """A Dense layer by another name."""


def test_subclass_follows_the_rule_of_its_base():
    layer = built(Projection(3, name="projection"), 4)
    assert found_in(layer) == {"projection/kernel": (4, 3)}


def test_registered_rule_makes_a_layer_prunable(own_rules):
    layer = built(Mixer(name="mixer"), 4)
    assert [s.path for s in find_kernels(layer).skipped] == ["mixer/mix", "mixer/table"]
    register_kernel_rule(Mixer, lambda layer: {"mix": dense_layout(layer.mix.shape)})
    assert found_in(layer) == {"mixer/mix": (4, 2)}


def test_rule_registered_by_a_decorator_is_the_function_itself(own_rules):
    @register_kernel_rule(Mixer)
    def rule(layer):
        return {"table": dense_layout(layer.table.shape)}

    layer = built(Mixer(name="mixer"), 4)
    assert rule(layer) == {"table": dense_layout((3, 3))}
    assert found_in(layer) == {"mixer/table": (3, 3)}


def test_rule_registered_last_wins_over_that_of_the_base(own_rules):
    register_kernel_rule(Projection, lambda layer: {})
    assert found_in(built(Projection(3), 4)) == {}
    assert found_in(built(layers.Dense(3, name="dense"), 4)) == {"dense/kernel": (4, 3)}


class SelfDescribing(Mixer):
    def prunable_kernels(self):
        return {"mix": dense_layout(self.mix.shape)}


def test_method_prunable_kernels_makes_a_layer_prunable():
    layer = built(SelfDescribing(name="mixer"), 4)
    assert found_in(layer) == {"mixer/mix": (4, 2)}


class Block(layers.Layer):
    """Has a kernel of its own, and a sublayer with a kernel of the same name."""

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(3, input_shape[-1], 2), name="kernel")
        self.inner = layers.Dense(5, name="inner")
        self.inner.build(input_shape)
        self.built = True

    def prunable_kernels(self):
        return {"kernel": stacked_layout(self.kernel.shape)}


def test_method_prunable_kernels_speaks_of_the_layers_own_variables():
    layer = built(Block(name="block"), 4)
    own, inner = find_kernels(layer).kernels
    assert (own.path, sizes(own.layout)) == ("block/kernel", ((), 4, 6, 3))
    assert (inner.path, sizes(inner.layout)) == ("block/inner/kernel", ((), 4, 5, 1))


def test_layout_of_another_shape_is_an_error(own_rules):
    register_kernel_rule(Mixer, lambda layer: {"mix": dense_layout((2, 2))})
    with pytest.raises(ValueError, match=r"Mixer gives 'mixer/mix' a layout of shape"):
        find_kernels(built(Mixer(name="mixer"), 4))


# Layers of KerasHub, by stand-ins: of the same names, in a package of the same name.


def stand_in(name, **shapes):
    def build(self, input_shape):
        for variable, shape in shapes.items():
            self.add_weight(shape=shape, name=variable)
        self.built = True

    base = type(name, (layers.Layer,), {"build": build, "__module__": "keras_hub.x"})
    # A user's subclass, elsewhere.
    return built(type("Own", (base,), {"__module__": "own"})(name="own"), 4)


@pytest.mark.parametrize(
    ("name", "variable", "shape", "expected"),
    [
        ("MixtralMoeExperts", "expert_feedforward_gate_dense", (3, 4, 5), (4, 15, 3)),
        ("GptOssExperts", "down_proj", (3, 4, 5), (4, 15, 3)),
        ("Gemma4MoEBlock", "up_proj", (3, 4, 5), (4, 15, 3)),
        ("RWKV7TimeMix", "w1", (4, 5), (4, 5, 1)),
        ("MaskedLMHead", "output_kernel", (4, 5), (4, 5, 1)),
    ],
)
def test_matrices_of_keras_hub_layers_are_found(name, variable, shape, expected):
    layer = stand_in(name, **{variable: shape, "bias": (5,)})
    (kernel,) = find_kernels(layer).kernels
    assert kernel.path == f"own/{variable}"
    assert sizes(kernel.layout)[1:] == expected


def test_channels_of_a_gated_delta_net_see_their_own_window():
    layer = stand_in("Qwen3_5GatedDeltaNet", conv1d_kernel=(6, 4))
    (kernel,) = find_kernels(layer).kernels
    assert sizes(kernel.layout) == ((4,), 1, 6, 6)
    value = np.arange(24.0).reshape(6, 4)
    assert np.array_equal(value_of(kernel.layout.to_matrix(value)), value.T)


def test_expert_matrices_are_side_by_side():
    # kernel[expert, input, output] = 100 expert + 10 input + output
    kernel = np.array([[[0.0, 1.0], [10.0, 11.0]], [[100.0, 101.0], [110.0, 111.0]]])
    matrix = value_of(stacked_layout((2, 2, 2)).to_matrix(kernel))
    assert matrix.tolist() == [[0, 1, 100, 101], [10, 11, 110, 111]]


# Layers that are refused.


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `quantize`")
def test_quantized_model_is_refused_with_a_reason():
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3, name="dense")])
    model.quantize("int8")
    reason = (
        "the layer is quantized (int8), so its kernel is computed: "
        "prune before `quantize`"
    )
    search = find_kernels(model)
    assert search.kernels == ()
    assert [(s.path, s.shape, s.reason) for s in search.skipped] == [
        ("dense/kernel", (4, 3), reason)
    ]
    with pytest.raises(ValueError) as error:
        KerasBasePruner(PruningConfig(), model)
    assert str(error.value) == (
        "Nothing in the model can be pruned with this config.\n"
        f"  dense/kernel (4, 3): {reason}"
    )


def test_scales_and_biases_of_a_quantized_layer_are_no_kernels():
    layer = built(layers.EinsumDense("ab,bcd->acd", (2, 3), bias_axes="cd"), 4)
    layer.quantize("int4")
    names = [v.name for v in layer.weights if len(v.shape) > 1]
    assert {"bias", "kernel", "kernel_scale"} <= set(names)
    search = find_all_kernels(layer)
    (kernel,), (skip,) = search.skipped_kernels, search.skipped
    # Keras packs the int4 values in a form of its own.
    assert skip.shape == tuple(kernel.variable.shape)
    assert kernel.variable.name == "kernel" and kernel.layer is layer


def test_quantized_layer_among_the_modules_is_refused():
    layer = built(layers.Dense(3, name="dense"), 4)
    layer.quantize("int8")
    with pytest.raises(ValueError, match="Layer 'dense' is quantized .int8., so its"):
        KerasBasePruner(PruningConfig(), {"d": layer})


def test_lora_layer_is_refused_with_a_reason():
    layer = built(layers.Dense(3, name="dense"), 4)
    layer.enable_lora(2)
    search = find_kernels(layer)
    assert search.kernels == ()
    assert {skipped.path: skipped.shape for skipped in search.skipped} == {
        "dense/kernel": (4, 3),
    }
    assert {skipped.reason for skipped in search.skipped} == {
        "LoRA is enabled, so the kernel is frozen: merge LoRA before pruning"
    }


def test_frozen_layer_is_not_collected():
    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")]
    )
    model.layers[0].trainable = False
    (selection,) = select_kernels(model, PruningConfig())
    found, skipped = selection.kernels, selection.skipped
    assert [kernel.path for kernel in found] == ["b/kernel"]
    assert [(s.path, s.shape, s.reason) for s in skipped] == [
        ("a/kernel", (4, 3), "frozen: the layer has trainable=False")
    ]


def test_unbuilt_layer_is_an_error():
    with pytest.raises(ValueError, match="'dense' is not built, so its weights do not"):
        select_kernels({"d": layers.Dense(3, name="dense")}, PruningConfig())


def test_module_that_is_no_layer_is_an_error():
    with pytest.raises(
        TypeError, match="Module 'd' must be a Keras layer, .* type list"
    ):
        select_kernels({"d": [1, 2]}, PruningConfig())
    with pytest.raises(TypeError, match="or a model. Received: list"):
        select_kernels([1, 2], PruningConfig())


# What a dict of modules may hold.


def test_module_with_one_kernel_gives_it_its_name():
    layer = built(layers.Dense(3, name="dense"), 4)
    (selection,) = select_kernels({"mine": layer}, PruningConfig())
    (found,) = selection.kernels
    assert found.path == "mine"
    assert found.variable is layer.kernel


def test_module_with_several_kernels_adds_their_names():
    layer = built(layers.GRU(3, name="rnn"), 6, 4)
    (selection,) = select_kernels({"mine": layer}, PruningConfig())
    found = selection.kernels
    assert [kernel.path for kernel in found] == [
        "mine/gru_cell/kernel",
        "mine/gru_cell/recurrent_kernel",
    ]


def test_module_that_is_a_variable_has_its_outputs_last():
    matrix, window = keras.Variable(np.ones((4, 3))), keras.Variable(np.ones((2, 4, 3)))
    (selection,) = select_kernels({"m": matrix, "w": window}, PruningConfig())
    found = selection.kernels
    assert [sizes(k.layout) for k in found] == [((), 4, 3, 1), ((2,), 4, 3, 1)]


def test_module_that_is_a_vector_is_an_error():
    with pytest.raises(ValueError, match=r"Module 'v' is a variable of shape \(3,\)"):
        select_kernels({"v": keras.Variable(np.ones(3))}, PruningConfig())

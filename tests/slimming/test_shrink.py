"""`shrink` removes what zeros make useless, and nothing else."""

import math

import keras
import numpy as np
import pytest
from conftest import BACKEND, compile_mlp, slow_where_compiled, value_of
from keras import layers, ops
from models_to_cut import (
    model_names,
    model_of,
    randomize,
    removed_half,
    with_zeros,
)

from keras_pruner import PruningCallback, shrink, wrap
from keras_pruner.channels import ChannelGraph
from keras_pruner.comparison import outputs_of
from keras_pruner.slimming.cutting.part import Part


def zero_outputs(layer, channels, bias=False):
    """Zeroes columns of a kernel, and maybe the entries of the bias."""
    kernel = value_of(layer.kernel).copy()
    kernel[..., channels] = 0
    layer.kernel.assign(kernel)
    if bias:
        values = value_of(layer.bias).copy()
        values[channels] = 0
        layer.bias.assign(values)


def zero_inputs(layer, channels):
    kernel = value_of(layer.kernel).copy()
    kernel[..., channels, :] = 0
    layer.kernel.assign(kernel)


def mlp():
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(8, activation="relu", name="a"),
            layers.Dense(6, activation="sigmoid", name="b"),
            layers.Dense(3, name="c"),
        ]
    )
    randomize(model)
    return model


def row_of(report, path):
    (row,) = [row for row in report.layers if row.path == path]
    return row


@pytest.mark.parametrize("name", [n for n in model_names() if n != "mixed_precision"])
def test_zeroed_groups_are_removed_again(name):
    model = model_of(name)
    graph = ChannelGraph(model)
    kept = graph.kept(removed_half(graph))
    for variable, value in with_zeros(model, kept):
        variable.assign(value)
    before = [value_of(v) for v in model.variables]
    smaller, report = shrink(model)
    part = Part(kept)
    wanted = sum(
        math.prod(part.shape_of(v)) for v in model.variables if "float" in v.dtype
    )
    assert report.parameters_after <= wanted
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)
    again, report = shrink(smaller)
    assert not report.is_smaller
    assert again.count_params() == smaller.count_params()


def test_constants_are_added_to_biases():
    model = mlp()
    zero_outputs(model.layers[0], [0, 3])
    zero_outputs(model.layers[1], [1, 2])
    model.layers[0].bias.assign([0.5, 1, 1, 0.25, 1, 1, 1, 1])
    smaller, report = shrink(model)
    assert [x.units for x in smaller.layers] == [6, 4, 3]
    # Only the second layer's removed units are not zero for sure.
    rows = value_of(model.layers[1].kernel)[[0, 3]][:, [0, 3, 4, 5]]
    np.testing.assert_allclose(
        value_of(smaller.layers[1].bias),
        value_of(model.layers[1].bias)[[0, 3, 4, 5]] + [0.5, 0.25] @ rows,
        rtol=1e-5,
    )
    assert report.verification.relative_difference < 1e-6


def test_rows_of_zeros_remove_live_units():
    model = mlp()
    zero_inputs(model.layers[1], [0, 3, 5])
    smaller, _ = shrink(model)
    assert [x.units for x in smaller.layers] == [5, 6, 3]


def test_removal_goes_on_where_it_makes_rows_zero():
    model = mlp()
    zero_inputs(model.layers[2], [4])
    kernel = value_of(model.layers[1].kernel).copy()
    # Unit 2 is read by unit 4 of the next layer only.
    kernel[2, [0, 1, 2, 3, 5]] = 0
    model.layers[1].kernel.assign(kernel)
    smaller, _ = shrink(model)
    assert [x.units for x in smaller.layers] == [7, 5, 3]


def test_nothing_to_remove_says_so():
    model = mlp()
    smaller, report = shrink(model)
    assert smaller is not model and smaller.count_params() == model.count_params()
    assert "nothing of" in str(report)
    assert report.verification.difference == 0
    assert row_of(report, "b").skipped == "all its channels have effects"


def convolutions(padding, kernel_size=3, use_bias=True):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, name="a", activation="relu"),
            layers.Conv2D(6, kernel_size, padding=padding, use_bias=use_bias, name="b"),
            layers.BatchNormalization(name="norm"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="c"),
        ]
    )
    randomize(model)
    zero_outputs(model.layers[0], [1, 4])
    model.layers[0].bias.assign(0.1 * np.arange(8))
    return model


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("padding, kernel_size", [("valid", 3), ("same", 1)])
def test_constant_channels_of_a_convolution_are_folded(padding, kernel_size, use_bias):
    smaller, _ = shrink(convolutions(padding, kernel_size, use_bias))
    assert smaller.layers[0].filters == 6
    assert smaller.layers[1].use_bias


def test_constant_channels_stay_at_padded_borders():
    model = convolutions("same")
    smaller, report = shrink(model)
    assert smaller.layers[0].filters == 8
    row = row_of(report, "a")
    assert "2 channels with zeros stay" in row.skipped and "borders" in row.skipped
    zero_outputs(model.layers[0], [1, 4], bias=True)
    smaller, _ = shrink(model)
    assert smaller.layers[0].filters == 6


def test_shared_residual_channel_with_one_live_side_stays():
    inputs = keras.Input((5,))
    a, b = layers.Dense(6, name="a"), layers.Dense(6, name="b")
    model = keras.Model(inputs, layers.Dense(2, name="c")(a(inputs) + b(inputs)))
    randomize(model)
    zero_outputs(a, [1, 2], bias=True)
    smaller, report = shrink(model)
    assert not report.is_smaller
    assert "not constant" in row_of(report, "a").skipped
    zero_outputs(b, [2], bias=True)
    smaller, _ = shrink(model)
    assert smaller.get_layer("a").units == smaller.get_layer("b").units == 5


def test_useless_branch_is_left_out():
    x = inputs = keras.Input((5,))
    x = layers.Dense(6, name="stem")(x)
    wide = layers.Dense(12, activation="relu", name="wide")(x)
    narrow = layers.Dense(6, name="narrow")
    x = layers.Add(name="sum")([x, narrow(wide)])
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    randomize(model)
    zero_outputs(narrow, range(6), bias=True)
    smaller, report = shrink(model)
    assert [x.name for x in smaller.layers[1:]] == ["stem", "head"]
    assert row_of(report, "wide").new_shape is None
    assert report.parameters_after == 5 * 6 + 6 + 6 * 2 + 2
    assert "left out" in str(report)


def test_group_keeps_its_last_channel():
    model = mlp()
    zero_outputs(model.layers[0], range(8), bias=True)
    smaller, report = shrink(model)
    assert smaller.layers[0].units == 1
    assert "'a': all its channels are useless; one must stay." in report.notes


def test_frozen_layers_are_shrunk_and_stay_frozen():
    model = mlp()
    zero_outputs(model.layers[0], [0, 3], bias=True)
    model.layers[0].trainable = False
    smaller, _ = shrink(model)
    assert smaller.layers[0].units == 6
    assert not smaller.layers[0].trainable and smaller.layers[1].trainable


def test_masks_of_wrapper_layers_are_zeros():
    model = wrap(mlp())
    for layer in model.layers[:2]:
        mask = np.ones(layer.layer.kernel.shape, bool)
        mask[:, [0, 1]] = False
        (variable,) = layer.masks.values()
        variable.assign(mask)
    smaller, report = shrink(model)
    assert [type(x) for x in smaller.layers] == [layers.Dense] * 3
    assert [x.units for x in smaller.layers] == [6, 4, 3]


def test_attention_heads_and_key_dimensions_are_removed():
    inputs = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(4, 5, name="attention")
    model = keras.Model(inputs, layers.Dense(2)(attention(inputs, inputs)))
    randomize(model)
    parts = {x.name: x for x in attention._flatten_layers(include_self=False)}
    output = value_of(parts["attention_output"].kernel).copy()
    output[1] = 0
    parts["attention_output"].kernel.assign(output)
    if BACKEND != "jax":
        # Keras' attention on JAX needs as many key as value dimensions.
        query = value_of(parts["query"].kernel).copy()
        query[:, :, 3] = 0
        parts["query"].kernel.assign(query)
        bias = value_of(parts["query"].bias).copy()
        bias[:, 3] = 0
        parts["query"].bias.assign(bias)
    smaller, _ = shrink(model)
    (attention,) = [x for x in smaller.layers if x.name == "attention"]
    assert attention.num_heads == 3
    assert attention.key_dim == (5 if BACKEND == "jax" else 4)


def test_report_lists_layers_and_plain_rows():
    model = mlp()
    zero_outputs(model.layers[0], [0, 3], bias=True)
    smaller, report = shrink(model)
    row = row_of(report, "a")
    assert (row.shape, row.new_shape, row.new_parameters) == ((5, 8), (5, 6), 36)
    assert row.skipped is None
    assert report.parameters_before == model.count_params()
    assert report.parameters_after == smaller.count_params()
    assert "5 x 6" in repr(report) and "differ by at most" in str(report)
    assert report.rows()[0]["path"] == "a"
    assert "<table" in report.to_html()


def test_given_data_are_used():
    model = mlp()
    zero_outputs(model.layers[0], [0])
    smaller, report = shrink(model, np.ones((3, 5), "float32"))
    assert smaller.layers[0].units == 7
    with pytest.raises(ValueError, match="cannot run on the given `inputs`"):
        shrink(model, np.ones((3, 4), "float32"))


def test_other_models_are_refused():
    with pytest.raises(TypeError, match="Expected a Keras model"):
        shrink("model")
    with pytest.raises(ValueError, match="not built"):
        shrink(keras.Sequential([layers.Dense(2)]))
    model = mlp()
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError, match="'a' is quantized .*then call `quantize`"):
        shrink(model)


def test_torch_module_is_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="Torch-Pruning"):
        shrink(torch.nn.Linear(2, 2))


def test_units_that_are_off_by_chance_stay():
    # They are constant on the given data, and no zeros say that they always are.
    model = mlp()
    model.layers[0].bias.assign(np.full(8, -50.0))
    _, report = shrink(model)
    assert not report.is_smaller


def test_model_that_the_callback_pruned_by_channels(data):
    x = inputs = keras.Input((16,))
    x = layers.Dense(12, activation="relu", name="a")(x)
    x = layers.Dense(8, activation="tanh", name="b")(x)
    model = keras.Model(inputs, layers.Dense(3, activation="softmax", name="c")(x))
    compile_mlp(model)
    callback = PruningCallback(
        pattern="1xchannel", target_sparsity=0.5, allocation="uniform", begin_step=1,
        end_step=6,
    )  # fmt: skip
    model.fit(*data, epochs=3, verbose=0, callbacks=[callback])
    smaller, report = shrink(model)
    assert [x.units for x in smaller.layers[1:]] == [6, 4, 3]
    assert report.verification.relative_difference < 1e-6


@slow_where_compiled
def test_residual_width_of_mean_squares_goes_in_fit():
    model = model_of("residual_width_of_mean_squares")
    model.compile("sgd", "mse")
    tokens = np.random.default_rng(0).integers(0, 12, (16, 6))
    callback = PruningCallback(
        pattern="channel_groups", target_sparsity=0.6, frequency=2, verbose=False
    )
    widths = []
    for epochs in (1, 2):
        model.fit(
            tokens, np.ones((16, 6, 3)), batch_size=4, epochs=epochs, verbose=0,
            initial_epoch=epochs - 1, callbacks=[callback],
        )  # fmt: skip
        smaller, report = shrink(model, tokens)
        assert report.verification.relative_difference < 1e-5
        norm = smaller.get_layer("norm_0")
        widths.append(norm.scale.shape[0])
        assert norm.epsilon == pytest.approx(0.1 * 8 / widths[-1])
        wrong = norm.scale * math.sqrt(widths[-1] / 8)
        before = outputs_of(smaller, ((tokens,), {}))[0]
        norm.scale.assign(wrong)
        assert np.abs(outputs_of(smaller, ((tokens,), {}))[0] - before).max() > 1e-3
    assert 8 > widths[0] >= widths[1]


def test_columns_of_zeros_before_an_odd_activation():
    # `1xchannel` zeroes kernels only; activations of 0 need not be 0.
    x = inputs = keras.Input((5,))
    x = layers.Dense(6, activation="sigmoid", name="a")(x)
    model = keras.Model(inputs, layers.Dense(2, use_bias=False, name="b")(x))
    randomize(model)
    zero_outputs(model.get_layer("a"), [0, 1])
    smaller, report = shrink(model)
    assert smaller.get_layer("a").units == 4
    assert ops.any(smaller.get_layer("b").bias != 0)


def test_groups_that_a_layer_refuses_stay_and_the_report_says_why():
    x = inputs = keras.Input((5,))
    x = layers.SpectralNormalization(layers.Dense(8, name="a"), name="norm")(x)
    x = layers.Dense(6, activation="sigmoid", name="b")(x)
    model = keras.Model(inputs, layers.Dense(2, name="c")(x))
    randomize(model)
    # Constants of channels that stay must not be added to biases.
    zero_outputs(model.get_layer("norm").layer, [0, 3])
    zero_outputs(model.get_layer("b"), [1, 2])
    smaller, report = shrink(model)
    assert smaller.get_layer("norm").layer.units == 8
    assert smaller.get_layer("b").units == 4
    assert "holds variables of its sublayers" in row_of(report, "norm/a").skipped
    assert report.verification.relative_difference < 1e-6


class Single(layers.Layer):
    """Computes in float32 only."""

    def call(self, x):
        if keras.backend.standardize_dtype(x.dtype) != "float32":
            raise TypeError("only float32")
        return 2 * x


def test_model_that_does_not_run_in_float64_says_so():
    x = inputs = keras.Input((5,))
    x = Single()(layers.Dense(8, activation="sigmoid", name="a")(x))
    model = keras.Model(inputs, layers.Dense(2, name="b")(x))
    zero_inputs(model.get_layer("b"), [1, 2])
    _, report = shrink(model, np.ones((3, 5), "float32"))
    assert not report.is_smaller
    assert "does not run in float64" in row_of(report, "a").skipped

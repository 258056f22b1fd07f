"""Models run side by side: made inputs, differences, and states that stay."""

import re

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, set_kernel, value_of
from keras import layers, ops

from keras_pruner.comparison import check_copy, compare_models, sample_inputs


def on(*parts, shape=(4,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def first_inputs(model):
    (inputs,), kwargs = next(iter(sample_inputs(model)))
    assert kwargs == {}
    return inputs


# Made inputs.


def test_made_inputs_have_the_structure_shapes_and_types_of_the_model():
    inputs = {
        "image": keras.Input((None, None, 3), name="image"),
        "flags": keras.Input((2,), dtype="bool", name="flags"),
        "pixels": keras.Input((50,), dtype="uint8", name="pixels"),
        "half": keras.Input(batch_shape=(5, 2), dtype="float16", name="half"),
    }
    outputs = [layers.Flatten()(x) for x in list(inputs.values())[1:]]
    model = keras.Model(inputs, [ops.mean(inputs["image"]), *outputs])
    made = first_inputs(model)
    assert {
        name: (tuple(x.shape), keras.backend.standardize_dtype(x.dtype))
        for name, x in made.items()
    } == {
        "image": ((2, 8, 8, 3), "float32"),
        "flags": ((2, 2), "bool"),
        "pixels": ((2, 50), "uint8"),
        "half": ((5, 2), "float16"),
    }
    assert value_of(made["pixels"]).max() > 127
    assert -1 <= value_of(made["image"]).min() < 0 < value_of(made["image"]).max() < 1
    again = first_inputs(model)
    np.testing.assert_array_equal(value_of(again["image"]), value_of(made["image"]))


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
def test_made_indices_fit_the_smallest_table():
    inputs = [keras.Input((99,), dtype="int32"), keras.Input((99,), dtype="int64")]
    tables = layers.Embedding(3, 2)(inputs[0]), layers.Embedding(100, 2)(inputs[1])
    for made in first_inputs(keras.Model(inputs, list(tables))):
        assert set(value_of(made).ravel()) == {0, 1, 2}


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
def test_made_numbers_are_words_of_a_lookup_layer():
    model = on(layers.IntegerLookup(vocabulary=[7, 900]), shape=(20,), dtype="int64")
    assert {7, 900} <= set(value_of(first_inputs(model)).ravel())


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow has strings")
def test_made_strings_are_all_words_of_a_lookup_layer():
    lookup = layers.StringLookup(vocabulary=["red", "green"])
    made = first_inputs(on(lookup, shape=(5,), dtype="string"))
    words = {word.decode() for word in made.numpy().ravel()}
    assert words == {"red", "green", "[UNK]"}


class TwoInputs(keras.Model):
    """Says no types; takes an index and a number by names."""

    def __init__(self):
        super().__init__()
        self.table, self.head = layers.Embedding(3, 2), layers.Dense(2)

    def build(self, ids_shape, numbers_shape):
        self.table.build(ids_shape)
        self.head.build((*numbers_shape[:-1], numbers_shape[-1] + 2))

    def call(self, ids, numbers):
        return self.head(ops.concatenate([self.table(ids), numbers], axis=-1))


def test_subclassed_model_is_run_on_the_shapes_that_it_was_built_with():
    model, other = TwoInputs(), TwoInputs()
    for one in (model, other):
        one(ids=np.array([1, 2, 0]), numbers=np.ones((3, 4), "float32"))
    other.set_weights(model.get_weights())
    assert compare_models(model, other).difference == 0
    other.head.bias.assign([0, 0.5])
    assert compare_models(model, other).difference == pytest.approx(0.5)


def test_open_sizes_grow_until_the_model_runs():
    inputs = keras.Input((None, 1))
    x = layers.Conv1D(2, 5, strides=4)(inputs)
    model = keras.Model(inputs, layers.Conv1D(2, 5)(x))
    assert compare_models(model, copy_of(model)).difference == 0


# Differences.


def test_difference_is_the_largest_over_all_outputs():
    def model_of(*biases):
        inputs = keras.Input((2,))
        heads = [layers.Dense(1, kernel_initializer="zeros") for _ in biases]
        model = keras.Model(inputs, [head(inputs) for head in heads])
        for head, bias in zip(heads, biases, strict=True):
            head.bias.assign([bias])
        return model

    result = compare_models(model_of(4.0, 100.0), model_of(5.0, 100.5))
    assert (result.difference, result.relative_difference) == (1.0, 0.25)
    assert not result.is_equal and result.reason is None


@pytest.mark.parametrize(
    "output, is_equal",
    [
        (lambda x, step: x + 1e-6 * step, True),
        (lambda x, step: x + 1e-2 * step, False),
        (lambda x, step: ops.cast(x + 1e-2 * step, "float16"), False),
        (lambda x, step: ops.log(x - step * 2), False),  # NaN in one of them
        (lambda x, step: ops.log(x) + 0 * step, True),  # NaN in the same places
        (lambda x, step: ops.argmax(x + 1e-6 * step, axis=-1), True),
        (lambda x, step: ops.cast(10 * x, "int32") + step, False),
        (lambda x, step: (x > 0) if step else (x >= -2), False),
        (lambda x, step: x[:, : 4 - step], False),
    ],
)
def test_rounding_is_no_difference(output, is_equal):
    models = []
    for step in (0, 1):
        inputs = keras.Input((4,))
        models.append(keras.Model(inputs, output(inputs, step)))
    assert compare_models(*models).is_equal is is_equal


def test_models_in_16_bits_may_differ_by_more():
    models = []
    for bias in (1.0, 1.01):
        layer = layers.Dense(1, kernel_initializer="zeros", dtype="mixed_bfloat16")
        models.append(on(layer))
        layer.bias.assign([bias])
    result = compare_models(*models)
    assert result.is_equal and result.difference > 0 and result.tolerance == 2e-2


def test_check_names_the_first_layer_that_differs():
    model = build_mlp()
    copy = copy_of(model)
    set_kernel(copy.layers[0], np.ones((16, 8)))
    with pytest.raises(
        ValueError,
        match=r"computes other outputs.*differ by up to [\d.]+, which is [\d.]+ of the "
        r"largest output\. The first layer that differs is 'hidden' \(Dense\).*"
        "`inputs=`.*`check=False`",
    ):
        check_copy(model, copy)
    assert "call" not in vars(model.layers[0])


def test_given_inputs_are_used():
    model = on(layers.ReLU(), layers.Dense(1))
    copy = on(layers.ReLU(negative_slope=0.1), layers.Dense(1))
    copy.set_weights(model.get_weights())
    assert check_copy(model, copy, np.ones((3, 4), "float32")).difference == 0
    with pytest.raises(ValueError, match="'re_lu.*' .ReLU."):
        check_copy(model, copy, -np.ones((3, 4), "float32"))


def test_inputs_on_which_the_model_fails_are_an_error():
    model = build_mlp()
    with pytest.raises(ValueError, match="cannot run on the given `inputs`"):
        compare_models(model, model, np.ones((2, 3), "float32"))


class Fails(layers.Layer):
    """Fails on real values, or on those that a function picks."""

    def __init__(self, fails_on=lambda x: True, **kwargs):
        super().__init__(**kwargs)
        self.fails_on = fails_on

    def call(self, x):
        if not isinstance(x, keras.KerasTensor) and self.fails_on(value_of(x)):
            raise RuntimeError("not today")
        return x

    def compute_output_shape(self, shape):
        return shape


def test_copy_that_fails_is_an_error():
    with pytest.raises(ValueError, match=r"(?s)copy of .* fails on.*not today"):
        compare_models(on(layers.ReLU()), on(Fails()))


class Unsteady(layers.Layer):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def call(self, x):
        self.calls += 1
        return x + self.calls


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: on(Fails()), "fails on made inputs: give a batch .*not today"),
        (lambda: on(layers.Lambda(lambda x: x / 0.0)), "NaN or infinity"),
        (lambda: on(Unsteady()), "differ from call to call"),
        (lambda: keras.Sequential([layers.Dense(2)]), "does not say which inputs"),
    ],
)
def test_models_that_cannot_be_compared_are_named_in_the_log(make, reason, caplog):
    model = make()
    with caplog.at_level("WARNING"):
        result = check_copy(model, model)
    assert result.difference is None and not result.is_equal
    assert "was not compared with the original, because" in caplog.text
    assert re.search(reason, caplog.text)


def test_model_for_positive_numbers_is_compared():
    model = on(Fails(lambda x: x.min() < 0), layers.Dense(2))
    assert compare_models(model, model).difference == 0


# States.


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="Keras runs no stateful LSTM eagerly on it"
)
def test_no_state_changes():
    inputs = keras.Input(batch_shape=(2, 3, 4))
    x = layers.LSTM(4, stateful=True, name="lstm")(inputs)
    x = layers.Dropout(0.5)(x, training=True)
    model = keras.Model(inputs, layers.BatchNormalization()(x))
    model.predict(np.ones((2, 3, 4), "float32"), verbose=0)
    held = [*model.variables, *model.get_layer("lstm").states]
    before = [value_of(v).copy() for v in held]
    assert compare_models(model, model).difference == 0
    for variable, value in zip(held, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)

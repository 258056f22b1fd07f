"""`strip` and `wrap` keep all that layers hold, also outside of their weights."""

import os

import keras
import numpy as np
import pytest
from conftest import BACKEND, value_of
from keras import layers, ops

from keras_pruner import PrunedLayer, strip, wrap
from keras_pruner.backend import all_layers
from keras_pruner.kernels import find_wrapped

SPREAD = np.array([[1.0, -30.0], [9.0, 70.0], [4.0, 10.0]], "float32")
WORDS = np.array([["red"], ["blue"], ["blue"]])


def on(*parts, shape=(2,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def adapted(layer, data):
    layer.adapt(data)
    return layer


def outputs_of(model, x):
    return [value_of(y) for y in keras.tree.flatten(model(x, training=False))]


def assert_copies_compute_alike(model, x):
    expected = outputs_of(model, x)
    wrapped = wrap(model, {"target_sparsity": 0.5}, check=False)
    for copy in (strip(model, check=False), wrapped, strip(wrapped, check=False)):
        for made, wanted in zip(outputs_of(copy, x), expected, strict=True):
            np.testing.assert_allclose(made, wanted, atol=1e-6)
    return wrapped


# What Keras' own layers hold.


def nested_normalization():
    norm = adapted(layers.Normalization(), SPREAD)
    inner = on(layers.TimeDistributed(norm), layers.Dense(3), shape=(4, 2))
    inputs = keras.Input((4, 2))
    return keras.Model(inputs, layers.Dense(2)(inner(inputs)))


@pytest.mark.parametrize(
    "make, x",
    [
        (lambda: on(adapted(layers.Normalization(), SPREAD)), SPREAD),
        (lambda: on(layers.Normalization(mean=3.0, variance=2.0)), SPREAD),
        (nested_normalization, np.stack([SPREAD[[0, 1, 2, 0]]] * 2)),
        (
            lambda: on(
                adapted(layers.Discretization(num_bins=3), SPREAD[:, :1]),
                layers.CategoryEncoding(3, output_mode="multi_hot"),
                shape=(1,),
            ),
            SPREAD[:, 1:],
        ),
    ],
)
def test_adapted_statistics_are_kept(make, x):
    model = make()
    model = keras.Sequential([model, layers.Dense(3)])
    model(x)
    assert_copies_compute_alike(model, x)


@pytest.mark.skipif(BACKEND == "torch", reason="lookups are TensorFlow's")
@pytest.mark.parametrize("mode", ["one_hot", "multi_hot", "tf_idf"])
def test_numbers_of_a_lookup_are_kept(mode):
    numbers = np.array([[5], [900], [900]])
    lookup = adapted(layers.IntegerLookup(output_mode=mode, max_tokens=9), numbers)
    model = on(lookup, layers.Dense(3), shape=(1,), dtype="int32")
    assert_copies_compute_alike(model, np.array([[5], [900], [3]], "int32"))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow has strings")
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.StringLookup(output_mode="one_hot"),
        lambda: layers.StringLookup(output_mode="tf_idf"),
        lambda: layers.TextVectorization(output_mode="multi_hot", max_tokens=10),
        lambda: layers.TextVectorization(output_mode="tf_idf", split="character"),
    ],
)
def test_vocabularies_are_kept(make):
    layer = make()
    text = isinstance(layer, layers.TextVectorization)
    layer.adapt(WORDS[:, 0] if text else WORDS)
    model = on(layer, layers.Dense(3), shape=(1,), dtype="string")
    x = ops.convert_to_tensor(WORDS)
    wrapped = assert_copies_compute_alike(model, x)
    assert wrapped.layers[0].get_vocabulary() == layer.get_vocabulary()


# What layers in user code hold.


class Scaled(layers.Layer):
    """Divides by a number that only its own methods save."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.divisor = None

    def call(self, x):
        return x / (self.divisor or 1.0)


class ByVariables(Scaled):
    def save_own_variables(self, store):
        store["divisor"] = np.array(self.divisor)

    def load_own_variables(self, store):
        self.divisor = float(store["divisor"][()])


class ByAssets(Scaled):
    def save_assets(self, folder):
        with open(os.path.join(folder, "divisor.txt"), "w") as file:
            file.write(str(self.divisor))

    def load_assets(self, folder):
        with open(os.path.join(folder, "divisor.txt")) as file:
            self.divisor = float(file.read())


class Derived(Scaled):
    """Has its number in a weight, and derives from it what it computes with."""

    def build(self, shape):
        self.held = self.add_weight(shape=(), trainable=False, initializer="ones")

    def finalize_state(self):
        self.divisor = float(value_of(self.held))


@pytest.mark.parametrize("layer_class", [ByVariables, ByAssets, Derived])
@pytest.mark.parametrize("outer", [lambda x: x, layers.TimeDistributed])
def test_state_of_layers_in_user_code_is_kept(layer_class, outer):
    layer = layer_class()
    model = on(outer(layer), layers.Dense(3), shape=(4, 2))
    layer.divisor = 8.0
    if layer_class is Derived:
        layer.held.assign(8.0)
    x = np.ones((2, 4, 2), "float32")
    assert_copies_compute_alike(model, x)


def test_hooks_do_not_undo_masks():
    class Careful(layers.Dense):
        def load_own_variables(self, store):
            super().load_own_variables(store)
            self.loaded = True

    model = on(PrunedLayer(Careful(2)))
    wrapper = model.layers[0]
    wrapper.mask_of(wrapper.layer.kernel).assign(np.eye(2, dtype=bool))
    dense = strip(model).layers[0]
    assert dense.loaded
    np.testing.assert_array_equal(value_of(dense.kernel) != 0, np.eye(2))


def test_state_that_cannot_be_handed_over_is_an_error():
    class Broken(layers.Dense):
        def load_own_variables(self, store):
            raise KeyError("scale")

    with pytest.raises(ValueError, match=r"\(Broken\) cannot hand its state over.*sca"):
        strip(on(Broken(2, name="broken")))


# Quantized layers and adapters.


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
@pytest.mark.slow
def test_quantized_layers_are_kept(mode):
    inputs = keras.Input((3, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(4)(x))
    model.quantize(mode)
    plain = strip(model)
    for old, new in zip(model.variables, plain.variables, strict=True):
        assert old.shape == new.shape or mode == "float8"
    assert plain.layers[-1].quantization_mode == mode
    (part,) = (x for x in all_layers(plain) if x.name == "query")
    assert part.quantization_mode == mode
    x = np.random.default_rng(0).random((2, 3, 8)).astype("float32")
    np.testing.assert_array_equal(outputs_of(plain, x), outputs_of(model, x))


def test_adapters_are_kept_and_not_merged():
    model = on(layers.Dense(4), layers.Dense(3))
    model.layers[0].enable_lora(2)
    model.layers[0].lora_kernel_b.assign(np.ones((2, 4)))
    plain = strip(model)
    for old, new in zip(model.variables, plain.variables, strict=True):
        np.testing.assert_array_equal(value_of(old), value_of(new))
        assert old.trainable == new.trainable


# States, flags, types and names.


def test_seeds_are_kept_and_states_of_recurrent_layers_begin_at_zero():
    """As when Keras loads a file of the model."""
    inputs = keras.Input(batch_shape=(2, 3, 4))
    lstm = layers.LSTM(4, stateful=True, name="lstm", dropout=0.5, seed=3)
    model = keras.Model(inputs, layers.Dense(2)(lstm(inputs)))
    model(np.ones((2, 3, 4), "float32"), training=True)
    plain = strip(model)
    states = [value_of(v) for v in plain.get_layer("lstm").states]
    assert not any(state.any() for state in states)
    assert all(value_of(state).any() for state in lstm.states)
    for old, new in zip(model.variables, plain.variables, strict=True):
        np.testing.assert_array_equal(value_of(old), value_of(new))


def test_flags_set_after_construction_are_kept():
    inner = on(layers.Dense(2, name="free"), layers.BatchNormalization(), shape=(4, 6))
    inputs = keras.Input((4, 6))
    attention = layers.MultiHeadAttention(2, 3)
    model = keras.Model(inputs, inner(attention(inputs, inputs)))
    attention.query_dense.trainable = False
    attention.key_dense.kernel.trainable = False
    inner.trainable = False
    inner.layers[0].trainable = True
    expected = {v.path.split("/", 1)[-1]: v.trainable for v in model.variables}
    assert len(set(expected.values())) == 2
    plain = strip(wrap(model, {"layer_types": ["Dense"]}))
    for copy in (strip(model), plain):
        for old, new in zip(model.variables, copy.variables, strict=True):
            assert old.trainable == new.trainable, old.path
        assert len(copy.trainable_variables) == len(model.trainable_variables)
    kept = {x.name: x.trainable for x in all_layers(plain)}
    assert (kept["query"], kept["value"], kept[inner.name]) == (False, True, False)
    assert kept["free"] is True


def test_policies_of_layers_and_models_are_kept():
    policies = keras.dtype_policies.DTypePolicyMap("mixed_bfloat16")
    policies["model/last"] = "float32"
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = keras.Sequential(
        [
            keras.Input((2,)),
            layers.Dense(3, name="first", dtype=policies),
            layers.Dense(3, name="last", dtype=policies),
        ],
        name="model",
    )
    keras.config.set_dtype_policy("float32")
    plain = strip(model)
    assert plain.dtype_policy.name == "mixed_bfloat16"
    dtypes = [layer.compute_dtype for layer in plain.layers]
    assert dtypes == [layer.compute_dtype for layer in model.layers]
    assert dtypes == ["bfloat16", "float32"]


def test_inputs_keep_their_names_and_may_be_left_out():
    class Maybe(layers.Layer):
        def call(self, x, y=None):
            return x if y is None else x + y

        def compute_output_shape(self, x_shape, y_shape=None):
            return x_shape

    first = keras.Input((2,))
    second = keras.Input((2,), name="second", optional=True)
    model = keras.Model([first, second], layers.Dense(2)(Maybe()(first, second)))
    x = [np.ones((1, 2), "float32"), None]
    names = [layer.name for layer in model.layers]
    plain = strip(model)
    assert [layer.name for layer in plain.layers] == names
    np.testing.assert_array_equal(outputs_of(plain, x), outputs_of(model, x))


# Classes and functions that nobody registered.


def scaled_by(factor):
    def relu(x):
        return factor * x

    return relu


def test_functions_need_no_registration():
    factor = 3.0
    activations = [lambda x: ops.relu(x) * factor, scaled_by(2.0), "relu"]
    activations += [scaled_by(5.0), scaled_by(-7.0)]
    model = on(
        *(layers.Dense(3, activation=activation) for activation in activations),
        layers.Lambda(lambda x: x * factor + 1),
        layers.Activation(activations[1]),
        layers.Dense(2, kernel_regularizer=lambda w: 0.1 * ops.sum(ops.square(w))),
    )
    names = [getattr(f, "__name__", f) for f in activations]
    wrapped = assert_copies_compute_alike(model, SPREAD)
    copies = [layer.layer for layer in find_wrapped(wrapped)][:5]
    for layer, copy in zip(model.layers[:5], copies, strict=True):
        assert layer.activation is copy.activation
    assert names == ["<lambda>", "relu", "relu", "relu", "relu"]
    assert [getattr(f, "__name__", f) for f in activations] == names
    plain = strip(model)
    np.testing.assert_allclose(value_of(plain.losses[0]), value_of(model.losses[0]))


def test_initializers_regularizers_and_constraints_need_no_registration():
    class Ones(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None):
            return ops.ones(shape, dtype)

    class Sum(keras.regularizers.Regularizer):
        def __call__(self, x):
            return ops.sum(x)

        def get_config(self):
            return {}

    class Same(keras.constraints.Constraint):
        def __call__(self, x):
            return x

    model = on(
        layers.Dense(
            3,
            kernel_initializer=Ones(),
            kernel_regularizer=Sum(),
            kernel_constraint=Same(),
        )
    )
    dense = strip(model).layers[0]
    assert type(dense.kernel_initializer) is Ones
    assert type(dense.kernel.regularizer) is Sum
    assert type(dense.kernel.constraint) is Same


def test_objects_that_configs_cannot_name_are_shared():
    class Odd:
        def __call__(self, x):
            return -x

    model = on(layers.Dense(2, activation=Odd()))
    assert_copies_compute_alike(model, SPREAD)
    assert strip(model).layers[-1].activation is model.layers[-1].activation


# Classes of models.


def test_sequential_model_with_a_call_of_its_own_keeps_it():
    class Twice(keras.Sequential):
        def call(self, x, training=None, mask=None):
            return 2 * super().call(x, training=training)

    model = Twice([keras.Input((2,)), layers.Dense(3)])
    plain = strip(model)
    assert type(plain) is Twice
    with pytest.raises(ValueError, match="subclassed model.*PruningCallback"):
        wrap(model)
    outer = on(model, layers.Dense(2))
    wrapped = assert_copies_compute_alike(outer, SPREAD)
    assert len(find_wrapped(wrapped)) == 2


def test_parts_of_training_need_no_names_of_their_own():
    class Same(keras.optimizers.SGD):
        pass

    optimizer = Same()

    class Same(layers.Dense):
        pass

    model = on(Same(2))
    model.compile(optimizer, "mse")
    assert type(strip(model).layers[0]) is Same

"""Models of every make: pruned in `fit`, saved, loaded, stripped, and wrapped."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, value_of
from contracts import eager_updates
from keras import layers, ops

from keras_pruner import PrunedLayer, PruningCallback, report, strip, wrap
from keras_pruner.kernels import find_kernels, find_wrapped

PACKAGE = "keras_pruner_test_models"
TARGET = 0.75


def outputs_of(model, x):
    return [value_of(y) for y in keras.tree.flatten(model(x, training=False))]


def assert_same_outputs(model, expected, x):
    for made, wanted in zip(outputs_of(model, x), expected, strict=True):
        np.testing.assert_allclose(made, wanted, atol=1e-6)


def prune(model, x, y, loss="mse", **settings):
    """Trains two epochs of two steps; returns the callback after checking its zeros."""
    if not model.compiled:
        model.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    callback = PruningCallback(target_sparsity=TARGET, verbose=False, **settings)
    with eager_updates():
        model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[callback])
    (pruner,) = callback.pruners
    zeros = 0
    for kernel in pruner.kernels:
        mask = value_of(pruner.mask_variables[kernel.path])
        assert not value_of(kernel.variable)[~mask].any(), kernel.path
        zeros += np.sum(~mask)
    assert zeros == round(TARGET * pruner.num_weights)
    return callback


def random(*shape):
    return np.random.default_rng(0).random(shape).astype("float32")


# Subclassed models.


@keras.saving.register_keras_serializable(PACKAGE)
class Tower(keras.Model):
    """Layers in a list of lists and in a dict; several inputs and outputs."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.blocks = [
            [layers.Dense(units, "tanh"), layers.Dense(units, "tanh")],
            [layers.Dense(units, "tanh")],
        ]
        self.heads = {"a": layers.Dense(2), "b": layers.Dense(3)}

    def call(self, inputs):
        x = ops.concatenate([inputs["left"], inputs["right"]], axis=-1)
        for block in self.blocks:
            for layer in block:
                x = layer(x)
        return {name: head(x) for name, head in self.heads.items()}

    def get_config(self):
        return super().get_config() | {"units": self.units}


@keras.saving.register_keras_serializable(PACKAGE)
class OwnStep(keras.Model):
    """A subclassed model that trains by a step of its own."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, "tanh")
        self.head = layers.Dense(2)

    def call(self, x):
        return self.head(self.hidden(x))

    def get_config(self):
        return super().get_config() | {"units": self.units}

    # A squared loss, twice as steep as what the model is compiled with.
    if BACKEND == "jax":

        def train_step(self, state, data):
            import jax

            trainable, fixed, optimizer_variables, metrics = state
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)

            def loss_of(values):
                outputs, _ = self.stateless_call(values, fixed, x)
                return 2 * ops.mean(ops.square(outputs - y))

            loss, gradients = jax.value_and_grad(loss_of)(trainable)
            trainable, optimizer_variables = self.optimizer.stateless_apply(
                optimizer_variables, gradients, trainable
            )
            state = (trainable, fixed, optimizer_variables, metrics)
            return {"own_loss": loss}, state

    elif BACKEND == "tensorflow":

        def train_step(self, data):
            import tensorflow as tf

            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            with tf.GradientTape() as tape:
                loss = 2 * ops.mean(ops.square(self(x, training=True) - y))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"own_loss": loss}

    else:

        def train_step(self, data):
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            self.zero_grad()
            loss = 2 * ops.mean(ops.square(self(x, training=True) - y))
            loss.backward()
            gradients = [v.value.grad for v in self.trainable_variables]
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"own_loss": loss}


def tower_data():
    x = {"left": random(8, 3), "right": random(8, 2)}
    return Tower(), x, {"a": random(8, 2), "b": random(8, 3)}


def own_step_data():
    return OwnStep(), random(8, 5), random(8, 2)


@pytest.mark.parametrize("make", [tower_data, own_step_data])
def test_subclassed_model_is_pruned_saved_and_stripped(make, tmp_path):
    model, x, y = make()
    model(x)
    losses = {"a": "mse", "b": "mse"} if isinstance(y, dict) else "mse"
    callback = prune(model, x, y, losses)
    dense = [layer for layer in model._flatten_layers() if hasattr(layer, "kernel")]
    assert len(callback.pruners[0].kernels) == len(dense)
    expected = outputs_of(model, x)
    plain = strip(model)
    assert type(plain) is type(model)
    assert_same_outputs(plain, expected, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_outputs(loaded, expected, x)
    assert report(loaded).totals() == report(model).totals()


def test_train_step_of_ones_own_runs_under_the_callback():
    model, x, y = own_step_data()
    model(x)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
    callback = PruningCallback(target_sparsity=TARGET, verbose=False)
    with eager_updates():
        history = model.fit(x, y, epochs=3, verbose=0, callbacks=[callback])
    assert len(history.history["own_loss"]) == 3
    assert callback.pruners[0].global_step == 3
    assert callback.sparsity == TARGET


# Functional models.


def many_inputs_and_outputs():
    """Two inputs, two outputs, a shared layer, a nested model, operations of `ops`."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(4, "relu")(inner_input), name="inner")
    shared = layers.Dense(4, "tanh", name="shared")
    x = ops.add(shared(left), inner(shared(right)))
    x = x[:, :3] * 2.0
    outputs = {"a": layers.Dense(2, name="a")(x), "b": layers.Dense(3, name="b")(x)}
    return keras.Model({"left": left, "right": right}, outputs)


def test_functional_model_of_many_inputs_and_outputs(tmp_path):
    model = many_inputs_and_outputs()
    x = {"left": random(8, 4), "right": random(8, 4)}
    y = {"a": random(8, 2), "b": random(8, 3)}
    callback = prune(model, x, y, {"a": "mse", "b": "mse"})
    assert [kernel.path for kernel in callback.pruners[0].kernels] == [
        "shared/kernel",
        "inner/dense/kernel",
        "a/kernel",
        "b/kernel",
    ]
    expected = outputs_of(model, x)
    assert_same_outputs(strip(model), expected, x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_outputs(loaded, expected, x)
    wrapped = wrap(model)
    assert len(find_wrapped(wrapped)) == 4
    assert_same_outputs(wrapped, expected, x)
    plain = strip(wrapped)
    assert not find_wrapped(plain)
    assert_same_outputs(plain, expected, x)


@keras.saving.register_keras_serializable(PACKAGE)
class Backbone(keras.Model):
    """A Functional model with a config of its own, as those of KerasHub."""

    def __init__(self, units=4, **kwargs):
        inputs = keras.Input((5,))
        x = Nameless(units, name="nameless")(inputs)
        super().__init__(inputs, layers.Dense(3, name="last")(x), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}


class Nameless(layers.Dense):
    """A layer that cannot be made from its config."""

    def get_config(self):
        raise NotImplementedError("no config")


def test_functional_model_with_a_config_of_its_own_keeps_its_class():
    model, x = Backbone(6), random(8, 5)
    prune(model, x, random(8, 3))
    expected = outputs_of(model, x)
    plain = strip(model)
    assert type(plain) is Backbone and plain.units == 6
    assert_same_outputs(plain, expected, x)
    # Also inside of another model.
    inputs = keras.Input((5,))
    outer = keras.Model(inputs, layers.Dense(2)(model(inputs)))
    copy = strip(outer)
    assert type(copy.layers[1]) is Backbone
    assert_same_outputs(copy, outputs_of(outer, x), x)


def test_layers_without_a_config_are_copied_as_objects():
    model, x = Backbone(), random(4, 5)
    wrapped = wrap(model)
    assert len(find_wrapped(wrapped)) == 2
    assert_same_outputs(wrapped, outputs_of(model, x), x)


class Closed(layers.Layer):
    """Has no config, and a function that only its first object can use."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(3)
        self.run = lambda x: self.inner(x)

    def call(self, x):
        return self.run(x)

    def get_config(self):
        raise NotImplementedError("no config")


def test_wrap_names_the_layer_that_cannot_be_copied():
    model = keras.Sequential([layers.Input((5,)), Closed(name="closed")])
    with pytest.raises(ValueError, match=r"'closed' \(Closed\) cannot be copied.*"):
        wrap(model)


def test_layers_that_were_never_registered_are_copied():
    class Doubled(layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units = units
            self.inner = layers.Dense(units)

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return 2 * self.inner(x)

        def get_config(self):
            return super().get_config() | {"units": self.units}

    model = keras.Sequential(
        [layers.Input((5, 4)), layers.TimeDistributed(Doubled(3, name="doubled"))]
    )
    x = random(2, 5, 4)
    assert_same_outputs(strip(model), outputs_of(model, x), x)
    wrapped = wrap(model)
    assert len(find_wrapped(wrapped)) == 1
    assert_same_outputs(strip(wrapped), outputs_of(model, x), x)


def test_two_unregistered_classes_of_one_name_are_an_error():
    def scaled(factor):
        class Scale(layers.Layer):
            def call(self, x):
                return factor * x

        return Scale()

    model = keras.Sequential([layers.Input((4,)), scaled(2.0), scaled(3.0)])
    with pytest.raises(ValueError, match="two classes named Scale"):
        strip(model)


# Layers in wrappers, called in unusual ways.


class Decoder(layers.Layer):
    """Takes its inputs by names of its own; makes a part's weights when called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.query = layers.Dense(4, use_bias=False, name="query")
        self.memory = layers.Dense(4, use_bias=False, name="memory")

    def build(self, *shapes, **named_shapes):
        self.query.build((None, 4))

    def call(self, sequence, encoded=None):
        return self.query(sequence) + self.memory(encoded)


def test_wrapped_layer_takes_its_first_input_by_name():
    layer = PrunedLayer(Decoder(name="decoder"), {"target_sparsity": 0.5})
    x = random(2, 4)
    by_name = value_of(layer(sequence=x, encoded=x))
    assert sorted(layer.masks) == ["decoder/memory/kernel", "decoder/query/kernel"]
    np.testing.assert_allclose(value_of(layer(x, encoded=x)), by_name, atol=1e-6)
    assert not np.allclose(by_name, 0)


def test_wrapped_layer_masks_what_its_parts_make_when_called():
    inner = Decoder(name="decoder")
    inner.build((None, 4))
    layer = PrunedLayer(inner)
    assert list(layer.masks) == ["decoder/query/kernel"]
    layer(random(2, 4), encoded=random(2, 4))
    assert sorted(layer.masks) == ["decoder/memory/kernel", "decoder/query/kernel"]
    for mask in layer.masks.values():
        mask.assign(np.zeros((4, 4), bool))
    assert not value_of(layer(random(2, 4), encoded=random(2, 4))).any()


def test_wrapped_attention_takes_tensors_beside_other_arguments():
    inputs = keras.Input((5, 8))
    allowed = keras.Input((5, 5), dtype="bool")
    attention = layers.MultiHeadAttention(2, 3)
    arguments = {"attention_mask": allowed, "use_causal_mask": True}
    model = keras.Model([inputs, allowed], attention(inputs, inputs, **arguments))
    x = [random(2, 5, 8), random(2, 5, 5) > 0.2]
    expected = outputs_of(model, x)
    wrapped = wrap(model)
    assert len(find_wrapped(wrapped)) == 1
    assert_same_outputs(wrapped, expected, x)
    assert_same_outputs(strip(wrapped), expected, x)


def test_search_reaches_layers_in_layers_of_ones_own():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Decoder(name="decoder")(inputs, encoded=inputs))
    assert [kernel.path for kernel in find_kernels(model).kernels] == [
        "decoder/query/kernel",
        "decoder/memory/kernel",
    ]

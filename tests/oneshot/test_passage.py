import tempfile

import keras
import numpy as np
import pytest
from conftest import slow_where_compiled
from keras import layers, ops

from keras_pruner import prune_one_shot
from keras_pruner.oneshot.passage import Passage


def flat(values):
    return [ops.convert_to_numpy(value) for value in keras.tree.flatten(values)]


def nested():
    """A model within a model, called twice, beside operations without weights."""
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6, activation="relu"), layers.Dense(6)]
    )
    first, second = keras.Input((6,), name="first"), keras.Input((6,), name="second")
    x = ops.concatenate([inner(first), inner(second, training=False)], axis=-1)
    x = layers.Dropout(0.5)(layers.Dense(12, activation="relu")(x)) + x
    outputs = {"sum": layers.Dense(3)(x), "gate": ops.sigmoid(x)}
    model = keras.Model({"first": first, "second": second}, outputs)
    return model, {"first": samples(6), "second": samples(6, seed=1)}


def masked():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = layers.LSTM(4, return_sequences=True)(x)
    x = layers.MultiHeadAttention(2, 2)(x, x) + x
    x = layers.LSTM(4)(x)
    tokens = np.random.default_rng(0).integers(1, 9, (8, 5))
    tokens[:, 3:] = 0
    return keras.Model(inputs, layers.Dense(2)(x)), tokens.astype("int32")


def subclassed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first, self.second = layers.Dense(6), layers.Dense(2)

        def call(self, x):
            return self.second(ops.relu(self.first(x)))

    model, x = Own(), samples(6)
    model(x)
    return model, x


def samples(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(8, *shape)).astype("float32")


@pytest.fixture(params=[nested, masked, subclassed])
def model_and_batch(request):
    keras.utils.set_random_seed(0)
    return request.param()


def num_steps_of(passage):
    return len(passage._steps or ())


@pytest.mark.parametrize("max_memory", [0, 2**30])
def test_pass_from_any_step_gives_the_outputs_of_the_model(model_and_batch, max_memory):
    model, batch = model_and_batch
    expected = flat(model(batch, training=False))
    passage = Passage(model, [batch], max_memory)
    for step in range(num_steps_of(passage) + 1):
        found = flat(passage.run(0, keep_at=step))
        for left, right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(left, right)


def test_pass_takes_only_the_steps_that_are_left():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), *[layers.Dense(6) for _ in range(4)]])
    passage, called = Passage(model, [samples(6)], 2**30), []
    for layer in model.layers:
        own = layer.call

        def call(x, training=None, own=own, layer=layer):
            called.append(layer)
            return own(x)

        layer.call = call
    for layer in model.layers:
        passage.run(0, keep_at=passage.first_step([layer.kernel]))
    a, b, c, d = model.layers
    assert called == [a, b, c, d, a, b, c, d, b, c, d, c, d]


def test_pass_begins_at_the_inputs_again_for_an_earlier_step():
    model, batch = nested()
    passage = Passage(model, [batch], 2**30)
    last = passage.first_step([model.layers[-1].variables[0]])
    passage.run(0, keep_at=last)
    for variable in model.layers[2].variables:
        variable.assign(variable + 1)
    found = flat(passage.run(0, keep_at=1))
    for left, right in zip(found, flat(model(batch, training=False)), strict=True):
        np.testing.assert_array_equal(left, right)


def test_fork_keeps_its_activations():
    model, batch = nested()
    expected = flat(model(batch, training=False))
    passage = Passage(model, [batch], 2**30)
    step = num_steps_of(passage) // 2
    passage.run(0, keep_at=step)
    fork = passage.fork()
    passage.run(0, keep_at=step + 1)
    passage.forget()
    for left, right in zip(flat(fork.run(0, keep_at=step)), expected, strict=True):
        np.testing.assert_array_equal(left, right)


def test_files_hold_what_memory_does_not_and_are_deleted(
    monkeypatch, tmp_path, collect_garbage
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    model, batch = nested()
    passage = Passage(model, [batch, batch], max_memory=600)
    for number in range(2):
        passage.run(number, keep_at=3)
    assert 0 < passage.peak_memory <= 600 and passage.peak_disk > 0
    assert len(list(tmp_path.rglob("*.npz"))) == 1
    passage.forget()
    assert not list(tmp_path.rglob("*.npz"))
    assert list(tmp_path.iterdir())
    del passage
    collect_garbage()
    assert not list(tmp_path.iterdir())


@slow_where_compiled
def test_kept_activations_change_no_result(monkeypatch):
    model, batch = nested()
    kept, _ = prune_one_shot(model, batch, 0.6, verbose=False, batch_size=4)
    monkeypatch.setattr("keras_pruner.oneshot.passage.functional_steps", lambda m: None)
    again, _ = prune_one_shot(model, batch, 0.6, verbose=False, batch_size=4)
    for left, right in zip(kept.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


@slow_where_compiled
def test_variable_that_an_earlier_layer_reads_too_is_followed(monkeypatch):
    class Tied(layers.Layer):
        def __init__(self, other):
            super().__init__()
            self.other = other

        def build(self, shape):
            self.kernel = self.other.kernel

        def call(self, x):
            return ops.tanh(ops.matmul(x, self.other.kernel))

    keras.utils.set_random_seed(0)
    head, inputs = layers.Dense(6), keras.Input((6,))
    head.build((None, 6))
    x = layers.Dense(6, activation="relu")(Tied(head)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(head(x)))
    found, dense = [], model.get_weights()
    for steps in (None, lambda model: None):
        if steps:
            monkeypatch.setattr("keras_pruner.oneshot.passage.functional_steps", steps)
        model.set_weights(dense)
        prune_one_shot(model, samples(6), 0.5, verbose=False, in_place=True)
        found.append(model.get_weights())
    for left, right in zip(*found, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_model_with_a_call_of_its_own_is_run_as_a_whole():
    model, batch = nested()
    model.call = lambda inputs, training=None: inputs["first"]
    assert not Passage(model, [batch], 2**30).keeps_activations
    del model.call


def test_model_that_changes_its_outputs_is_run_as_a_whole():
    class Doubled(keras.Model):
        def __call__(self, *args, **kwargs):
            return 2 * super().__call__(*args, **kwargs)

    inputs = keras.Input((6,))
    model = Doubled(inputs, layers.Dense(6)(inputs))
    assert not Passage(model, [samples(6)], 2**30).keeps_activations

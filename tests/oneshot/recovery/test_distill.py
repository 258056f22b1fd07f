"""A pruned model learns the outputs of the dense one, and nothing else changes."""

import importlib

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import layers, ops

from keras_pruner import distill, wrap
from keras_pruner.oneshot import RECOVERIES, Distillation
from keras_pruner.oneshot.samples import Samples

# `distill` of the room is the function.
MODULE = importlib.import_module("keras_pruner.oneshot.recovery.distill")

QUICK = {"steps": 40, "learning_rate": 1e-2, "verbose": False}


def samples(size=64, features=6, seed=0):
    return np.random.default_rng(seed).normal(size=(size, features)).astype("float32")


def build(activation="softmax", seed=0):
    """A network of large weights, so that its outputs are far from even."""
    keras.utils.set_random_seed(seed)
    scale = keras.initializers.RandomNormal(stddev=0.7, seed=seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, "tanh", kernel_initializer=scale, name="hidden"),
            layers.Dense(4, activation, kernel_initializer=scale, name="head"),
        ]
    )


def pruned(model, share=0.4):
    """A copy whose kernels lost the smallest weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    prune(copy, share)
    return copy


def prune(model, share=0.4):
    for variable in model.weights:
        if variable.name in ("kernel", "embeddings"):
            value = value_of(variable).copy()
            value[np.abs(value) < np.quantile(np.abs(value), share)] = 0
            variable.assign(value)


def zeros_of(model):
    return [value_of(v) == 0 for v in model.weights if v.name == "kernel"]


def values_of(model):
    return [value_of(v).copy() for v in model.variables]


def outputs_of(model, x):
    return value_of(model(x, training=False)).astype("float64")


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax_divergence(p, q):
    return np.mean(np.sum(p * np.log(p / q), -1)), np.mean(p.argmax(-1) == q.argmax(-1))


def sigmoid_divergence(p, q):
    loss = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return loss.mean(), np.mean((p > 0.5) == (q > 0.5))


def squared_error(t, y):
    error = np.mean((y - t) ** 2) / np.mean(np.var(t, 0))
    return error, 1 - error


CASES = {
    "probabilities": ("softmax", None, softmax_divergence),
    "independent": ("sigmoid", None, sigmoid_divergence),
    "numbers": (None, None, squared_error),
    "logits": (
        None,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda t, y: softmax_divergence(softmax(t), softmax(y)),
    ),
    "independent logits": (
        None,
        keras.losses.BinaryCrossentropy(from_logits=True),
        lambda t, y: sigmoid_divergence(sigmoid(t), sigmoid(y)),
    ),
    "crossentropy of probabilities": (
        "softmax",
        "sparse_categorical_crossentropy",
        softmax_divergence,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_come_back_by_the_loss_that_fits_them(case):
    activation, compiled_loss, reference = CASES[case]
    dense, x = build(activation), samples()
    if compiled_loss is not None:
        dense.compile("sgd", compiled_loss)
    model = pruned(dense)
    zeros = zeros_of(model)
    before = reference(outputs_of(dense, x), outputs_of(model, x))
    report = distill(model, dense, x, **QUICK)
    after = reference(outputs_of(dense, x), outputs_of(model, x))
    assert after[0] < 0.5 * before[0]
    found = (report.loss_before, report.agreement_before)
    np.testing.assert_allclose(found, before, rtol=1e-3, atol=1e-6)
    found = (report.loss_after, report.agreement_after)
    np.testing.assert_allclose(found, after, rtol=1e-3, atol=1e-6)
    for old, new in zip(zeros, zeros_of(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert (report.steps, report.num_samples) == (40, 64)
    assert f"loss {before[0]:.3g} -> {after[0]:.3g}" in repr(report)


def test_temperature_and_a_chosen_loss():
    dense, x = build(None), samples()
    model = pruned(dense)
    report = distill(
        model, dense, x, loss="softmax", temperature=2.0, **QUICK | {"steps": 1}
    )
    expected, _ = softmax_divergence(
        softmax(outputs_of(dense, x) / 2), softmax(outputs_of(pruned(dense), x) / 2)
    )
    assert report.loss_before == pytest.approx(4 * expected, rel=1e-3)


def test_a_loss_of_your_own():
    dense, x = build(None), samples()
    model = pruned(dense)

    def largest_error(expected, outputs):
        return ops.max(ops.abs(expected - outputs), axis=-1)

    before = np.abs(outputs_of(dense, x) - outputs_of(model, x)).max(-1).mean()
    report = distill(model, dense, x, loss=largest_error, **QUICK)
    assert report.loss_before == pytest.approx(before, rel=1e-4)
    assert report.loss_after < 0.8 * before


def test_the_model_keeps_its_optimizer_and_stays_compiled():
    dense, x = build(), samples()
    model = pruned(dense)
    model.compile("adam", "kl_divergence", metrics=["accuracy"])
    model.fit(x, outputs_of(dense, x), epochs=1, verbose=0)
    prune(model)
    optimizer = model.optimizer
    before = [value_of(v).copy() for v in optimizer.variables]
    distill(model, dense, x, **QUICK)
    assert model.optimizer is optimizer and model.loss == "kl_divergence"
    for variable, value in zip(optimizer.variables, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)
    # Its compiled functions know the new weights.
    np.testing.assert_allclose(
        model.predict(x, verbose=0), outputs_of(model, x), atol=1e-6
    )
    model.fit(x, outputs_of(dense, x), epochs=1, verbose=0)


def test_statistics_dropout_and_frozen_layers_stay():
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, name="frozen"),
            layers.BatchNormalization(name="norm"),
            layers.Dropout(0.5),
            layers.Dense(4, kernel_regularizer=keras.regularizers.L2(10.0)),
        ]
    )
    dense.get_layer("norm").moving_mean.assign(np.full(16, 0.3))
    model = pruned(dense)
    for each in (dense, model):
        each.get_layer("frozen").trainable = False
    before = {v.path: value_of(v).copy() for v in model.variables}
    report = distill(model, dense, samples(), **QUICK)
    changed = {v.name for v in model.variables if (value_of(v) != before[v.path]).any()}
    assert changed == {"gamma", "beta", "kernel", "bias"}
    frozen = model.get_layer("frozen")
    assert not frozen.trainable
    np.testing.assert_array_equal(value_of(frozen.kernel), before[frozen.kernel.path])
    assert report.loss_after < 0.5 * report.loss_before


class Twin(keras.Model):
    def __init__(self):
        super().__init__()
        self.left, self.right = layers.Dense(8, "tanh"), layers.Dense(8, "tanh")
        self.number, self.classes = layers.Dense(1), layers.Dense(3, "softmax")

    def call(self, inputs):
        x = self.left(inputs["a"]) + self.right(inputs["b"])
        classes = self.classes(x)
        return {
            "index": ops.argmax(classes, axis=-1),
            "classes": classes,
            "number": self.number(x),
        }


def test_several_inputs_and_outputs_of_a_subclassed_model():
    inputs = {"a": samples(features=3), "b": samples(features=5, seed=1)}
    keras.utils.set_random_seed(0)
    dense, model = Twin(), Twin()
    for each in (dense, model):
        each(inputs)
    model.set_weights(dense.get_weights())
    prune(model)
    expected, found = (each(inputs) for each in (dense, model))
    arrays = [
        [value_of(outputs[name]).astype("float64") for outputs in (expected, found)]
        for name in ("classes", "number")
    ]
    loss = softmax_divergence(*arrays[0])[0] + squared_error(*arrays[1])[0]
    zeros = zeros_of(model)
    report = distill(model, dense, inputs, **QUICK)
    assert report.loss_before == pytest.approx(loss, rel=1e-3)
    assert report.loss_after < 0.5 * loss
    for old, new in zip(zeros, zeros_of(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_lists_of_inputs_and_of_outputs():
    a, b = keras.Input((6,)), keras.Input((6,))
    x = layers.Add()([layers.Dense(8, "tanh")(a), layers.Dense(8)(b)])
    outputs = [layers.Dense(3, "sigmoid")(x), layers.Dense(2)(x)]
    dense = keras.Model([a, b], outputs)
    model = pruned(dense)
    data = (samples(), samples(seed=1))
    losses = [
        sigmoid_divergence, squared_error,
    ]  # fmt: skip
    pairs = zip(dense(list(data)), model(list(data)), strict=True)
    expected = sum(
        loss(*(value_of(each).astype("float64") for each in pair))[0]
        for loss, pair in zip(losses, pairs, strict=True)
    )
    report = distill(model, dense, data, **QUICK)
    assert report.loss_before == pytest.approx(expected, rel=1e-3)
    assert report.loss_after < 0.5 * expected


class Partly(keras.Model):
    def __init__(self):
        super().__init__()
        self.used, self.unused = layers.Dense(4, "softmax"), layers.Dense(4)

    def build(self, shape):
        self.used.build(shape)
        self.unused.build(shape)

    def call(self, x):
        return self.used(x)


def test_layers_that_the_data_never_reaches_stay():
    dense, model = Partly(), Partly()
    for each in (dense, model):
        each.build((None, 6))
    model.set_weights(dense.get_weights())
    prune(model)
    before = [value_of(v).copy() for v in model.unused.variables]
    report = distill(model, dense, samples(), **QUICK)
    assert report.loss_after < report.loss_before
    for variable, value in zip(model.unused.variables, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)


def test_states_of_recurrent_layers_stay():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(16, 5, 3))
    x = layers.GRU(8, stateful=True, name="gru")(inputs)
    dense = keras.Model(inputs, layers.Dense(3, "softmax")(x))
    model = pruned(dense)
    (state,) = model.get_layer("gru").states
    state.assign(np.full((16, 8), 0.5))
    x = np.random.default_rng(0).normal(size=(16, 5, 3)).astype("float32")
    report = distill(model, dense, x, **QUICK | {"batch_size": 16, "steps": 8})
    assert report.loss_after < 0.8 * report.loss_before
    assert (value_of(state) == 0.5).all()
    assert model.get_layer("gru").stateful


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_low_precision(policy):
    keras.config.set_dtype_policy(policy)
    dense, x = build(), samples()
    model = pruned(dense)
    zeros = zeros_of(model)
    report = distill(model, dense, x, **QUICK)
    assert report.loss_after < 0.5 * report.loss_before
    for old, new in zip(zeros, zeros_of(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_masks_of_wrapped_layers_stay():
    dense = build()
    model = wrap(dense, target_sparsity=0.6)
    for layer in model.layers:
        for variable in layer.trainable_variables:
            if variable.name == "kernel":
                value = value_of(variable)
                mask = np.abs(value) > np.quantile(np.abs(value), 0.6)
                layer.mask_of(variable).assign(mask)
    before = [
        value_of(layer.mask_of(layer.layer.kernel)).copy() for layer in model.layers
    ]
    report = distill(model, dense, samples(), **QUICK)
    assert report.loss_after < 0.5 * report.loss_before
    for layer, mask in zip(model.layers, before, strict=True):
        np.testing.assert_array_equal(value_of(layer.mask_of(layer.layer.kernel)), mask)
        assert (value_of(ops.convert_to_tensor(layer.layer.kernel))[~mask] == 0).all()


def test_zeros_of_embeddings_stay(caplog):
    keras.utils.set_random_seed(0)
    dense = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(9, 8),
            layers.GlobalAveragePooling1D(),
            layers.Dense(3, "softmax"),
        ]
    )
    model = pruned(dense)
    table = model.layers[0].embeddings
    zeros = value_of(table) == 0
    x = np.random.default_rng(0).integers(0, 9, (64, 5)).astype("int32")
    distill(model, dense, x, **QUICK)
    np.testing.assert_array_equal(value_of(table) == 0, zeros)
    assert zeros.any()
    # `fit` does not warn that an optimizer would lose them.
    assert caplog.text == ""


def test_a_dense_model_and_a_function_as_teacher():
    model, x = build(), samples()
    report = distill(
        model, lambda x: ops.softmax(x[:, :4]), x, **QUICK | {"loss": "softmax"}
    )
    assert report.loss_after < 0.5 * report.loss_before


def test_equal_seeds_give_equal_weights():
    dense, x = build(), samples()
    models = [pruned(dense) for _ in range(3)]
    for seed, model in zip((1, 1, 2), models, strict=True):
        distill(model, dense, x, seed=seed, num_samples=24, **QUICK | {"steps": 3})
    one, same, other = (model.get_weights() for model in models)
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_sample_is_used_before_one_comes_again():
    made = Samples([np.arange(5), np.arange(5, 10)])
    batches = MODULE._Batches(made, [np.arange(10) + 0.5], 4, steps=5, seed=0)
    assert len(batches) == 5
    seen = np.concatenate([batches[i][0] for i in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(seen[:10]) != list(seen[10:])
    for inputs, (expected,) in (batches[i] for i in range(5)):
        np.testing.assert_array_equal(expected, inputs + 0.5)
    # A batch has no sample twice.
    batches = MODULE._Batches(made, [np.arange(10)], 32, steps=3, seed=0)
    assert all(sorted(batches[i][0]) == list(range(10)) for i in range(3))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_model_unchanged(error, monkeypatch):

    def fail(callback, batch, logs=None):
        if batch == 2:
            raise error("stop")

    monkeypatch.setattr(MODULE._EachStep, "on_train_batch_end", fail)
    dense, x = build(), samples()
    model = pruned(dense)
    model.compile("adam", "kl_divergence")
    optimizer, before = model.optimizer, values_of(model)
    with pytest.raises(error, match="stop"):
        distill(model, dense, x, **QUICK)
    for old, new in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.optimizer is optimizer
    assert all(v.trainable for v in model.weights)
    monkeypatch.undo()
    report = distill(model, dense, x, **QUICK)
    assert report.loss_after < 0.5 * report.loss_before


def test_a_loss_that_rises_puts_the_weights_back(caplog):
    dense, x = build(), samples()
    model = pruned(dense)
    before = values_of(model)
    report = distill(model, dense, x, **QUICK | {"learning_rate": 50.0})
    assert report.loss_after > report.loss_before and not report.is_kept
    for old, new in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(old, new)
    assert "weights were put back" in repr(report)
    assert "Lower `learning_rate`" in caplog.text


def test_a_loss_that_is_not_finite_is_an_error():
    dense, x = build(), samples()
    model = pruned(dense)
    before = values_of(model)

    def explodes(expected, outputs):
        return ops.exp(1e4 * ops.sum(outputs, axis=-1))

    with pytest.raises(ValueError, match="not finite at step 1.*`learning_rate`"):
        distill(model, dense, x, loss=explodes, **QUICK)
    for old, new in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"steps": 0}, "`steps`"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"learning_rate": 0}, "`learning_rate`"),
        ({"temperature": -1}, "`temperature`"),
        ({"loss": "softmx"}, "Did you mean 'softmax'"),
        ({"data": np.zeros((4, 5))}, "does not fit"),
        ({"teacher": lambda x: x}, r"returns \(64, 4\).*the teacher \(64, 6\)"),
        ({"teacher": lambda x: ops.argmax(x, -1)}, "the teacher none"),
        ({"teacher": lambda x: x[:, :4] / 0}, "NaN or infinite"),
        ({"teacher": keras.Sequential([layers.Dense(4)])}, "is not built"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    model = build()
    before = values_of(model)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        distill(
            **{"model": model, "teacher": model, "data": samples()} | QUICK | settings
        )
    for old, new in zip(before, values_of(model), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_frozen_model_is_refused():
    model = build()
    model.trainable = False
    with pytest.raises(ValueError, match="no trainable variables"):
        distill(model, model, samples(), **QUICK)


def test_settings_survive_the_registry():
    recovery = Distillation(steps=7, learning_rate=0.5, loss="mse", temperature=3)
    assert RECOVERIES.get(RECOVERIES.serialize(recovery)) == recovery
    assert RECOVERIES.get("distill") == Distillation()

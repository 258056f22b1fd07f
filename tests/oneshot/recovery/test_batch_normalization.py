"""Statistics of BatchNormalization layers equal those that NumPy finds."""

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import layers

from keras_pruner import reestimate_batch_normalization


def samples(*shape, seed=0):
    generator = np.random.default_rng(seed)
    return (3 + generator.normal(size=shape) * 2).astype("float32")


def values_of(model):
    return {id(v): value_of(v).copy() for v in model.variables}


def statistics_of(layer):
    return value_of(layer.moving_mean), value_of(layer.moving_variance)


def assert_statistics(layer, rows):
    mean, variance = statistics_of(layer)
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, rows.var(0), rtol=1e-4, atol=1e-5)


def build():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((5, 5, 2)),
            layers.Conv2D(6, 3, name="conv"),
            layers.BatchNormalization(name="first"),
            layers.ReLU(),
            layers.Dropout(0.9),
            layers.Flatten(),
            layers.Dense(4, name="dense"),
            layers.BatchNormalization(name="second"),
        ]
    )
    for name in ("first", "second"):
        layer = model.get_layer(name)
        size = layer.gamma.shape[0]
        layer.gamma.assign(np.linspace(0.5, 2, size))
        layer.beta.assign(np.linspace(-1, 1, size))
    return model


@pytest.mark.parametrize("batch_size", [40, 8, None])
def test_two_layers_against_numpy(batch_size):
    model, x = build(), samples(40, 5, 5, 2)
    before = values_of(model)
    report = reestimate_batch_normalization(model, x, batch_size=batch_size)
    first, second = model.get_layer("first"), model.get_layer("second")
    conv, dense = model.get_layer("conv"), model.get_layer("dense")
    kernel, rows = value_of(conv.kernel).astype("float64"), np.zeros((40, 3, 3, 6))
    for i in range(3):
        for j in range(3):
            window = x[:, i : i + 3, j : j + 3].astype("float64")
            rows[:, i, j] = np.tensordot(window, kernel, 3)
    assert_statistics(first, rows.reshape(-1, 6))
    # The second layer sees what the first returns by its new statistics.
    scaled = (rows - rows.mean((0, 1, 2))) / np.sqrt(
        rows.var((0, 1, 2)) + first.epsilon
    )
    scaled = np.maximum(scaled * value_of(first.gamma) + value_of(first.beta), 0)
    assert_statistics(second, scaled.reshape(40, -1) @ value_of(dense.kernel))
    statistics = {
        id(v) for each in (first, second) for v in each.non_trainable_variables
    }
    for variable in model.variables:
        is_same = (value_of(variable) == before[id(variable)]).all()
        assert is_same == (id(variable) not in statistics)
    assert report.layers == (first.path, second.path)
    assert report.num_samples == 40 and not report.skipped
    shifts = [
        np.abs(r.mean(0) - before[id(each.moving_mean)]) / np.sqrt(r.var(0) + 1e-3)
        for each, r in (
            (first, rows.reshape(-1, 6)),
            (second, scaled.reshape(40, -1) @ value_of(dense.kernel)),
        )
    ]
    shift = np.concatenate(shifts).mean()
    assert report.mean_shift == pytest.approx(shift, rel=1e-3)
    assert "of 2 layers from 40 samples, in" in repr(report)


def test_features_may_lie_on_any_axis():
    model = keras.Sequential([keras.Input((3, 4)), layers.BatchNormalization(axis=1)])
    x = samples(16, 3, 4)
    reestimate_batch_normalization(model, x, batch_size=4)
    assert_statistics(model.layers[0], x.transpose(0, 2, 1).reshape(-1, 3))


def test_a_large_mean_costs_no_digits():
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization()])
    x = 1e4 + samples(64, 2)
    reestimate_batch_normalization(model, x, batch_size=8)
    mean, variance = statistics_of(model.layers[0])
    rows = x.astype("float64")
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance, rows.var(0), rtol=1e-5)


def test_masked_steps_do_not_count():
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            layers.Masking(),
            layers.TimeDistributed(layers.BatchNormalization(name="inner")),
            layers.BatchNormalization(name="outer"),
        ]
    )
    x = samples(24, 4, 3)
    kept = np.random.default_rng(1).random((24, 4)) < 0.6
    kept[8:16, 0] = False  # A step that a whole batch masks.
    x[~kept] = 0
    reestimate_batch_normalization(model, x, batch_size=8)
    inner, outer = model.layers[1].layer, model.layers[2]
    assert_statistics(inner, x[kept].astype("float64"))
    rows = x[kept].astype("float64")
    rows = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + inner.epsilon)
    assert_statistics(outer, rows)


def test_a_shared_layer_counts_all_of_its_calls():
    shared, a, b = layers.BatchNormalization(), keras.Input((2,)), keras.Input((2,))
    model = keras.Model([a, b], layers.Add()([shared(a), shared(b)]))
    x, z = samples(20, 2), 5 * samples(20, 2, seed=1)
    reestimate_batch_normalization(model, (x, z), batch_size=10)
    assert_statistics(shared, np.concatenate([x, z]).astype("float64"))


def test_renormalization_has_the_same_statistics():
    layer = layers.BatchNormalization(renorm=True)
    model = keras.Sequential([keras.Input((2,)), layer])
    x = samples(20, 2)
    reestimate_batch_normalization(model, x)
    assert_statistics(layer, x.astype("float64"))
    deviation = np.sqrt(x.astype("float64").var(0) + layer.epsilon)
    for variable in (layer.moving_stddev, layer.renorm_stddev):
        np.testing.assert_allclose(value_of(variable), deviation, rtol=1e-5)
    np.testing.assert_allclose(value_of(layer.renorm_mean), x.mean(0), rtol=1e-5)


class Doubled(layers.BatchNormalization):
    """A layer whose statistics are those of twice its inputs."""

    def call(self, x, training=None):
        return super().call(2 * x, training=training)


def test_a_subclass_with_a_call_of_its_own():
    model = keras.Sequential([keras.Input((2,)), Doubled()])
    x = samples(20, 2)
    reestimate_batch_normalization(model, x, batch_size=10)
    assert_statistics(model.layers[0], 2 * x.astype("float64"))


class Unused(keras.Model):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.frozen = (
            layers.BatchNormalization(name=name)
            for name in ("used", "unused", "frozen")
        )
        self.frozen.trainable = False

    def build(self, shape):
        for layer in (self.used, self.unused, self.frozen):
            layer.build(shape)

    def call(self, x, training=False):
        return self.frozen(self.used(x, training=training), training=training)


def test_layers_that_keep_their_statistics_are_told():
    model, x = Unused(), samples(20, 2)
    model.build((None, 2))
    report = reestimate_batch_normalization(model, x)
    assert_statistics(model.used, x.astype("float64"))
    for layer in (model.unused, model.frozen):
        assert (statistics_of(layer)[0] == 0).all()
    assert report.layers == (model.used.path,)
    assert "never reaches" in report.skipped[model.unused.path]
    assert "frozen" in report.skipped[model.frozen.path]
    assert "2 skipped" in repr(report)


def test_inputs_that_are_not_finite_name_the_layer_and_change_nothing():
    model = build()
    model.get_layer("dense").bias.assign([0, np.inf, 0, 0])
    before = values_of(model)
    with pytest.raises(ValueError, match="'second' is NaN or infinite"):
        reestimate_batch_normalization(model, samples(16, 5, 5, 2))
    for variable in model.variables:
        np.testing.assert_array_equal(value_of(variable), before[id(variable)])
    assert not any("call" in vars(layer) for layer in model.layers)


@pytest.mark.parametrize("frozen", [False, True])
def test_a_model_without_such_layers_is_refused(frozen):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(2)])
    if frozen:
        model.add(layers.BatchNormalization(trainable=False))
    with pytest.raises(ValueError, match="no BatchNormalization layer"):
        reestimate_batch_normalization(model, samples(8, 2))


def test_a_deep_model_runs_each_layer_as_often_as_a_shallow_one():
    calls = []

    class Counted(layers.Dense):
        def call(self, inputs):
            calls.append(self.name)
            return super().call(inputs)

    inputs = keras.Input((4,))
    x = Counted(4, name="first")(inputs)
    for _ in range(6):
        x = layers.BatchNormalization()(layers.Dense(4)(x))
    model = keras.Model(inputs, x)
    calls.clear()
    reestimate_batch_normalization(model, np.random.default_rng(0).normal(size=(8, 4)))
    # To count calls, to check that steps give the model's outputs (two), and for the
    # first statistics. It was one pass more for each of six layers.
    assert len(calls) <= 4

"""`suggest`: a config for training that meets a target."""

import keras
import numpy as np
import pytest
from conftest import slow_where_compiled
from keras import layers, ops

from keras_pruner import PruningCallback, shrink, suggest

RNG = np.random.default_rng(0)
X = RNG.normal(size=(256, 6)).astype("float32")
Y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)


def mlp():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(24, activation="relu", name="first"),
            layers.Dense(16, activation="relu", name="second"),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


@slow_where_compiled
@pytest.mark.parametrize("data", [None, X], ids=["norms", "data"])
def test_training_by_the_config_gives_the_model_that_was_promised(data):
    model = mlp()
    suggestion = suggest(model, data, flops=0.5, verbose=False)
    before, promised = suggestion.cost
    assert promised <= 0.5 * before
    kept = {row.path: row.kept for row in suggestion.groups}
    model.fit(
        X, Y, epochs=10, verbose=0,
        callbacks=[PruningCallback(suggestion.config, verbose=False)],
    )  # fmt: skip
    smaller, _ = shrink(model, X[:8])
    for name in ("first", "second"):
        assert smaller.get_layer(name).units == kept[name]


def test_the_plan_can_be_read_and_changed():
    suggestion = suggest(mlp(), parameters=0.6, verbose=False)
    shares = suggestion.config.allocation.sparsities
    assert set(shares) <= {"first", "second"}
    assert suggestion.config.pattern.cost == "parameters"
    text = str(suggestion)
    assert "first" in text and "PruningCallback(suggestion.config)" in text
    saved = {row.path: row.saved for row in suggestion.groups}
    assert 0 < sum(saved.values()) < 1
    config = suggestion.config.to_dict()
    config["allocation"] = {"first": 0.25, "second": 0.0}
    PruningCallback(config)


def test_repeated_blocks_keep_equally_many_channels():
    x = inputs = keras.Input((6,))
    for name in "abc":
        y = layers.Dense(12, activation="relu", name=name)(x)
        x = x + layers.Dense(6)(y)
    model = keras.Model(inputs, layers.Dense(2)(x))
    for number, name in enumerate("abc"):
        kernel = model.get_layer(name).kernel
        kernel.assign(kernel * np.linspace(0.01, 1 + number, 12))

    def kept(**settings):
        found = suggest(model, parameters=0.6, verbose=False, **settings)
        return [row.kept for row in found.groups]

    assert len(set(kept())) > 1
    assert len(set(kept(uniform=True))) == 1


def test_nothing_is_suggested_where_each_channel_counts():
    model = mlp()
    scores = iter([90.0] + [0.0] * 20)
    suggestion = suggest(
        model, X, points_lost=1.0, evaluate=lambda _: next(scores), verbose=False
    )
    assert suggestion.points == (90.0, 90.0)
    assert suggestion.cost[0] == suggestion.cost[1]
    assert all(row.kept == row.size for row in suggestion.groups)
    callback = PruningCallback(suggestion.config, verbose=False)
    model.fit(X, Y, verbose=0, callbacks=[callback])
    assert callback.sparsity == 0


def test_a_score_that_fails_leaves_the_model_as_it_was():
    model = mlp()
    before = model.get_weights()

    def evaluate(candidate):
        if candidate is not model:
            raise RuntimeError("no score")
        return 50.0

    with pytest.raises(RuntimeError, match="no score"):
        suggest(model, X, points_lost=1.0, evaluate=evaluate, verbose=False)
    for old, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


@pytest.mark.slow
def test_as_small_as_the_points_allow():
    model = mlp()
    model.fit(X, Y, epochs=60, verbose=0)

    def accuracy(candidate):
        found = ops.convert_to_numpy(candidate(X, training=False)).argmax(axis=1)
        return 100 * np.mean(found == Y)

    costs = []
    for points in (1.0, 20.0):
        suggestion = suggest(
            model, X, points_lost=points, evaluate=accuracy, verbose=False
        )
        before, after = suggestion.points
        assert before == accuracy(model) and after >= before - points
        costs.append(suggestion.cost[1])
    assert costs[1] <= costs[0] < suggestion.cost[0]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "Give one target"),
        ({"points_lost": 1.0}, "needs `data`, and `evaluate`"),
        ({"points_lost": 1.0, "flops": 0.5}, "Give one target"),
        ({"flops": 0.001}, "cannot be met"),
        ({"flops": 0.5, "data": X[:, :4]}, "takes inputs of shape"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        suggest(mlp(), verbose=False, **settings)

"""Copies of layers and models whose configs do not say what they are."""

import collections
import functools

import keras
import numpy as np
import pytest
from conftest import slow_where_compiled, value_of
from keras import layers

from keras_pruner import PruningCallback, prune_one_shot, prune_structured, shrink
from keras_pruner.backend import duplicate
from keras_pruner.training import clone_graph

Pair = collections.namedtuple("Pair", "first second")


class Scaled(layers.Layer):
    """Has variables of its own, one of which no attribute holds, and no config."""

    def __init__(self, units):
        super().__init__()
        self.dense = layers.Dense(units, activation="relu")

    def build(self, shape):
        self.dense.build(shape)
        self.gain = self.add_weight(shape=(self.dense.units,), initializer="uniform")
        self.add_weight(shape=(2,), name="unused", trainable=False)
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, x):
        return self.dense(x) * self.gain


class Net(keras.Model):
    """Holds layers in all ways, and takes nothing that Keras could pass."""

    def __init__(self, units):
        super().__init__()
        self.first = layers.Dense(units, activation="tanh")
        self.blocks = [Scaled(units), (layers.Dropout(0.5, seed=3),)]
        self.named = {"norm": layers.BatchNormalization()}
        self.pair = Pair(layers.Dense(units), layers.Dense(units))
        inner = keras.Input((units,))
        self.graph = keras.Model(inner, layers.Dense(units)(inner))
        self.again = self.first
        self.squash = functools.partial(self.apply, scale=0.5)
        # TensorFlow's own attributes have this prefix too.
        self._self_attention = self.head = layers.Dense(3)
        self.loss_tracker = keras.metrics.Mean("loss")
        self.sizes = [1, 2]

    def apply(self, x, scale):
        return self.pair.second(self.pair.first(x)) * scale

    def call(self, x, training=None):
        x = self.first(x)
        x = self.blocks[1][0](self.blocks[0](x), training=training)
        x = self.named["norm"](x, training=training) + self.graph(x)
        return self._self_attention(self.squash(x))


@pytest.fixture
def net():
    model = Net(6)
    model(np.ones((2, 5), "float32"))
    generator = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    model.first.trainable = False
    return model


X = np.random.default_rng(1).normal(size=(32, 5)).astype("float32")


def outputs_of(model):
    return value_of(model(X, training=False))


def test_a_duplicate_is_equal_and_shares_no_state(net):
    net.compile("adam", "mse")
    copy = duplicate(net, clone_graph)
    np.testing.assert_array_equal(outputs_of(copy), outputs_of(net))
    assert type(copy) is Net and not copy.compiled
    assert [v.path for v in copy.weights] == [v.path for v in net.weights]
    trainable = [v.path for v in net.trainable_variables]
    assert [v.path for v in copy.trainable_variables] == trainable
    assert [type(x) for x in copy.layers] == [type(x) for x in net.layers]
    assert {id(v) for v in copy.variables}.isdisjoint(id(v) for v in net.variables)
    assert copy.again is copy.first and copy.sizes == [1, 2]
    expected = outputs_of(net)
    for variable in copy.variables:
        variable.assign(np.zeros(variable.shape))
    np.testing.assert_array_equal(outputs_of(net), expected)
    assert not outputs_of(copy).any()


def test_a_duplicate_trains_and_saves_weights(net, tmp_path):
    copy = duplicate(net, clone_graph)
    frozen = value_of(copy.first.kernel)
    copy.compile("adam", "mse")
    copy.fit(X, np.ones((32, 3), "float32"), epochs=2, verbose=0)
    np.testing.assert_array_equal(value_of(copy.first.kernel), frozen)
    assert np.abs(outputs_of(copy) - outputs_of(net)).max() > 1e-4
    copy.save_weights(tmp_path / "a.weights.h5")
    net.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_allclose(outputs_of(copy), outputs_of(net), rtol=1e-6)


def test_a_duplicate_is_locked_as_the_layer_is(net):
    copy = duplicate(net, clone_graph)
    with pytest.raises(ValueError, match="new elements of state"):
        copy.blocks[0].more = keras.Variable(1.0)


def test_functions_that_hold_the_old_layer_are_refused(net):
    net.run = lambda x: net.head(x)
    with pytest.raises(TypeError, match="holds a part of the layer"):
        duplicate(net, clone_graph)


@slow_where_compiled
def test_models_without_a_config_are_pruned_cut_and_cut_again(net):
    expected = outputs_of(net)
    pruned, report = prune_one_shot(net, X, 0.5, allocation="uniform", verbose=False)
    assert type(pruned) is Net and not value_of(pruned.head.kernel).all()
    smaller, report = prune_structured(net, parameters=0.6, data=X, verbose=False)
    assert type(smaller) is Net
    assert report.verification.relative_difference < 1e-5
    # Its config, if it had one, would not say the sizes that it has now.
    again, report = prune_structured(smaller, parameters=0.7, verbose=False)
    assert again.count_params() < smaller.count_params() < net.count_params()
    assert report.verification.relative_difference < 1e-5
    same, _ = shrink(again)
    assert same.count_params() == again.count_params()
    again.compile("adam", "mse")
    pruning = PruningCallback(target_sparsity=0.5, verbose=False)
    again.fit(X, np.ones((32, 3), "float32"), verbose=0, callbacks=[pruning])
    np.testing.assert_array_equal(outputs_of(net), expected)

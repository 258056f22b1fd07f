"""What a smaller model keeps beside its outputs: training, masks, ties, files."""

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import layers, ops
from models_to_cut import randomize

from keras_pruner import ChannelGraph, PruningCallback, prune_structured, shrink
from keras_pruner.training import plain_copy

package = keras.saving.register_keras_serializable("kept_behaviour")
X = np.random.default_rng(0).normal(size=(48, 10)).astype("float32")
TOKENS = np.random.default_rng(1).integers(1, 20, (48, 6))


class Block(layers.Layer):
    """A residual branch whose config does not say its widths."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.wide = layers.Dense(2 * shape[-1], "relu", name="wide")
        self.narrow = layers.Dense(shape[-1], name="narrow")
        self.drop = layers.Dropout(0.5, seed=0)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 2 * shape[-1]))

    def branch(self, x):
        return self.narrow(self.wide(x))

    def call(self, x):
        return x + self.branch(x)


@package
class DropsIfTraining(Block):
    def call(self, x, training=None):
        y = self.branch(x)
        return x + (self.drop(y, training=True) if training else y)


@package
class ClipsIfNotTraining(Block):
    def call(self, x, training=None):
        y = self.branch(x)
        return x + (y if training else ops.clip(y, -0.1, 0.1))


@package
class PassesTraining(Block):
    def call(self, x, training=None):
        return x + self.drop(self.branch(x), training=training)


def on_vectors(block):
    x = keras.Input((10,))
    model = keras.Model(x, layers.Dense(3)(block(layers.Dense(12)(x))))
    randomize(model)
    return model


def cut(model, data=X, **settings):
    settings = settings or {"flops": 0.6}
    smaller, report = prune_structured(model, data=data, verbose=False, **settings)
    assert report.verification.relative_difference < 1e-5
    assert smaller.count_params() < model.count_params()
    return smaller


@pytest.mark.parametrize(
    "block", [Block, DropsIfTraining, ClipsIfNotTraining, PassesTraining]
)
def test_what_a_block_does_in_training_stays(block):
    model = on_vectors(block())
    smaller = cut(model)
    for each in (model, smaller):
        made = [value_of(each(X, training=training)) for training in (False, True)]
        is_another = np.abs(made[0] - made[1]).max() > 1e-3
        assert is_another == (block is not Block)


def test_an_activity_regularizer_stays():
    model = on_vectors(Block(activity_regularizer="l1"))
    smaller = cut(model)
    for each in (model, smaller):
        each(X, training=True)
        assert len(each.losses) == 1


def test_a_mask_of_steps_passes_a_block():
    x = keras.Input((6,), dtype="int32")
    y = Block()(layers.Embedding(20, 12, mask_zero=True)(x))
    y = layers.GlobalAveragePooling1D()(y)
    model = keras.Model(x, layers.Dense(3)(y))
    tokens = np.where(np.arange(6) < 4, TOKENS, 0)
    smaller = cut(model, tokens)
    for each in (model, smaller):
        before = value_of(each(tokens))
        table = each.layers[1].embeddings
        table.assign(value_of(table) + 5 * (np.arange(20) == 0)[:, None])
        np.testing.assert_allclose(value_of(each(tokens)), before, atol=1e-6)


@package
class Transposed(layers.Layer):
    """Multiplies by the kernel of another layer."""

    def __init__(self, dense, **kwargs):
        super().__init__(**kwargs)
        self.dense = dense

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.dense.kernel))

    def get_config(self):
        dense = keras.saving.serialize_keras_object(self.dense)
        return super().get_config() | {"dense": dense}

    @classmethod
    def from_config(cls, config):
        config["dense"] = keras.saving.deserialize_keras_object(config["dense"])
        return cls(**config)


def tied():
    x = keras.Input((10,))
    one, two = layers.Dense(24, "relu"), layers.Dense(8, "relu")
    y = Transposed(one)(ops.relu(Transposed(two)(two(one(x)))))
    return keras.Model(x, y)


@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called")
def test_layers_that_share_a_kernel_share_it_in_copies_and_smaller_models():
    model = tied()
    assert plain_copy(model).count_params() == model.count_params()
    smaller = cut(model, parameters=0.6)
    assert smaller.count_params() <= 0.6 * model.count_params()
    one, two, back, last = smaller.layers[1:4] + smaller.layers[-1:]
    assert back.dense is two and last.dense is one
    kernel = model.layers[1].kernel
    kernel.assign(value_of(kernel) * (np.arange(24) >= 12))
    assert shrink(model)[0].layers[1].units == 12


@pytest.mark.parametrize("kind", [layers.Dropout, layers.GaussianDropout])
def test_shapes_of_noise_follow_the_channels(kind):
    if kind is layers.GaussianDropout:
        drop = kind(0.5)
    else:
        drop = kind(0.5, noise_shape=(None, 1, 16))
    x = keras.Input((6, 5))
    model = keras.Model(x, layers.Dense(3)(drop(layers.Dense(16, "relu")(x))))
    data = np.random.default_rng(0).normal(size=(32, 6, 5)).astype("float32")
    smaller = cut(model, data)
    smaller.compile("adam", "mse")
    smaller.fit(data, np.zeros((32, 6, 3)), verbose=0)


def test_values_in_initializers_need_not_fit_the_file(tmp_path):
    table = np.random.default_rng(0).normal(size=(20, 12)).astype("float32")
    x = keras.Input((6,), dtype="int32")
    start = keras.initializers.Constant(table)
    y = layers.Embedding(20, 12, embeddings_initializer=start)(x)
    bias = keras.initializers.Constant(np.arange(10.0))
    y = layers.Conv1D(10, 3, activation="relu", bias_initializer=bias)(y)
    model = keras.Model(x, layers.Dense(3)(layers.GlobalMaxPooling1D()(y)))
    smaller = cut(model, TOKENS)
    smaller.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = value_of(smaller(TOKENS))
    np.testing.assert_allclose(value_of(loaded(TOKENS)), expected, rtol=1e-6)


@pytest.mark.parametrize("activation, size", [("relu", 4), ("sigmoid", 8)])
def test_products_that_zeros_do_not_remove_stay(activation, size):
    # The sigmoids of two zeros have a product.
    inputs = [keras.Input((5,)), keras.Input((5,))]
    towers = [layers.Dense(8, activation, name=name) for name in ("a", "b")]
    outputs = layers.Dot(1)([f(x) for f, x in zip(towers, inputs, strict=True)])
    model = keras.Model(inputs, outputs)
    for layer in towers:
        kept = np.arange(8) >= 4
        layer.set_weights([w * kept for w in layer.get_weights()])
    assert shrink(model)[0].get_layer("a").units == size


def test_a_model_that_multiplies_gates_is_masked_as_it_is_cut():
    x = keras.Input((6, 8))
    y = layers.Dense(16)(x)
    q, k, v = (layers.Dense(12)(y) for _ in range(3))
    q, k = ops.elu(q) + 1, ops.elu(k) + 1
    y = ops.einsum("bnd,bde->bne", q, ops.einsum("bnd,bne->bde", k, v))
    y = layers.GlobalAveragePooling1D()(layers.Dense(12)(y))
    model = keras.Model(x, layers.Dense(3)(y))
    model.compile("adam", "mse")
    data = np.random.default_rng(0).normal(size=(64, 6, 8)).astype("float32")
    pruning = PruningCallback(
        pattern="channel_groups", target_sparsity=0.5, verbose=False
    )
    model.fit(data, np.zeros((64, 3)), epochs=3, verbose=0, callbacks=[pruning])
    assert shrink(model)[0].count_params() < 0.6 * model.count_params()


def test_operations_of_losses_pin_nothing():
    @package
    class Penalty(layers.Layer):
        def call(self, x):
            self.add_loss(0.01 * ops.mean(ops.square(x)))
            return x

    x = keras.Input((10,))
    model = keras.Model(x, layers.Dense(2)(Penalty()(layers.Dense(16)(x))))
    assert [group.size for group in ChannelGraph(model).groups] == [16]
    assert cut(model).layers[1].units < 16


def test_group_query_attention_gets_sizes_that_its_config_says(tmp_path):
    # Its outputs are as wide as its queries, which are inputs of the model.
    inputs = keras.Input((4, 8)), keras.Input((6, 8))
    x = layers.GroupQueryAttention(4, 4, 2)(*inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(12, "relu")(x)))
    generator = np.random.default_rng(0)
    data = [generator.normal(size=(24, *x.shape[1:])) for x in inputs]
    data = [x.astype("float32") for x in data]
    smaller = cut(model, data)
    smaller.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = value_of(smaller(data))
    np.testing.assert_allclose(value_of(loaded(data)), expected, atol=1e-6)


def test_sizes_in_arguments_of_a_lambda_get_smaller():
    x = keras.Input((10,))
    fold = layers.Lambda(lambda x, n: ops.reshape(x, (-1, n, 2)), arguments={"n": 8})
    y = layers.Flatten()(fold(layers.Dense(16, "relu")(x)))
    model = keras.Model(x, layers.Dense(3)(y))
    smaller = cut(model)
    assert smaller.layers[2].arguments["n"] == smaller.layers[1].units // 2 < 8


def test_the_reason_that_says_most_comes_first():
    x = keras.Input((8, 8, 3))
    y = layers.LayerNormalization(name="norm")(layers.Conv2D(8, 3)(x))
    model = keras.Model(x, layers.Conv2D(2, 3)(y))
    with pytest.raises(ValueError, match="stays whole:\n  norm: normalization over"):
        prune_structured(model, flops=0.5, verbose=False)


@package
class Noisy(layers.Layer):
    """Its size counts in training only."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def call(self, x, training=False):
        return x + keras.random.normal((self.units,), seed=1) if training else x

    def get_config(self):
        return super().get_config() | {"units": self.units}


def test_sizes_that_count_in_training_get_smaller():
    x = keras.Input((10,))
    y = Noisy(16)(layers.Dense(16, "relu")(x))
    smaller = cut(keras.Model(x, layers.Dense(3)(y)))
    assert smaller.layers[2].units == smaller.layers[1].units < 16
    smaller(X, training=True)

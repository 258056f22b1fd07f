"""Models with configs of their own, and layers whose configs do not say all sizes."""

import keras
import numpy as np
import pytest
from backbones_to_cut import Decoder, ToyBackbone, backbone, package, tokens
from conftest import slow_where_compiled
from keras import layers, ops
from models_to_cut import randomize, removed_half, with_zeros

from keras_pruner import prune_structured
from keras_pruner.channels import ChannelGraph
from keras_pruner.comparison import outputs_of
from keras_pruner.slimming import cut, refused_groups, verify


def cut_half(model, inputs=None):
    """Cuts half of all groups, and checks that the outputs are those with zeros."""
    graph = ChannelGraph(model, inputs)
    removed = removed_half(graph)
    kept = graph.kept(removed)
    smaller = cut(model, graph, kept)
    result = verify(model, smaller, inputs, with_zeros(model, kept))
    assert result.reason is None
    return smaller


def run(model, inputs):
    return outputs_of(model, ((inputs,), {}))[0]


@slow_where_compiled
def test_decoder_with_a_causal_mask_is_cut(tmp_path):
    model = backbone("decoder")
    smaller = cut_half(model, tokens())
    block = smaller.get_layer("block_0")
    assert tuple(block.attention.parts[0].kernel.shape) == (16, 1, 2)
    assert (block.gate.units, block.attention.groups) == (12, 1)
    assert np.abs(run(model, tokens()) - run(smaller, tokens())).max() > 1e-2
    # Lengths and batches are open.
    assert run(smaller, tokens(3, 9)).shape == (3, 9, 16)
    before = run(smaller, tokens())
    smaller.save_weights(tmp_path / "a.weights.h5")
    smaller.set_weights([np.zeros(w.shape) for w in smaller.weights])
    smaller.load_weights(tmp_path / "a.weights.h5")
    np.testing.assert_array_equal(run(smaller, tokens()), before)
    smaller.compile("sgd", "mse")
    smaller.fit(tokens(), np.zeros((16, 6, 16)), verbose=0)
    assert np.abs(run(smaller, tokens()) - before).max() > 0


@slow_where_compiled
def test_given_model_stays():
    model = backbone("decoder")
    before = model.get_weights(), run(model, tokens())
    cut_half(model, tokens())
    for old, new in zip(before[0], model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(run(model, tokens()), before[1])
    assert model.get_layer("block_0").attention.groups == 2


@slow_where_compiled
def test_uniform_cut_keeps_the_class(tmp_path):
    model = backbone("decoder")
    smaller, report = prune_structured(
        model, parameters=0.75, uniform=True, verbose=False
    )
    assert type(smaller) is ToyBackbone
    widths = [smaller.get_layer(f"block_{i}").gate.units for i in range(2)]
    assert widths[0] == widths[1] == smaller.sizes["width"] < 24
    assert smaller.count_params() <= 0.75 * model.count_params()
    assert report.advice is None
    reasons = {row.path: row.skipped for row in report.groups}
    assert "config" in reasons["block_0/attention/query"]
    smaller.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(run(loaded, tokens()), run(smaller, tokens()))


def test_uniform_refuses_what_the_config_cannot_say():
    model = backbone("decoder")
    graph = ChannelGraph(model, tokens())
    (group,) = [g for g in graph.groups if g.name == "block_0/gate"]
    kept = graph.kept({group.name: [0, 1]})
    with pytest.raises(ValueError, match="config of .* does not say"):
        cut(model, graph, kept, uniform=True)
    assert cut(model, graph, kept).get_layer("block_0").width == 22


@slow_where_compiled
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_backbones_are_pruned_in_one_call(kind):
    model = backbone(kind, width=32)
    smaller, report = prune_structured(model, flops=0.5, data=tokens(), verbose=False)
    assert report.costs["flops"][1] <= 0.5 * report.costs["flops"][0]
    assert run(smaller, tokens()).shape == run(model, tokens()).shape
    assert 0 < report.output_error < 1
    # At this target heads get smaller, and the config of a decoder does not say so.
    assert (report.advice is None) == (kind == "encoder")


def test_encoder_is_replaced_by_its_sublayers_and_loads(tmp_path):
    smaller = cut_half(backbone("encoder"), tokens())
    assert not isinstance(smaller, ToyBackbone)
    smaller.save(tmp_path / "a.keras")
    loaded = keras.models.load_model(tmp_path / "a.keras")
    np.testing.assert_array_equal(run(loaded, tokens()), run(smaller, tokens()))


@package
class Stubborn(layers.Layer):
    """Divides by a number that no attribute holds."""

    def build(self, shape):
        self.inner = layers.Dense(8, name="inner")
        self.inner.build(shape)
        self.free = layers.Dense(6, activation="relu", name="free")
        self.free.build(shape)
        self.outer, self.last = layers.Dense(5, name="outer"), layers.Dense(5)
        self.outer.build((None, 8))
        self.last.build((None, 6))

    def call(self, x):
        y = ops.reshape(self.inner(x), (-1, 2, 4))
        return self.outer(ops.reshape(y, (-1, 8))) + self.last(self.free(x))


def test_groups_that_a_layer_cannot_lose_are_left_out():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(3)(Stubborn(name="stubborn")(inputs)))
    randomize(model)
    graph = ChannelGraph(model)
    refused = refused_groups(model, graph, graph.groups)
    assert "stubborn/free" not in refused and refused
    assert all("'stubborn' (Stubborn)" in reason for reason in refused.values())
    smaller, report = prune_structured(model, parameters=0.9, verbose=False)
    assert smaller.count_params() <= 0.9 * model.count_params()
    assert smaller.get_layer("stubborn_inner").units == 8
    reasons = {row.path: row.skipped for row in report.groups}
    assert reasons["stubborn/free"] is None
    assert all("'stubborn'" in reasons[name] for name in refused)


@package
class Gate(layers.Layer):
    """Has no variables, and a size of its own."""

    def __init__(self, half, **kwargs):
        super().__init__(**kwargs)
        self.half = half

    def call(self, x):
        return x[:, : self.half] * x[:, self.half :]

    def get_config(self):
        return super().get_config() | {"half": self.half}


def gated(gate):
    inputs = keras.Input((5,))
    x = gate(layers.Dense(12, name="fixed")(inputs))
    x = layers.Dense(8, activation="relu", name="free")(x)
    return keras.Model(inputs, layers.Dense(3)(x))


def test_a_size_in_the_config_of_code_without_variables_gets_smaller():
    model = gated(Gate(6, name="gate"))
    randomize(model)
    smaller, report = prune_structured(model, parameters=0.5, verbose=False)
    half = smaller.get_layer("gate").half
    assert half < 6 and smaller.get_layer("fixed").units == 2 * half
    assert report.verification.relative_difference < 1e-6


def test_groups_that_code_without_variables_refuses_are_left_out():
    model = gated(layers.Lambda(lambda x: x[:, :6] * x[:, 6:]))
    smaller, report = prune_structured(model, parameters=0.8, verbose=False)
    assert smaller.get_layer("fixed").units == 12
    assert smaller.get_layer("free").units < 8
    reasons = {row.path: row.skipped for row in report.groups}
    assert reasons["free"] is None and "fewer channels" in reasons["fixed"]


@package
class Scaled(layers.Layer):
    """Its config says a size, and also makes a scale of it."""

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size, self.factor = size, size**-0.5

    def build(self, shape):
        self.query = layers.Dense(self.size, name="query")
        self.key = layers.Dense(self.size, name="key")
        self.query.build(shape)
        self.key.build(shape)

    def call(self, x):
        scores = ops.einsum("btd,bsd->bts", self.query(x), self.key(x))
        return ops.softmax(scores * self.factor) @ x

    def get_config(self):
        return super().get_config() | {"size": self.size}


def test_config_that_changes_a_scale_is_not_used():
    inputs = keras.Input((3, 5))
    model = keras.Model(inputs, layers.Dense(3)(Scaled(8, name="scaled")(inputs)))
    randomize(model)
    smaller = cut_half(model)
    layers_of_it = [layer.name for layer in smaller.layers]
    assert any("query" in name for name in layers_of_it) or (
        smaller.get_layer("scaled").factor == 8**-0.5
    )


@package
class Experts(layers.Layer):
    """Holds variables beside a sublayer, and no sizes in its config."""

    def build(self, shape):
        self.router = layers.Dense(3, activation="softmax", name="router")
        self.router.build(shape)
        self.into = self.add_weight(shape=(3, shape[-1], 8), name="into")
        self.out = self.add_weight(shape=(3, 8, shape[-1]), name="out")

    def call(self, x):
        y = ops.relu(ops.einsum("bi,eij->bej", x, self.into))
        y = ops.einsum("bej,ejo->beo", y, self.out)
        return ops.sum(y * self.router(x)[:, :, None], axis=1)


def test_variables_beside_sublayers_get_smaller():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(3)(Experts(name="experts")(inputs)))
    randomize(model)
    smaller = cut_half(model)
    assert tuple(smaller.get_layer("experts").into.shape) == (3, 5, 4)
    smaller.compile("sgd", "mse")
    smaller.fit(np.ones((4, 5)), np.zeros((4, 3)), verbose=0)


def test_decoders_in_a_plain_model_are_cut():
    inputs = keras.Input((None, 16))
    x = Decoder(4, 2, 24, name="first")(inputs)
    model = keras.Model(inputs, Decoder(4, 2, 12, name="second")(x))
    randomize(model)
    smaller = cut_half(model)
    assert smaller.get_layer("second").gate.units == 6


def test_residual_width_of_decoders_is_cut():
    inputs = keras.Input((None, 5))
    x = layers.Dense(16, name="before")(inputs)
    x = Decoder(4, 2, 24, name="block")(x)
    x = layers.RMSNormalization(epsilon=0.05, name="last")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    randomize(model)
    smaller = cut_half(model)
    norms = [*smaller.get_layer("block").norms, smaller.get_layer("last")]
    assert all(norm.scale.shape == (8,) for norm in norms)
    with pytest.raises(NotImplementedError):
        norms[1].get_config()
    assert norms[1].epsilon == norms[2].epsilon == pytest.approx(0.1)
    x = np.random.default_rng(0).normal(size=(4, 6, 5)).astype("float32")
    before = run(smaller, x)
    norms[1].epsilon = 0.05
    assert np.abs(run(smaller, x) - before).max() > 1e-4

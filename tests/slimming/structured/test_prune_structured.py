"""`prune_structured`: a smaller model that meets its target and computes the same."""

import keras
import numpy as np
import pytest
from conftest import slow_where_compiled
from keras import layers, ops

from keras_pruner import prune_structured
from keras_pruner.slimming import ChannelPlan

# JAX compiles each call of an operation, so it runs the essential tests only.
not_on_jax = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="takes long; runs on two other backends"
)
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(96, 8, 8, 3)).astype("float32")


def convnet():
    """Two branches that are added, batch statistics, a depthwise layer, Flatten."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(12, 3, padding="same", name="first")(inputs)
    y = layers.BatchNormalization(name="norm")(x)
    y = layers.Conv2D(16, 3, padding="same", activation="relu", name="wide")(y)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    y = layers.Conv2D(12, 1, name="narrow")(y)
    x = layers.Add()([x, y])
    x = layers.Flatten()(layers.MaxPooling2D(4)(x))
    x = layers.Dense(10, activation="relu", name="hidden")(x)
    return with_random_states(keras.Model(inputs, layers.Dense(4, name="head")(x)))


def mlp(units=32):
    return with_random_states(
        keras.Sequential(
            [
                keras.Input((6,)),
                layers.Dense(units, activation="relu", name="first"),
                layers.Dense(units, activation="relu", name="second"),
                layers.Dense(3, name="head"),
            ]
        )
    )


def with_random_states(model, seed=0):
    """Gives all biases and statistics random values, so that none is at its default."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if len(variable.shape) == 1:
            variable.assign(rng.uniform(0.3, 1.2, variable.shape))
        else:
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(rng.normal(size=variable.shape) / np.sqrt(fan_in))
    return model


def values(model):
    return [ops.convert_to_numpy(w).copy() for w in model.weights]


def error_of(smaller, model, x):
    found, dense = (
        ops.convert_to_numpy(m(x, training=False)) for m in (smaller, model)
    )
    return np.sum((found - dense) ** 2) / np.sum((dense - dense.mean(axis=0)) ** 2)


@pytest.mark.parametrize("data", [None, IMAGES], ids=["norms", "data"])
@pytest.mark.parametrize("kind", ["parameters", "flops"])
def test_target_is_met_by_a_plain_model_and_the_given_one_stays(kind, data):
    model = convnet()
    before = values(model)
    smaller, report = prune_structured(model, data=data, verbose=False, **{kind: 0.5})
    for old, now in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, now)
    whole, left = report.costs[kind]
    assert 0.35 < left / whole <= 0.5
    assert report.costs["parameters"] == (model.count_params(), smaller.count_params())
    assert type(smaller) is type(model)
    # What is counted without building is what is built.
    again = ChannelPlan(smaller)
    for name, (_, after) in report.costs.items():
        np.testing.assert_allclose(again.costs[name]({}), after)
    assert report.verification.relative_difference < 1e-5
    assert smaller(IMAGES[:2]).shape == (2, 4)


def test_data_repair_what_norms_lose():
    model = mlp()
    x = RNG.normal(size=(512, 6)).astype("float32")
    errors = [
        error_of(prune_structured(model, data=d, flops=0.4, verbose=False)[0], model, x)
        for d in (None, x)
    ]
    assert errors[1] < 0.1 * errors[0]


def test_twins_are_merged_without_an_error():
    model = mlp(16)
    for name, reader in (("first", "second"), ("second", "head")):
        layer = model.get_layer(name)
        kernel, bias = (ops.convert_to_numpy(v).copy() for v in layer.weights)
        kernel[:, 8:], bias[8:] = kernel[:, :8], bias[:8]
        layer.set_weights([kernel, bias])
        assert model.get_layer(reader).kernel.shape[0] == 16
    x = RNG.normal(size=(400, 6)).astype("float32")
    smaller, report = prune_structured(model, data=x, parameters=0.4, verbose=False)
    assert smaller.count_params() < 0.4 * model.count_params()
    # H is damped by 1 %, so the fit is not exact.
    assert report.output_error < 1e-3
    totals = report.totals()
    assert totals["output_error"] == report.output_error
    assert totals["parameters_after"] == smaller.count_params()
    assert totals["parameters_before"] == model.count_params()
    np.testing.assert_allclose(error_of(smaller, model, x), report.output_error, 1e-3)


@not_on_jax
def test_size_falls_with_the_target():
    model, sizes = convnet(), []
    for share in (0.9, 0.7, 0.5, 0.3, 0.15):
        smaller, _ = prune_structured(model, parameters=share, verbose=False)
        sizes.append(smaller.count_params())
        assert sizes[-1] <= share * model.count_params()
    assert sizes == sorted(sizes, reverse=True)


def test_a_tiny_share_removes_one_channel():
    model = mlp(8)
    smaller, report = prune_structured(model, parameters=0.999, verbose=False)
    assert sum(row.size - row.kept for row in report.groups) == 1
    assert smaller.count_params() < model.count_params()


@pytest.mark.slow
@not_on_jax
def test_mobilenet_keeps_multiples():
    model = keras.applications.MobileNetV3Small(
        (32, 32, 3), alpha=0.35, weights=None, classes=3
    )
    with_random_states(model)
    smaller, report = prune_structured(model, flops=0.6, round_to=4, verbose=False)
    cut = [row for row in report.groups if row.kept < row.size]
    assert cut and all(row.kept % 4 == 0 for row in cut)
    assert report.costs["flops"][1] <= 0.6 * report.costs["flops"][0]
    assert report.verification.reason is None
    assert smaller.count_params() < model.count_params()


def test_amounts():
    model = mlp()
    smaller, report = prune_structured(model, {"parameters": "0.5 K"}, verbose=False)
    assert smaller.count_params() <= 500
    assert "parameters=500" in str(report)
    whole, report = prune_structured(model, parameters=10_000, verbose=False)
    assert whole.count_params() == model.count_params()
    assert {row.kept == row.size for row in report.groups} == {True}


@not_on_jax
def test_groups_keep_a_multiple_and_a_share():
    model = convnet()
    _, report = prune_structured(
        model, parameters=0.6, round_to=4, min_kept=0.5, verbose=False
    )
    kept = {row.path: row.kept for row in report.groups}
    sizes = {row.path: row.size for row in report.groups}
    assert all(k % 4 == 0 or k == sizes[name] for name, k in kept.items())
    assert all(k >= sizes[name] / 2 for name, k in kept.items())
    assert kept != sizes


@not_on_jax
def test_selectors():
    model = convnet()
    _, report = prune_structured(
        model, parameters=0.8, include="wide", min_kept=0, verbose=False
    )
    assert [r.path for r in report.groups if r.kept < r.size] == ["wide"]
    reasons = {r.path: r.skipped for r in report.groups}
    assert "`include`" in reasons["hidden"]
    _, report = prune_structured(model, parameters=0.7, exclude="head", verbose=False)
    reasons = {r.path: r.skipped for r in report.groups}
    assert "`exclude`" in reasons["hidden"] and reasons["wide"] is None
    with pytest.raises(ValueError, match="matches no prunable kernel"):
        prune_structured(model, parameters=0.7, exclude="heads", verbose=False)


def test_frozen_layers_stay():
    model = convnet()
    model.get_layer("wide").trainable = False
    smaller, report = prune_structured(model, parameters=0.9, verbose=False)
    reason = {r.path: r.skipped for r in report.groups}["wide"]
    assert "'wide/kernel' is frozen" in reason
    assert smaller.get_layer("wide").kernel.shape[-1] == 16
    assert not smaller.get_layer("wide").trainable


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "Give one target"),
        ({"flops": 0.5, "parameters": 0.5}, "Give one target"),
        ({"flops": 0.001}, "cannot be met: at least"),
        ({"flops": 0.5, "min_kept": 2}, "`min_kept`"),
        ({"flops": 0.5, "round_to": 0}, "`round_to`"),
        ({"flops": 0.5, "steps": 2}, "need `data`"),
        ({"flops": 0.5, "recovery": "distill"}, "need `data`"),
        ({"flops": 0.5, "data": np.ones((4, 5), "float32")}, "shape"),
        ({"flops": 0.5, "data": np.full((64, 6), np.nan, "float32")}, "NaN"),
    ],
)
def test_bad_settings_change_nothing(settings, message):
    model = mlp()
    before = values(model)
    with pytest.raises(ValueError, match=message):
        prune_structured(model, verbose=False, **settings)
    for old, now in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, now)


class Opaque(keras.Model):
    """Runs on numbers only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.head = layers.Dense(8), layers.Dense(2)

    def call(self, inputs):
        if isinstance(inputs, keras.KerasTensor):
            raise TypeError("It needs numbers.")
        return self.head(ops.relu(self.hidden(inputs)))


def test_model_that_cannot_be_opened_is_named():
    model = Opaque(name="opaque")
    model(IMAGES[:2, 0, 0])
    before = values(model)
    with pytest.raises(
        ValueError,
        match="(?s)No channel of 'opaque'.*cannot be followed: It needs numbers",
    ):
        prune_structured(model, flops=0.5, verbose=False)
    for old, now in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(old, now)


def test_models_without_a_free_channel_are_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    with pytest.raises(ValueError, match="No channel.*\n.*input of the model"):
        prune_structured(model, flops=0.5, verbose=False)


def test_torch_modules_are_sent_to_torch_pruning():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match="Torch-Pruning"):
        prune_structured(torch.nn.Linear(2, 2), flops=0.5)


@not_on_jax
def test_more_steps_keep_the_target_and_the_dense_outputs_as_goal():
    model = mlp()
    x = RNG.normal(size=(512, 6)).astype("float32")
    smaller, report = prune_structured(model, data=x, flops=0.3, steps=3, verbose=False)
    assert report.costs["flops"][1] <= 0.3 * report.costs["flops"][0]
    once, _ = prune_structured(model, data=x, flops=0.3, verbose=False)
    assert error_of(smaller, model, x) < 1.5 * error_of(once, model, x)


@not_on_jax
def test_recovery_and_determinism():
    model = mlp()
    model.compile(loss="mse")
    x = RNG.normal(size=(128, 6)).astype("float32")
    recovery = {"name": "distill", "config": {"steps": 30}}
    first, report = prune_structured(
        model, data=x, flops=0.3, recovery=recovery, verbose=False
    )
    assert len(report.recoveries) == 1
    again, _ = prune_structured(
        model, data=x, flops=0.3, recovery=recovery, verbose=False
    )
    for one, other in zip(values(first), values(again), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@slow_where_compiled
def test_layers_without_a_bias_and_recurrent_layers():
    inputs = keras.Input((5, 6))
    x = layers.Bidirectional(layers.LSTM(8, return_sequences=True))(inputs)
    x = layers.GRU(8)(x)
    model = with_random_states(
        keras.Model(inputs, layers.Dense(2, use_bias=False)(x)), seed=1
    )
    x = RNG.normal(size=(64, 5, 6)).astype("float32")
    smaller, report = prune_structured(model, data=x, flops=0.5, verbose=False)
    assert report.costs["flops"][1] <= 0.5 * report.costs["flops"][0]
    assert report.output_error < 0.5
    assert report.verification.relative_difference < 1e-5
    assert smaller.count_params() < model.count_params()


def test_report_shows_and_plots():
    pytest.importorskip("matplotlib")
    x = RNG.normal(size=(64, 6)).astype("float32")
    _, report = prune_structured(mlp(), data=x, flops=0.5, verbose=False)
    text = report.to_text(width=100)
    assert "first" in text and "channels" in text and "Its outputs differ" in text
    assert report.rows()[0]["path"] == "first"
    assert len(report.curves["first"]) == 33
    assert report.plot() is not None and report.plot_curves() is not None
    assert "<table" in report.to_html()


@not_on_jax
def test_bytes_of_the_file(tmp_path):
    model = mlp(64)
    smaller, report = prune_structured(model, bytes=0.6, verbose=False)
    sizes = []
    for each in (model, smaller):
        each.save(tmp_path / "model.keras")
        sizes.append((tmp_path / "model.keras").stat().st_size)
    assert report.costs["bytes"] == tuple(sizes)
    assert 0.3 * sizes[0] < sizes[1] <= 0.6 * sizes[0]
    with pytest.raises(ValueError, match="cannot be met. The least that was measured"):
        prune_structured(model, bytes="1 KB", verbose=False)


def test_latency_is_searched_over_flops(monkeypatch):
    """Time is replaced by the number of units, so that the test is certain."""
    from keras_pruner.slimming.structured import measured

    calls = []

    def units(kind, *models_and_size):
        *models, size = models_and_size
        calls.append(size)
        return tuple(1e-3 * sum(x.units for x in m.layers[:2]) for m in models)

    monkeypatch.setattr(measured, "_measure", units)
    model = mlp(32)
    smaller, report = prune_structured(
        model, latency="40 ms", batch_size=16, verbose=False
    )
    assert set(calls) == {16}
    assert 30 <= sum(layer.units for layer in smaller.layers[:2]) <= 40
    assert report.costs["latency"][0] == pytest.approx(0.064)
    assert "latency=40 ms" in report.headline


@pytest.mark.slow
def test_latency_is_measured():
    model = mlp(16)
    # A target that any machine meets.
    smaller, report = prune_structured(model, latency="100 s", verbose=False)
    before, after = report.costs["latency"]
    assert before > 0 and after > 0
    assert smaller.count_params() <= model.count_params()


class TwoLayers(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(32, "relu")
        self.second = layers.Dense(3)

    def call(self, inputs):
        return self.second(self.first(inputs))


def test_subclassed_models_are_cut_in_a_copy():
    model = TwoLayers()
    x = RNG.normal(size=(128, 6)).astype("float32")
    model(x[:2])
    smaller, report = prune_structured(model, data=x, flops=0.5, verbose=False)
    assert type(smaller) is TwoLayers
    assert smaller.first.units == 16 and model.first.units == 32
    assert "by `save_weights` or `export`" in " ".join(str(report).split())
    assert error_of(smaller, model, x) == pytest.approx(report.output_error, rel=1e-3)


def test_quantized_models_and_unknown_arguments_are_refused():
    model = mlp()
    with pytest.raises(TypeError, match="`flops=0.5` for half"):
        prune_structured(model, target_sparsity=0.5)
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError, match="'first' is quantized"):
        prune_structured(model, flops=0.5, verbose=False)


@not_on_jax
def test_several_inputs_and_outputs_and_half_precision():
    inputs = {name: keras.Input((4,), name=name) for name in ("p", "q")}
    policy = "mixed_bfloat16"
    x = layers.Concatenate()(list(inputs.values()))
    x = layers.Dense(16, "relu", dtype=policy, name="hidden")(x)
    outputs = {"u": layers.Dense(2, name="u")(x), "v": layers.Dense(3, name="v")(x)}
    model = with_random_states(keras.Model(inputs, outputs))
    data = {name: RNG.normal(size=(64, 4)).astype("float32") for name in inputs}
    smaller, report = prune_structured(model, data=data, flops=0.5, verbose=False)
    assert set(smaller(data)) == {"u", "v"}
    assert smaller.get_layer("hidden").dtype_policy.name == policy
    assert report.output_error < 0.5


def attention_model(silent=(1, 4)):
    """Attention layers of both kinds; some key dimensions of the first are small."""
    inputs = keras.Input((7, 5))
    attention = layers.MultiHeadAttention(4, 6, name="attention")
    x = layers.Dense(16)(inputs)
    x = layers.LayerNormalization()(x + attention(x, x))
    x = x + layers.GroupQueryAttention(6, 4, 2, name="grouped")(x, x)
    model = with_random_states(keras.Model(inputs, layers.Dense(3)(x)))
    (query,) = [x for x in attention._flatten_layers() if x.name == "query"]
    for variable in query.weights:
        value = ops.convert_to_numpy(variable).copy()
        value[..., list(silent)] *= 1e-3
        variable.assign(value)
    return model


@not_on_jax
@pytest.mark.parametrize("with_data", [True, False])
def test_key_dimensions_go_where_scores_change_least(with_data):
    model = attention_model()
    x = RNG.normal(size=(64, 7, 5)).astype("float32") if with_data else None
    smaller, report = prune_structured(
        model, data=x, include="attention/query", parameters=0.95, verbose=False
    )
    rows = {row.path: row for row in report.groups}
    assert rows["attention/query#2"].skipped is None
    if with_data:
        rises = np.diff(report.curves["attention/query#2"])
        assert rises[:2].max() < 1e-3 < rises[2:].min()
        assert rows["attention/query#2"].kept <= 4
    attention = smaller.get_layer("attention")
    assert attention.key_dim == rows["attention/query#2"].kept
    assert attention.value_dim == 6
    assert report.verification.relative_difference < 1e-5

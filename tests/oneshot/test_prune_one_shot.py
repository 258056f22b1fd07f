"""A trained model and unlabelled samples in, a sparse model that computes nearly the
same out."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, slow_where_compiled, value_of
from keras import layers, ops

from keras_pruner import (
    OneShotMethod,
    prune_one_shot,
    register_one_shot_method,
    wrap,
)
from keras_pruner.oneshot import METHODS, Solution


def array(variable):
    return ops.convert_to_numpy(variable)


def zeros_in(model):
    return sum(
        int((array(v) == 0).sum()) for v in model.weights if v.path.endswith("kernel")
    )


def build(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(8, 3, activation="relu", name="conv"),
            layers.DepthwiseConv2D(3, padding="same", name="depthwise"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(4, name="head"),
        ]
    )


def smooth(size=96, shape=(6, 6, 2), seed=1):
    """Samples whose features depend on each other, as real ones do."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(6, int(np.prod(shape))))
    x = generator.normal(size=(size, 6)) @ mixing
    x = x + 0.1 * generator.normal(size=x.shape)
    return x.reshape(size, *shape).astype("float32")


QUICK = {"verbose": False}


def output_error(model, pruned, x):
    expected, found = (array(each(x, training=False)) for each in (model, pruned))
    return float(((found - expected) ** 2).sum() / (expected**2).sum())


@slow_where_compiled
def test_outputs_stay_where_magnitude_loses_them():
    model, x = build(), smooth(256)
    before = [array(v).copy() for v in model.weights]
    errors = {}
    for method in ("magnitude", "sparsegpt", "admm"):
        settings = {"allocation": "uniform", "dense_target": method == "admm"}
        pruned, report = prune_one_shot(
            model, x[:192], 0.7, method=method, **settings, **QUICK
        )
        errors[method] = output_error(model, pruned, x[192:])
        assert report.sparsity == pytest.approx(0.7, abs=2e-3)
    assert errors["admm"] < 0.5 * errors["sparsegpt"]
    assert errors["sparsegpt"] < errors["magnitude"]
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)


@slow_where_compiled
def test_the_total_is_exact_and_the_report_tells_it(capsys):
    model, x = build(), smooth()
    size = sum(
        v.path.endswith("kernel") and int(np.prod(v.shape)) for v in model.weights
    )
    pruned, report = prune_one_shot(model, x, target_sparsity=0.8)
    assert capsys.readouterr().out.strip().splitlines()[-1] == report.headline
    assert zeros_in(pruned) == round(0.8 * size)
    rows = {row["path"]: row for row in report.rows()}
    assert list(rows) == [
        "conv/kernel", "depthwise/kernel", "hidden/kernel", "head/kernel",
    ]  # fmt: skip
    assert sum(row["zeros"] for row in rows.values()) == round(0.8 * size)
    for row in rows.values():
        if row["zeros"]:
            assert 0 < row["error"] < 1 and row["seconds"] > 0
        else:
            assert row["error"] is None
    # The error curves leave the kernels different sparsities.
    assert len({row["sparsity"] for row in rows.values()}) > 1
    assert "79.98%" in str(report) and "<table" in report._repr_html_()
    assert len(report.plot().patches) == 2 * len(rows)
    assert all(not getattr(layer, "masks", None) for layer in pruned.layers)


def test_equal_seeds_give_equal_models():
    model, x = build(), smooth(64)
    settings = {"num_samples": 32, "allocation": "uniform", "method": "wanda"} | QUICK
    first, again, other = (
        prune_one_shot(model, x, 0.5, seed=seed, **settings)[0] for seed in (1, 1, 2)
    )
    for one, two in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    pairs = zip(first.get_weights(), other.get_weights(), strict=True)
    assert not all(np.array_equal(one, two) for one, two in pairs)


@slow_where_compiled
@pytest.mark.parametrize("pattern", ["2:4", "4x1", "1x2", "channelx1", "1xchannel"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_takes_every_pattern(method, pattern):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, activation="relu"), layers.Dense(4)]
    )
    x = smooth(48, (8,))
    pruned, report = prune_one_shot(
        model, x, 0.5, method=method, pattern=pattern, allocation="uniform", **QUICK
    )
    # `1xchannel` leaves the outputs of the model.
    rows = [row for row in report.rows() if row["skipped"] is None]
    assert len(rows) == 2 - (pattern == "1xchannel")
    assert all(row["sparsity"] == 0.5 for row in rows)
    assert output_error(model, pruned, x) < 1


@pytest.mark.parametrize(
    "allocation", ["uniform", "erk", {"hidden/kernel": 0.9, "conv/kernel": 0.2}]
)
def test_allocations(allocation):
    _, report = prune_one_shot(
        build(), smooth(), 0.6, method="wanda", allocation=allocation, **QUICK
    )
    rows = {row["path"]: row["sparsity"] for row in report.rows()}
    if isinstance(allocation, dict):
        assert rows["hidden/kernel"] == pytest.approx(0.9, abs=1e-3)
        assert rows["conv/kernel"] == pytest.approx(0.2, abs=1e-2)
    else:
        assert report.sparsity == pytest.approx(0.6, abs=2e-3)


def test_in_place_changes_the_model_itself():
    model, x = build(), smooth()
    pruned, report = prune_one_shot(
        model, x, 0.5, in_place=True, method="wanda", **QUICK
    )
    assert pruned is model
    assert zeros_in(model) == sum(row["zeros"] for row in report.rows())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_model_as_it_was(error, monkeypatch):
    class Fails(OneShotMethod):
        calls = 0

        def solve(self, problem):
            Fails.calls += 1
            if Fails.calls == 3:
                raise error("stop")
            return METHODS.get("wanda").solve(problem)

    model, x = build(), smooth()
    before = [array(v).copy() for v in model.weights]
    with pytest.raises(error, match="stop"):
        prune_one_shot(
            model, x, 0.5, method=Fails(), in_place=True, allocation="uniform", **QUICK
        )
    assert Fails.calls == 3
    for variable, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(array(variable), value)
    for layer in model.layers:
        assert "call" not in vars(layer)


def test_a_method_of_your_own(monkeypatch):
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))

    @register_one_shot_method("first_rows")
    class FirstRows(OneShotMethod):
        """Prunes the first rows."""

        def solve(self, problem):
            rows = ops.reshape(
                ops.arange(problem.layout.rows, dtype="float32"), (-1, 1)
            )
            mask = problem.select(rows + 0 * problem.weights)
            return Solution(ops.where(mask, problem.weights, 0.0), mask)

    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, use_bias=False)])
    pruned, _ = prune_one_shot(
        model, smooth(8, (4,)), 0.5, method="first_rows", **QUICK
    )
    kernel = array(pruned.layers[0].kernel)
    assert (kernel[:2] == 0).all() and (kernel[2:] != 0).all()


@slow_where_compiled
def test_sequences_and_attention():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(2, 4, name="attention")(inputs, inputs)
    x = layers.Bidirectional(layers.LSTM(6, return_sequences=True), name="both")(x)
    x = layers.GRU(6, name="gru")(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    x = smooth(128, (5, 8))
    pruned, report = prune_one_shot(model, x, 0.5, allocation="uniform", **QUICK)
    magnitude, _ = prune_one_shot(
        model, x, 0.5, allocation="uniform", method="magnitude",
        dense_target=False, centre=False, **QUICK,
    )  # fmt: skip
    assert not [row for row in report.rows() if row["skipped"]]
    assert report.sparsity == 0.5
    assert output_error(model, pruned, x) < 0.6 * output_error(model, magnitude, x)


class Unused(keras.Model):
    def __init__(self):
        super().__init__()
        self.used = layers.Dense(4, name="used")
        self.unused = layers.Dense(4, name="unused")

    def build(self, input_shape):
        self.used.build(input_shape)
        self.unused.build(input_shape)
        self.built = True

    def call(self, x):
        return self.used(x)


def test_a_layer_that_the_data_never_reaches_stays_dense():
    model = Unused()
    model.build((None, 4))
    _, report = prune_one_shot(
        model, smooth(16, (4,)), 0.5, in_place=True, method="wanda", **QUICK
    )
    rows = {row["path"]: row for row in report.rows()}
    assert rows["used/kernel"]["sparsity"] == 0.5
    assert "never reaches" in rows["unused/kernel"]["skipped"]
    assert (array(model.unused.kernel) != 0).all()


def test_a_frozen_layer_stays_dense_and_is_told():
    model = build()
    model.get_layer("hidden").trainable = False
    pruned, report = prune_one_shot(model, smooth(), 0.5, method="wanda", **QUICK)
    rows = {row["path"]: row for row in report.rows()}
    assert "frozen" in rows["hidden/kernel"]["skipped"]
    assert (array(pruned.get_layer("hidden").kernel) != 0).all()


def test_a_nan_names_the_layer():
    model = build()
    model.get_layer("norm").gamma.assign(np.full(8, np.nan))
    with pytest.raises(ValueError, match="'hidden'.*NaN"):
        prune_one_shot(model, smooth(), 0.5, check=False, **QUICK)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"allocation": "global"}, "one kernel after the other"),
        ({"method": "adm"}, "Did you mean 'admm'"),
        ({"target_sparsity": 1.5}, "target_sparsity"),
        ({"num_samples": 0}, "num_samples"),
        ({"include": "nothing"}, "nothing"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        prune_one_shot(
            build(), smooth(), **{"target_sparsity": 0.5} | settings, **QUICK
        )


def test_wrapped_layers_in_place_are_refused():
    model = wrap(build(), target_sparsity=0.5)
    with pytest.raises(ValueError, match="PrunedLayer"):
        prune_one_shot(model, smooth(), 0.5, in_place=True, **QUICK)


@pytest.mark.parametrize("attention", ["multi_head", "grouped_query"])
def test_heads_go_together_with_the_rows_that_consume_them(attention):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    if attention == "multi_head":
        layer, parts = layers.MultiHeadAttention(4, 3), ("query", "key", "value")
    else:
        layer, parts = layers.GroupQueryAttention(3, 4, 2), ("query", "key", "value")
    x = layers.Dense(8, activation="relu")(inputs)
    model = keras.Model(inputs, layer(x, x))
    weights = {v.path.split("/", 1)[1]: v for v in layer.weights}
    # The first head contributes next to nothing, though its weights are large.
    output = weights["attention_output/kernel"]
    value = np.array(output)
    value[: len(value) // (4 if attention == "multi_head" else 2)] *= 1e-4
    output.assign(value)
    weights["query/kernel"].assign(3 * weights["query/kernel"])
    pruned, report = prune_one_shot(
        model, smooth(48, (5, 8)), 0.5, pattern="mha", **QUICK
    )
    found = {v.path.split("/", 1)[1]: np.array(v) for v in pruned.layers[-1].weights}
    rows = found["attention_output/kernel"]
    gone = (rows == 0).all(axis=(1, 2))
    assert (
        gone[0] and gone.mean() == 0.5 and ((rows == 0).any(axis=(1, 2)) == gone).all()
    )
    for part in parts:
        columns = found[f"{part}/kernel"]
        zero = (columns == 0).all(axis=(0, 2))
        assert (zero == gone.reshape(len(zero), -1)[:, 0]).all()
    assert report.sparsity == 0.5
    errors = {row.path.split("/")[-2]: row.error for row in report.kernels if row.zeros}
    assert errors["query"] is None and 0 < errors["attention_output"] < 1


def test_sparsity_is_divided_over_the_heads_of_layers():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(4, 2, name="first")(inputs, inputs)
    x = layers.MultiHeadAttention(4, 2, name="second")(x, x)
    model = keras.Model(inputs, x)
    pruned, report = prune_one_shot(
        model, smooth(48, (5, 8)), 0.5, pattern="mha", **QUICK
    )
    assert report.sparsity == 0.5 and len(report.kernels) == 8


@pytest.mark.skipif(BACKEND == "torch", reason="half precision is slow on a CPU")
def test_half_precision_weights():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, dtype="bfloat16"), layers.Dense(2)]
    )
    pruned, report = prune_one_shot(model, smooth(48, (8,)), 0.5, **QUICK)
    assert report.sparsity == 0.5
    assert pruned.layers[0].kernel.dtype == "bfloat16"


def test_few_rows_are_told(caplog):
    model = keras.Sequential([keras.Input((20,)), layers.Dense(8)])
    _, report = prune_one_shot(model, smooth(5, (20,)), 0.5, **QUICK)
    told = "5 for 20 in '" + report.kernels[0].path
    assert told in " ".join(str(report).split()) and told in caplog.text
    caplog.clear()
    _, report = prune_one_shot(model, smooth(20, (20,)), 0.5, **QUICK)
    assert report.advice is None and not caplog.text


@pytest.mark.parametrize("target", [0.99, 0.995, 0.37])
def test_total_is_exact_also_beyond_the_measured_errors(target):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((24,)), layers.Dense(64, activation="relu"), layers.Dense(24)]
    )
    _, report = prune_one_shot(model, smooth(48, (24,)), target, **QUICK)
    weights = sum(row.parameters for row in report.kernels)
    assert sum(row.zeros for row in report.kernels) == round(target * weights)


@pytest.mark.parametrize(
    "setting", [{"end_step": 9}, {"criterion": "snip"}, {"start_step": 1}]
)
def test_settings_of_training_are_refused(setting):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="has no meaning for `prune_one_shot`"):
        prune_one_shot(model, smooth(8, (4,)), 0.5, **setting)


@slow_where_compiled
def test_allocation_of_a_config_is_used():
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(8, activation="relu"), layers.Dense(4)]
    )
    config = {"allocation": "uniform", "target_sparsity": 0.5}
    _, report = prune_one_shot(model, smooth(48, (8,)), config=config, **QUICK)
    assert [row.sparsity for row in report.kernels] == [0.5, 0.5] and not report.curves
    x = smooth(48, (8,))
    _, report = prune_one_shot(
        model, x, config=config, allocation="error_curves", **QUICK
    )
    assert len(report.curves) == 2


def test_outputs_that_are_no_real_numbers_have_no_error():
    inputs = keras.Input((8,))
    x = layers.Dense(4)(layers.Dense(8, activation="relu")(inputs))
    model = keras.Model(inputs, ops.argmax(x, axis=-1))
    _, report = prune_one_shot(model, smooth(48, (8,)), 0.5, **QUICK)
    assert report.sparsity == 0.5 and len(report.curves) == 2


def test_unknown_allocation_is_told_what_is_known():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    with pytest.raises(ValueError, match="'error_curve'.*error_curves, owl.*uniform"):
        prune_one_shot(model, smooth(8, (4,)), 0.5, allocation="error_curve")


def test_a_kernel_with_little_influence_on_the_outputs_loses_more():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16,))
    strong = layers.Dense(16, name="strong")(inputs)
    weak = layers.Dense(16, name="weak")(inputs)
    model = keras.Model(inputs, strong + 0.01 * weak)
    pruned, report = prune_one_shot(model, smooth(96, (16,)), 0.5, **QUICK)
    shares = {row.path.split("/")[0]: row.sparsity for row in report.kernels}
    assert shares["weak"] > shares["strong"] + 0.2
    # At the target, the curve has the geometric mean of both errors.
    x = smooth(96, (16,))
    alone, of_alone = prune_one_shot(model, x, 0.5, include="strong", **QUICK)
    expected, found = (value_of(each(x)) for each in (model, alone))
    error = ((found - expected) ** 2).sum() / ((expected - expected.mean(0)) ** 2).sum()
    found = dict(report.curves["strong/kernel"])[0.5]
    own = of_alone.kernels[0].error
    assert found == pytest.approx((own * error) ** 0.5, rel=1e-3)

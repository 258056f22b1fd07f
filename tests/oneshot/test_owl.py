"""Sparsities by outliers: near the target, and lower where scores stand out."""

import keras
import numpy as np
import pytest
from conftest import BACKEND
from keras import layers, ops

from keras_pruner import PruningConfig, prune_one_shot
from keras_pruner.config import SAMPLED_ALLOCATIONS
from keras_pruner.oneshot.division.owl import outlier_ratio, owl_sparsities

RATIOS = {"a": 0.0, "b": 0.02, "c": 0.1}
SIZES = {"a": 4000, "b": 10, "c": 500}


def total(found):
    return sum(found[path] * SIZES[path] for path in SIZES) / sum(SIZES.values())


@pytest.mark.parametrize("target", [0.05, 0.3, 0.7, 0.95])
def test_the_total_is_exact_and_sparsities_are_near(target):
    found = owl_sparsities(RATIOS, SIZES, target)
    assert total(found) == pytest.approx(target, abs=1e-9)
    assert found["a"] > found["b"] > found["c"]
    assert all(abs(s - target) < 0.0801 and 0 <= s <= 0.99 for s in found.values())


def test_equal_ratios_are_uniform():
    found = owl_sparsities(dict.fromkeys(SIZES, 0.01), SIZES, 0.6)
    assert found == pytest.approx(dict.fromkeys(SIZES, 0.6))


def test_caps_bind_and_others_make_up():
    found = owl_sparsities(RATIOS, SIZES, 0.7, caps=(0.69, 0.705))
    assert total(found) == pytest.approx(0.7)
    assert found["c"] == 0.69 and found["a"] <= 0.705


def test_outliers_exceed_a_multiple_of_the_mean():
    scores = np.ones((4, 5), "float32")
    scores[0] = 12.0  # The mean is 3.2, so 12 is above 3 times and below 5 times that.
    assert outlier_ratio(ops.convert_to_tensor(scores)) == 0
    assert outlier_ratio(ops.convert_to_tensor(scores), 3.0) == pytest.approx(0.25)


def model_and_data():
    """Rows of the first kernel differ a thousandfold in scale."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32,)),
            layers.Dense(24, activation="relu", name="first"),
            layers.Dense(16, activation="relu", name="second"),
            layers.Dense(4, name="third"),
        ]
    )
    x = np.random.default_rng(1).normal(size=(64, 32)) * np.geomspace(0.01, 10, 32)
    return model, x.astype("float32")


def test_prune_one_shot_equals_numpy():
    model, x = model_and_data()
    _, report = prune_one_shot(
        model, x, 0.6, method="magnitude", allocation="owl", verbose=False
    )
    rows, ratios, sizes = x, {}, {}
    for layer in model.layers:
        kernel, bias = layer.get_weights()
        scores = np.abs(kernel) * np.linalg.norm(rows, axis=0)[:, None]
        path = f"{layer.name}/kernel"
        ratios[path] = float((scores > 5 * scores.mean()).mean())
        sizes[path] = kernel.size
        rows = np.maximum(rows @ kernel + bias, 0)
    assert len(set(ratios.values())) > 1
    expected = owl_sparsities(ratios, sizes, 0.6)
    found = {row["path"]: row["sparsity"] for row in report.rows()}
    assert found == {
        path: pytest.approx(s, abs=1.5 / sizes[path]) for path, s in expected.items()
    }
    zeros = sum(row["zeros"] for row in report.rows())
    assert zeros == round(0.6 * sum(sizes.values()))
    assert report.curves == {}


@pytest.mark.parametrize("pattern, target", [("2:4", 0.5), ("1:4", 0.2), ("1x4", 0.7)])
def test_owl_takes_patterns(pattern, target):
    model, x = model_and_data()
    _, report = prune_one_shot(
        model, x, target, method="wanda", allocation="owl", pattern=pattern,
        verbose=False,
    )  # fmt: skip
    assert report.sparsity == pytest.approx(target, abs=5e-3)


@pytest.mark.parametrize("allocation", SAMPLED_ALLOCATIONS)
def test_heads_are_one_unit(allocation):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(4, 2, name="first")(inputs, inputs)
    x = layers.MultiHeadAttention(4, 2, name="second")(x, x)
    x_train = np.random.default_rng(1).normal(size=(32, 5, 8)).astype("float32")
    _, report = prune_one_shot(
        keras.Model(inputs, x), x_train, 0.5, method="wanda", pattern="mha",
        allocation=allocation, verbose=False,
    )  # fmt: skip
    assert report.sparsity == 0.5
    if allocation == "error_curves":
        assert list(report.curves) == ["first", "second"]
        lines = report.plot_curves().get_lines()
        zeros = [r["zeros"] for r in report.rows() if r["path"].startswith("first/")]
        assert lines[1].get_xdata()[0] == sum(zeros) / 256


@pytest.mark.parametrize("name", SAMPLED_ALLOCATIONS)
def test_a_config_refuses_what_needs_samples(name):
    with pytest.raises(ValueError, match="needs samples.*prune_one_shot"):
        PruningConfig(allocation=name)
    with pytest.raises(ValueError, match="needs samples"):
        PruningConfig(local_configs=[{"include": "a", "allocation": name}])


@pytest.mark.skipif(BACKEND == "torch", reason="matplotlib is the same everywhere")
def test_curves_are_kept_and_drawn():
    model, x = model_and_data()
    _, report = prune_one_shot(model, x, 0.6, method="wanda", verbose=False)
    assert list(report.curves) == [row["path"] for row in report.rows()]
    for curve in report.curves.values():
        sparsities, errors = zip(*curve, strict=True)
        assert sparsities == (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
        assert errors[0] == min(errors) > 0
    lines = report.plot_curves().get_lines()
    assert len(lines) == 2 * 3
    np.testing.assert_allclose(
        lines[0].get_xydata(), report.curves["first/kernel"], rtol=1e-6
    )
    assert lines[1].get_xdata()[0] == report.kernels[0].sparsity
    _, report = prune_one_shot(
        model, x, 0.6, method="wanda", allocation="uniform", verbose=False
    )
    with pytest.raises(ValueError, match="no error curves"):
        report.plot_curves()


def test_curves_reach_beyond_a_high_target():
    model, x = model_and_data()
    _, report = prune_one_shot(model, x, 0.985, method="wanda", verbose=False)
    assert report.sparsity == pytest.approx(0.985, abs=1e-3)

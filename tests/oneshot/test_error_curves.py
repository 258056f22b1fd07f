"""Sparsities by error curves: the cheapest weights go first."""

import pytest

from keras_pruner.oneshot.division.error_curves import GRID, curve_sparsities

LINE = [(s, s) for s in GRID]
STEEP = [(s, 10 * s) for s in GRID]


def total(found, sizes):
    return sum(found[path] * sizes[path] for path in sizes) / sum(sizes.values())


@pytest.mark.parametrize("target", [0.0, 0.1, 0.45, 0.8, 0.95])
def test_the_total_is_met(target):
    sizes = {"a": 1000, "b": 10, "c": 400}
    curves = {"a": LINE, "b": STEEP, "c": [(s, s**4) for s in GRID]}
    assert total(curve_sparsities(curves, sizes, target), sizes) == pytest.approx(
        target
    )


def test_slopes_count_for_each_weight():
    # The same curve costs a large kernel less for each weight.
    found = curve_sparsities(
        {"small": LINE, "large": LINE}, {"small": 10, "large": 90}, 0.5
    )
    assert found["small"] == 0
    assert found["large"] == pytest.approx(0.5 * 100 / 90)


def test_a_curve_that_falls_counts_as_flat():
    bumpy = [(0.3, 0.5), (0.6, 0.1), (0.9, 0.9)]
    found = curve_sparsities({"a": bumpy, "b": [(0.9, 0.4)]}, {"a": 10, "b": 10}, 0.45)
    assert found == pytest.approx({"a": 0.0, "b": 0.9})


def test_caps_bind_and_others_make_up():
    sizes = {"a": 100, "b": 100}
    found = curve_sparsities({"a": LINE, "b": STEEP}, sizes, 0.5, caps=(0.1, 0.7))
    assert found == pytest.approx({"a": 0.7, "b": 0.3})
    found = curve_sparsities({"a": LINE, "b": STEEP}, sizes, 0.3, caps=(0.1, 0.7))
    assert found == pytest.approx({"a": 0.5, "b": 0.1})


def test_equal_slopes_are_taken_in_order():
    found = curve_sparsities({"b": LINE, "a": LINE}, {"b": 10, "a": 10}, 0.4)
    assert found == pytest.approx({"b": 0.8, "a": 0.0})

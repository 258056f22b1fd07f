"""Which channels go: the order in a group, and the counts of all groups."""

import numpy as np
import pytest

from keras_pruner.slimming.structured.choose import choose_counts
from keras_pruner.slimming.structured.elimination import Consumer, eliminate
from keras_pruner.slimming.structured.targets import read_target

DAMPING = 0.01


def consumer(num_channels, width, seed, num_rows=200, outputs=5):
    rng = np.random.default_rng(seed)
    size = num_channels * width
    inputs = rng.normal(size=(num_rows, size)) @ rng.normal(size=(size, size))
    rows = tuple(np.arange(size).reshape(num_channels, width))
    return Consumer(
        inputs.T @ inputs / num_rows, rng.normal(size=(size, outputs)), rows
    )


def least_error(consumer, channels):
    """The relative error if the rows of some channels go, by a direct solution."""
    hessian, weights, rows = consumer
    size = len(hessian)
    hessian = hessian + DAMPING * np.diag(hessian).mean() * np.eye(size)
    gone = np.concatenate([rows[channel] for channel in channels])
    left = np.setdiff1d(np.arange(size), gone)
    fitted = np.zeros_like(weights)
    fitted[left] = np.linalg.solve(
        hessian[np.ix_(left, left)], (hessian @ weights)[left]
    )
    change = weights - fitted
    return np.sum(change * (hessian @ change)) / np.sum(weights * (hessian @ weights))


@pytest.mark.parametrize("width", [1, 3])
def test_error_is_that_of_the_best_weights_on_the_remaining_rows(width):
    given = consumer(12, width, seed=0)
    found = eliminate([given], 12)
    assert sorted(found.order) == list(range(12))
    for count in (1, 5, 11):
        expected = least_error(given, found.order[:count])
        np.testing.assert_allclose(found.errors[count], expected, rtol=1e-6)
    assert found.errors[0] == 0
    assert (np.diff(found.errors) >= 0).all()


def test_first_removal_is_the_best_one():
    given = consumer(8, 2, seed=1)
    errors = [least_error(given, [channel]) for channel in range(8)]
    assert eliminate([given], 8).order[0] == np.argmin(errors)


def test_errors_of_all_consumers_add_up():
    pair = [consumer(8, 1, seed=2), consumer(8, 2, seed=3)]
    found = eliminate(pair, 8)
    expected = sum(least_error(each, found.order[:4]) for each in pair)
    np.testing.assert_allclose(found.errors[4], expected, rtol=1e-6)


def test_large_groups_go_in_steps_with_exact_errors_at_their_ends():
    given = consumer(60, 1, seed=4, num_rows=300)
    found = eliminate([given], 60)
    # Three of sixty go in the first step.
    np.testing.assert_allclose(
        found.errors[3], least_error(given, found.order[:3]), rtol=1e-6
    )


def test_dead_and_constant_inputs():
    hessian = np.zeros((3, 3))
    found = eliminate([Consumer(hessian, np.ones((3, 2)), ([0], [1], [2]))], 3)
    assert np.isfinite(found.errors).all()


def test_channels_without_rows_go_first():
    given = consumer(4, 1, seed=5)
    rows = (given.rows[0], np.empty(0, int), *given.rows[1:])
    assert eliminate([given._replace(rows=rows)], 5).order[0] == 1


def product(counts):
    # Two layers: 4 -> a -> b -> 2 channels.
    a, b = 8 - counts["a"], 8 - counts["b"]
    return 4 * a + a * b + 2 * b


def test_choice_meets_the_budget_and_no_group_loses_all():
    curves = {"a": np.linspace(0, 1, 9), "b": np.linspace(0, 1, 9) ** 2}
    for budget in (100, 60, 30, 0):
        counts = choose_counts(curves, product, budget)
        assert product(counts) <= max(budget, 7)
        assert max(counts.values()) <= 7


def test_cost_falls_with_the_budget():
    curves = {"a": np.linspace(0, 1, 9) ** 3, "b": np.linspace(0, 1, 9) ** 2}
    costs = [
        product(choose_counts(curves, product, budget)) for budget in range(7, 112, 3)
    ]
    assert costs == sorted(costs)


def test_choice_takes_the_group_whose_error_rises_least():
    flat = np.array([0, 0, 0, 0, 0, 0.1, 0.2, 0.5, 1])
    steep = np.linspace(0, 1, 9)
    counts = choose_counts({"a": flat, "b": steep}, product, 80)
    assert counts["a"] > counts["b"]


def test_limits_and_multiples():
    curves = {"a": np.linspace(0, 1, 9), "b": np.linspace(0, 1, 9)}
    counts = choose_counts(
        curves, product, 0, most={"a": 5}, multiples={"a": 2, "b": 4}
    )
    assert counts == {"a": 4, "b": 4}


def test_targets():
    assert read_target(None, {"flops": 0.5}).budget(10) == 5
    assert read_target(None, {"bytes": "1 MB"}).budget(10) == 1e6
    assert read_target({"latency": "5 ms"}, {}).budget(1) == pytest.approx(0.005)
    assert read_target(None, {"parameters": 1000}).budget(1) == 1000


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "Give one target"),
        ({"flops": 0.5, "bytes": 0.5}, "Give one target"),
        ({"flop": 0.5}, "Did you mean 'flops'"),
        ({"flops": 0}, "share of the given model"),
        ({"flops": float("nan")}, "share of the given model"),
        ({"latency": 5}, "'5 ms'"),
        ({"bytes": "1 mile"}, "Units: B, KB, MB, GB"),
        ({"bytes": "-1 MB"}, "share of the given model"),
    ],
)
def test_wrong_targets(given, message):
    with pytest.raises(ValueError, match=message):
        read_target(given, {})


@pytest.mark.parametrize("given", [0.5, {"flops": True}, {"flops": None}])
def test_targets_of_wrong_type(given):
    with pytest.raises(TypeError, match="share of|`target` is a dict"):
        read_target(given, {})


def test_choice_is_near_the_best_of_all_choices():
    rng = np.random.default_rng(0)
    for _ in range(20):
        curves = {
            name: np.cumsum(np.append(0, np.sort(rng.random(8) ** 3)))
            for name in ("a", "b")
        }
        budget = rng.uniform(20, 90)
        counts = choose_counts(curves, product, budget)
        error = sum(curves[name][count] for name, count in counts.items())
        best = min(
            curves["a"][a] + curves["b"][b]
            for a in range(8)
            for b in range(8)
            if product({"a": a, "b": b}) <= budget
        )
        largest = sum(curve[-1] for curve in curves.values())
        assert error - best < 0.1 * largest

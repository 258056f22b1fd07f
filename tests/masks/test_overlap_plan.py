"""Units that share weights: the host chooses groups by what they leave of the model."""

import dataclasses
import logging

import keras
import numpy as np
import pytest

from keras_pruner import PruningConfig
from keras_pruner.components.patterns import ChannelGroups, ChannelSlices
from keras_pruner.components.patterns.channel_groups import ChannelCoupling
from keras_pruner.kernels import Kernel, dense_layout
from keras_pruner.masks import PruningPlan, plan_for


def kernel(path, shape, slices, is_scored=True):
    """A variable with slices: pairs of a unit and a list of (axis, indices)."""
    couplings = tuple(
        ChannelCoupling(unit, ChannelSlices(len(own[0][1]), own))
        for unit, own in slices.items()
    )
    return Kernel(
        path,
        keras.Variable(np.zeros(shape, "float32")),
        dense_layout(shape),
        couplings=couplings,
        is_scored=is_scored,
    )


def each(number):
    return [[index] for index in range(number)]


def chain():
    """Dense layers 4 -> 10 -> 10 -> 3, whose two inner widths are groups a and b."""
    a, b = each(10), each(10)
    return [
        kernel("a/kernel", (4, 10), {"a": [(1, a)]}),
        kernel("a/bias", (10,), {"a": [(0, a)]}, is_scored=False),
        kernel("b/kernel", (10, 10), {"a": [(0, a)], "b": [(1, b)]}),
        kernel("b/bias", (10,), {"b": [(0, b)]}, is_scored=False),
        kernel("c/kernel", (10, 3), {"b": [(0, b)]}),
    ]


SIZE = 40 + 10 + 100 + 10 + 30


def plan_of(kernels=None, **settings):
    config = {"pattern": "channel_groups", "target_sparsity": 0.5} | settings
    config = PruningConfig(**config).completed("magnitude", "polynomial")
    return plan_for(config, chain() if kernels is None else kernels)


def removed(a, b):
    """Weights of the chain that are zero without some channels of a and b."""
    kept = 4 * (10 - a) + (10 - a) + (10 - a) * (10 - b) + (10 - b) + 3 * (10 - b)
    return SIZE - kept


def scores(a, b):
    return [np.asarray(a, "float32"), np.asarray(b, "float32")]


ASCENDING = scores(np.arange(10), np.arange(10) + 0.5)


def counts(marks):
    return [int(own.sum()) for own in marks]


@pytest.mark.parametrize("sparsity", [0.01, 0.1, 0.3, 0.5, 0.8])
def test_it_prunes_the_fewest_channels_that_reach_the_target(sparsity):
    plan = plan_of()
    made = counts(plan.choose(ASCENDING, plan.demand(sparsity)))
    # In the order of their scores: one of a, one of b, one of a, ...
    ranking = [(n - n // 2, n // 2) for n in range(19)]
    expected = next(c for c in ranking if removed(*c) >= sparsity * SIZE)
    assert made == list(expected)
    assert plan.num_weights == SIZE


def test_equal_scores_are_pruned_by_unit_and_index():
    plan = plan_of()
    marks = plan.choose(scores([1] * 10, [1] * 10), plan.demand(0.3))
    # Each channel of a has 4 + 1 + 10 weights, and the target is 57 of them.
    assert counts(marks) == [4, 0]
    assert np.flatnonzero(marks[0]).tolist() == [0, 1, 2, 3]


def test_nothing_is_pruned_at_sparsity_zero():
    plan = plan_of()
    demand = plan.demand(0.0)
    assert demand.target == 0 and not any(demand.counts)
    assert counts(plan.choose(ASCENDING, demand)) == [0, 0]


def test_each_group_keeps_a_floor():
    low = scores([0] * 10, [9] * 10)
    for floor, most in ((0.1, 9), (0.25, 7), (0.0, 9)):
        plan = plan_of(pattern=ChannelGroups(floor=floor), target_sparsity=0.7)
        assert counts(plan.choose(low, plan.demand(0.7)))[0] == most
    plan = plan_of(max_sparsity=0.4, target_sparsity=0.4)
    assert counts(plan.choose(low, plan.demand(0.4)))[0] == 4
    with pytest.raises(ValueError, match="reaches a sparsity of at most"):
        plan_of(max_sparsity=0.2, target_sparsity=0.5)


def test_a_target_beyond_the_floor_ends_below_it(caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        plan = plan_of(target_sparsity=0.95, pattern=ChannelGroups(floor=0.5))
    assert plan.final_sparsity == removed(5, 5) / SIZE
    assert "keeps the share `floor=0.5` of its channels" in caplog.text
    assert counts(plan.choose(ASCENDING, plan.demand(plan.final_sparsity))) == [5, 5]


def test_kept_channels_are_a_multiple_of_an_integer():
    plan = plan_of(pattern=ChannelGroups(round_to=4))
    for sparsity in np.linspace(0.05, 0.6, 12):
        marks = plan.choose(ASCENDING, plan.demand(sparsity))
        assert {10 - count for count in counts(marks)} <= {10, 8, 4}


def test_min_sparsity_prunes_a_share_of_each_group():
    plan = plan_of(min_sparsity=0.3)
    assert counts(plan.choose(scores([0] * 10, [9] * 10), plan.demand(0.5)))[1] == 3
    with pytest.raises(ValueError, match="`min_sparsity` of each group .* Lower it"):
        plan_of(min_sparsity=0.9)


def test_uniform_allocation_prunes_the_same_share_of_each_group():
    plan = plan_of(allocation="uniform")
    low = scores(np.arange(10), np.arange(10) + 100)
    a, b = counts(plan.choose(low, plan.demand(0.5)))
    assert abs(a - b) <= 1
    assert removed(a, b) >= 0.5 * SIZE > removed(a - 1, b)


def test_custom_allocation_gives_shares_of_channels():
    plan = plan_of(allocation={"a": 0.6, "b": 0.2})
    assert plan.final_sparsity == removed(6, 2) / SIZE
    assert counts(plan.choose(ASCENDING, plan.demand(plan.final_sparsity))) == [6, 2]
    half = plan.demand(plan.final_sparsity / 2)
    assert counts(plan.choose(ASCENDING, half)) == [3, 1]


def test_pinned_groups_go_first():
    plan = plan_of()
    demand = plan.demand(0.0, pinned=[2, 3])
    assert counts(plan.choose(ASCENDING, demand)) == [2, 3]


def test_released_units_stay_dense_and_do_not_count():
    plan = plan_of()
    plan.release([1])
    # Without the bias of b and the last kernel.
    assert plan.num_weights == 150
    marks = plan.choose(ASCENDING, plan.demand(0.5))
    assert counts(marks) == [5, 0]


def test_an_index_of_two_channels_is_zero_if_either_is_pruned():
    # Heads of 2 x 3 indices: index i belongs to head i // 3 and dimension i % 3.
    heads = [[0, 1, 2], [3, 4, 5]]
    dimensions = [[0, 3], [1, 4], [2, 5]]
    made = kernel("k", (5, 6), {"heads": [(1, heads)], "sizes": [(1, dimensions)]})
    plan = plan_of([made], target_sparsity=0.6)
    marks = plan.choose([np.array([0.0, 9.0]), np.array([1.0, 8, 9])], plan.demand(0.6))
    # One head and one dimension leave 1 x 2 of 2 x 3 indices.
    assert counts(marks) == [1, 1]


def test_other_patterns_have_the_plan_of_counts():
    config = PruningConfig().completed("magnitude", "polynomial")
    plain = [dataclasses.replace(k, couplings=()) for k in chain()]
    assert type(plan_for(config, plain)) is PruningPlan

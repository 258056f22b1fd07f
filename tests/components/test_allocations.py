"""How a target is divided over kernels: literal counts, and NumPy references."""

import math

import keras
import numpy as np
import pytest
from conftest import value_of
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_pruner.backend import CompiledFunction
from keras_pruner.components import (
    ALLOCATIONS,
    Allocation,
    Custom,
    Global,
    GlobalL2,
    KernelPlan,
)
from keras_pruner.config import PruningConfig
from keras_pruner.kernels import Kernel, conv_layout, dense_layout
from keras_pruner.masks import PruningPlan, Unit, score_groups
from keras_pruner.masks.budget import (
    allocate_counts,
    floor_groups,
    group_bounds,
    target_weights,
    total_weights,
)
from keras_pruner.pruners import KerasBasePruner

property_test = settings(max_examples=40, deadline=None, derandomize=True)


def plan_of(shape, group_size=1, path="dense/kernel"):
    layout = dense_layout(shape) if len(shape) == 2 else conv_layout(shape)
    return KernelPlan(path, layout, layout.size // group_size, group_size)


def counts_of(name, sparsity, plans, lowest=0.0, highest=1.0):
    bounds = group_bounds(plans, lowest, highest)
    return allocate_counts(ALLOCATIONS.get(name), sparsity, plans, *bounds)


def planned(config, *shapes):
    """A plan for kernels named a, b, c, ... of dense shapes."""
    kernels = [
        Kernel(f"{name}/kernel", None, dense_layout(shape))
        for name, shape in zip("abcdef", shapes, strict=False)
    ]
    return PruningPlan(PruningConfig(**config), kernels)


def erk_densities(dimensions, density):
    """Solves ERK the way its authors do: saturate the densest, then solve again."""
    sizes = np.array([math.prod(d) for d in dimensions], "float64")
    raw = np.array([sum(d) for d in dimensions]) / sizes
    dense = np.zeros(len(sizes), bool)
    while True:
        budget = density * sizes.sum() - sizes[dense].sum()
        factor = budget / (raw * sizes)[~dense].sum()
        if (factor * raw[~dense]).max() <= 1:
            return np.where(dense, 1.0, factor * raw)
        dense |= raw == raw[~dense].max()


# Targets and bounds.


def test_target_rounds_half_to_even():
    # 2.5 and 3.5 weights.
    assert target_weights(0.5, [plan_of((1, 5))]) == 2
    assert target_weights(0.5, [plan_of((1, 7))]) == 4


def test_target_counts_the_weights_of_all_kernels():
    plans = [plan_of((4, 5)), plan_of((3, 3, 2, 5))]
    assert total_weights(plans) == 20 + 90
    assert target_weights(0.9, plans) == 99


def test_bounds_are_whole_groups_inside_the_caps():
    # Of 10 groups: at least 2.5, at most 7.5.
    assert group_bounds([plan_of((2, 5))], 0.25, 0.75) == ([3], [7])
    # Of 5 groups of 2.
    assert group_bounds([plan_of((2, 5), group_size=2)], 0.25, 0.75) == ([2], [3])


def test_bounds_are_not_lost_to_floating_point():
    # 0.29 * 100 is 28.999999999999996, and 0.07 * 100 is 7.000000000000001.
    assert group_bounds([plan_of((10, 10))], 0.07, 0.29) == ([7], [29])


def test_bounds_without_caps_are_none_and_all():
    assert group_bounds([plan_of((2, 5)), plan_of((3, 4))], 0, 1) == ([0, 0], [10, 12])


# The floor.


def test_floor_is_a_hundredth_of_the_groups_rounded_up():
    plans = [plan_of((70, 10)), plan_of((70, 10), 70), plan_of((3, 3)), plan_of((1, 1))]
    assert floor_groups(plans, 0.8) == [7, 1, 1, 1]


def test_floors_take_at_most_half_of_what_the_target_leaves():
    # 1 % is 100 and 300; half of 800, 400 and 40 weights is left for both.
    plans = [plan_of((100, 100)), plan_of((300, 100))]
    found = [floor_groups(plans, sparsity) for sparsity in (0.98, 0.99, 0.999, 0.9999)]
    assert found == [[100, 300], [50, 150], [5, 15], [1, 1]]


def test_floor_is_none_for_groups_that_cannot_empty_a_kernel():
    layout = dense_layout((8, 4))
    assert floor_groups([KernelPlan("a", layout, 8, 2)], 0.4) == [0]


@pytest.mark.parametrize("allocation", ["erk", "uniform", "per_output", "global"])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.98, 0.99])
def test_floor_bounds_every_allocation(allocation, sparsity):
    config = {"target_sparsity": sparsity, "allocation": allocation}
    plan = planned(config, (2, 2), (4, 100), (100, 100))
    demand, floors = plan.demand(sparsity), floor_groups(plan.kernels, sparsity)
    assert demand.target == target_weights(sparsity, plan.kernels)
    sizes = [4, 400, 10000]
    assert demand.upper == [n - k for n, k in zip(sizes, floors, strict=True)]
    if allocation != "global":
        pairs = zip(demand.counts, demand.upper, strict=True)
        assert all(count <= most for count, most in pairs)
        assert sum(demand.counts) == demand.target


def test_rounding_empties_no_kernel_of_a_uniform_allocation():
    config = {"target_sparsity": 0.9, "allocation": "uniform"}
    # 3.6 of 4 weights round to all of them; the others give one more.
    assert planned(config, (2, 2), (10, 10)).demand(0.9).counts == [3, 91]
    open_config = config | {"max_sparsity": 1.0}
    assert planned(open_config, (2, 2), (10, 10)).demand(0.9).counts == [4, 90]


@pytest.mark.parametrize("allocation", ["erk", "uniform", "global_l2"])
def test_target_that_leaves_nothing_keeps_a_weight_a_kernel(allocation, caplog):
    config = {"target_sparsity": 0.9999, "allocation": allocation}
    plan = planned(config, (10, 5), (10, 5))
    assert plan.final_sparsity == 0.98
    assert "ends at a sparsity of 0.9800, below the target of 0.9999" in caplog.text
    demand = plan.demand(plan.final_sparsity)
    assert demand.upper == [49, 49] and demand.target == 98
    assert planned(config | {"max_sparsity": 1.0}, (10, 10)).final_sparsity == 0.9999


def test_floor_of_channels_is_one_channel(caplog):
    config = {"target_sparsity": 0.9, "pattern": "1xchannel", "allocation": "erk"}
    assert planned(config, (10, 2), (10, 2)).final_sparsity == 0.5
    assert "at least one group of pattern '1xchannel'" in caplog.text


def test_cap_of_the_user_replaces_the_floor():
    for cap, most in ((None, 990), (1.0, 1000), (0.999, 999), (0.95, 950)):
        config = {"target_sparsity": 0.9, "max_sparsity": cap, "allocation": "global"}
        assert planned(config, (100, 10)).demand(0.9).upper == [most]


def test_pinned_zeros_win_over_the_floor():
    config = {"target_sparsity": 0.8, "allocation": "global"}
    plan = planned(config, (10, 10), (10, 10))
    demand = plan.demand(0.8, pinned=[100, 0])
    assert (demand.lower, demand.upper) == ([100, 0], [100, 99])


def test_custom_sparsity_of_one_empties_a_kernel_and_no_other_does():
    config = {"allocation": {"a": 1.0, "b": 0.95, "c": 0.99}}
    plan = planned(config, (2, 2), (2, 2), (100, 10))
    assert plan.demand(plan.final_sparsity).counts == [4, 3, 990]


# Uniform.


def test_uniform_gives_every_kernel_the_same_share():
    plans = [plan_of((10, 10)), plan_of((4, 5))]
    assert counts_of("uniform", 0.9, plans) == [90, 18]


def test_uniform_rounds_each_kernel_half_to_even():
    # 2.5, 3.5 and 4.5 weights.
    plans = [plan_of((1, 5)), plan_of((1, 7)), plan_of((1, 9))]
    assert counts_of("uniform", 0.5, plans) == [2, 4, 4]


def test_uniform_counts_groups():
    # 0.5 of 5 groups of 4, and of 3 groups of 4.
    plans = [plan_of((4, 5), group_size=4), plan_of((4, 3), group_size=4)]
    assert counts_of("uniform", 0.5, plans) == [2, 2]


def test_uniform_of_nothing_prunes_nothing():
    assert counts_of("uniform", 0.0, [plan_of((4, 5)), plan_of((2, 3))]) == [0, 0]


# ERK.


def test_erk_keeps_thin_kernels_denser():
    # Kept: eps * (20 + 200) = 1010 of 10100, so 91.8 of 100 and 918.2 of 10000.
    plans = [plan_of((10, 10)), plan_of((100, 100))]
    assert counts_of("erk", 0.9, plans) == [8, 9082]


def test_erk_of_equal_kernels_is_uniform():
    plans = [plan_of((8, 8)), plan_of((8, 8))]
    assert counts_of("erk", 0.75, plans) == [48, 48]


def test_erk_keeps_a_saturated_kernel_dense_and_the_total_exact():
    # Alone, the first would need a density above 1: 5008 / 208 * 8 / 16 = 12.
    plans = [plan_of((4, 4)), plan_of((100, 100))]
    assert counts_of("erk", 0.5, plans) == [0, 5008]


def test_erk_counts_the_window_among_the_dimensions():
    # (3 + 3 + 8 + 16) / 1152 and (16 + 10) / 160: kept 30 eps and 26 eps of 328.
    plans = [plan_of((3, 3, 8, 16)), plan_of((16, 10))]
    densities = ALLOCATIONS.get("erk").relative_densities(plans)
    assert densities == pytest.approx([30 / 1152, 26 / 160])
    # 656 / 56 * 30 = 351.4, and 656 / 56 * 26 = 304.6 saturates at 160.
    assert counts_of("erk", 0.5, plans) == [656, 0]
    # 131 / 56 * 30 = 70.2 and 131 / 56 * 26 = 60.8 stay.
    assert counts_of("erk", 1181 / 1312, plans) == [1082, 99]


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.9, 0.98])
def test_erk_equals_the_published_algorithm(sparsity):
    # A small ResNet's shapes; the head and the first kernel saturate at times.
    shapes = [(3, 3, 3, 16), (3, 3, 16, 16), (3, 3, 16, 32), (1, 1, 16, 32), (64, 10)]
    plans = [plan_of(shape) for shape in shapes]
    counts = counts_of("erk", sparsity, plans)
    sizes = np.array([math.prod(shape) for shape in shapes])
    expected = (1 - erk_densities(shapes, 1 - sparsity)) * sizes
    assert sum(counts) == round(sparsity * int(sizes.sum()))
    # Rounded to whole weights, by less than one.
    assert np.abs(counts - expected).max() < 1


def test_erk_of_an_attention_kernel_merges_its_heads():
    # (64, 8, 8) seen as 64 by 64 is like any 64 by 64.
    merged = KernelPlan("q", dense_layout((64, 64)), 4096, 1)
    heads = KernelPlan("o", dense_layout((8, 8, 64)), 4096, 1)
    assert counts_of("erk", 0.75, [merged, heads]) == [3072, 3072]


# Caps.


@pytest.mark.parametrize("name", ["uniform", "erk"])
def test_cap_from_above_gives_the_surplus_to_the_others(name):
    plans = [plan_of((100, 100)), plan_of((10, 10))]
    lower, upper = [0, 0], [8000, 100]
    counts = allocate_counts(ALLOCATIONS.get(name), 0.8, plans, lower, upper)
    # 8080 in all; the first may give 8000.
    assert counts == [8000, 80]


def test_cap_from_above_lets_erk_prune_the_thin_kernel_more():
    # Without caps [8, 9082], which is 0.9082 of the second.
    plans = [plan_of((10, 10)), plan_of((100, 100))]
    assert counts_of("erk", 0.9, plans, highest=0.905) == [40, 9050]


def test_cap_from_below_takes_from_the_others():
    plans = [plan_of((10, 10)), plan_of((100, 100))]
    assert counts_of("erk", 0.9, plans, lowest=0.5) == [50, 9040]


def test_caps_that_fix_a_kernel_leave_the_rest_of_the_total():
    plans = [plan_of((10, 10)), plan_of((10, 10))]
    counts = allocate_counts(ALLOCATIONS.get("uniform"), 0.5, plans, [80, 0], [80, 100])
    assert counts == [80, 20]


@st.composite
def demands(draw):
    """Kernels, bounds that can meet the target, and the target."""
    shapes = st.tuples(st.integers(1, 30), st.integers(1, 30))
    plans = [plan_of(s) for s in draw(st.lists(shapes, min_size=1, max_size=5))]
    upper = [draw(st.integers(0, plan.num_groups)) for plan in plans]
    lower = [draw(st.integers(0, most)) for most in upper]
    target = draw(st.integers(sum(lower), sum(upper)))
    return plans, lower, upper, target


@property_test
@given(st.sampled_from(["uniform", "erk"]), demands())
def test_total_is_exact_within_any_bounds(name, demand):
    plans, lower, upper, target = demand
    sparsity = target / total_weights(plans)
    counts = allocate_counts(ALLOCATIONS.get(name), sparsity, plans, lower, upper)
    assert all(a <= k <= b for a, k, b in zip(lower, counts, upper, strict=True))
    if name == "erk" or len(plans) == 1:
        assert sum(counts) == target
    else:
        # Uniform rounds each kernel by itself.
        assert abs(sum(counts) - target) <= len(plans) / 2


@property_test
@given(
    st.sampled_from(["uniform", "erk"]),
    st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 2, 4])),
        min_size=1,
        max_size=5,
    ),
    st.floats(0, 0.99),
)
def test_total_with_groups_is_within_half_a_group(name, kernels, sparsity):
    plans = [plan_of((rows * size, outs), size) for rows, outs, size in kernels]
    counts = counts_of(name, sparsity, plans)
    made = sum(k * p.group_size for k, p in zip(counts, plans, strict=True))
    if name == "erk":
        assert abs(made - target_weights(sparsity, plans)) <= max(
            plan.group_size / 2 for plan in plans
        )
    else:
        for plan, count in zip(plans, counts, strict=True):
            assert count == round(sparsity * plan.num_weights / plan.group_size)


@property_test
@given(st.lists(st.tuples(*[st.integers(1, 40)] * 2), min_size=1, max_size=5))
def test_erk_never_prunes_less_at_a_higher_target(shapes):
    plans = [plan_of(shape) for shape in shapes]
    made = [counts_of("erk", sparsity, plans) for sparsity in (0.2, 0.5, 0.9)]
    for low, high in zip(made, made[1:], strict=False):
        # Largest remainders move by one weight at most.
        assert all(a <= b + 1 for a, b in zip(low, high, strict=True))
        assert sum(low) <= sum(high)


class Even(Allocation):
    """The same density everywhere, rounded to the total rather than by kernel."""

    def relative_densities(self, plans):
        return [1.0] * len(plans)


@pytest.mark.parametrize(
    ("sparsity", "num_small", "target", "expected"),
    [
        # 2.1 large groups round down, and the small ones add 1.
        (0.7, 40, 49, [2, 29]),
        # 1.8 round up, and the small ones give back 2.
        (0.6, 40, 42, [2, 22]),
        # A tenth of their 20 groups is the most that they add to their 9.
        (0.45, 20, 22, [1, 11]),
        # 2.7 round up, but the last group stays, and the small ones add 4 to their 36.
        (0.9, 40, 63, [2, 39]),
        # They cannot: half a group of 10 is the most that may be missing.
        (0.95, 40, 66, [3, 36]),
    ],
)
def test_small_groups_make_up_for_a_large_one(sparsity, num_small, target, expected):
    plans = [plan_of((10, 3), group_size=10), plan_of((1, num_small))]
    counts = allocate_counts(Even(), sparsity, plans, [0, 0], [3, num_small])
    assert target_weights(sparsity, plans) == target
    assert counts == expected


def test_a_small_kernel_does_not_pay_for_the_rounding_of_large_groups():
    # A small ConvNet under "1xchannel": the filters of conv_1 have 9 weights each, and
    # all 16 together are less than half a unit of the dense layer.
    shapes = [(3, 3, 1, 16), (3, 3, 16, 32), (3, 3, 32, 64), (1024, 32)]
    plans = [plan_of(shape, math.prod(shape[:-1])) for shape in shapes]
    for sparsity in (0.5, 0.75):
        counts = counts_of("erk", sparsity, plans)
        made = sum(k * p.group_size for k, p in zip(counts, plans, strict=True))
        # Its share is to stay dense.
        assert counts[0] <= 2
        assert abs(made - target_weights(sparsity, plans)) <= 512


# Custom.


def test_custom_dict_gives_each_kernel_its_own_sparsity():
    config = {"allocation": {"a": 0.5, "b": 0.25}}
    plan = planned(config, (10, 10), (4, 5), (10, 10))
    # 50 + 5 + 0.9 * 100 of 220.
    assert plan.final_sparsity == pytest.approx(145 / 220)
    assert plan.demand(plan.final_sparsity).counts == [50, 5, 90]


def test_custom_dict_takes_the_first_entry_that_matches():
    config = {"allocation": {"b/kernel": 0.0, ".": 0.5}}
    plan = planned(config, (10, 10), (10, 10))
    assert plan.demand(plan.final_sparsity).counts == [50, 0]


def test_custom_dict_matches_whole_names():
    plans = [plan_of((4, 5), path=f"dense_{n}/kernel") for n in (1, 10)]
    assert Custom({"dense_1": 0.5}).kernel_sparsities(0.9, plans) == [0.5, 0.9]


def test_custom_function_sees_the_plan_of_a_kernel():
    def narrow_ones_less(plan):
        return 0.8 if plan.layout.outputs > 5 else 0.4

    plan = planned({"allocation": narrow_ones_less}, (10, 10), (10, 2))
    assert plan.final_sparsity == pytest.approx(88 / 120)
    assert plan.demand(plan.final_sparsity).counts == [80, 8]


def test_custom_under_a_schedule_gives_each_kernel_the_same_share():
    plan = planned({"allocation": {"a": 0.8, "b": 0.4}}, (10, 10), (10, 10))
    assert plan.final_sparsity == pytest.approx(0.6)
    assert plan.demand(0.3).counts == [40, 20]
    assert plan.demand(0.0).counts == [0, 0]


def test_custom_dict_that_names_no_kernel_is_an_error():
    message = (
        "The allocation names 'z', which matches no pruned kernel. "
        "Kernels: a/kernel, b/kernel"
    )
    with pytest.raises(ValueError, match=message):
        planned({"allocation": {"a": 0.5, "z": 0.5}}, (10, 10), (4, 5))


@pytest.mark.parametrize("sparsity", [-0.1, 101, float("nan")])
def test_custom_sparsity_outside_its_range_is_an_error(sparsity):
    message = (
        r"The sparsity of 'dense/kernel' in `allocation` must be in \[0, 1\]. "
        f"Received: {sparsity}"
    )
    with pytest.raises(ValueError, match=message):
        Custom({"dense/kernel": sparsity})
    with pytest.raises(ValueError, match=message):
        Custom(lambda plan: sparsity).kernel_sparsities(0.9, [plan_of((2, 2))])


@pytest.mark.parametrize("sparsity", ["0.5", None, True])
def test_custom_sparsity_that_is_no_number_is_an_error(sparsity):
    message = "The sparsity of 'a' in `allocation` must be a number. "
    with pytest.raises(TypeError, match=message):
        Custom({"a": sparsity})


@pytest.mark.parametrize(("key", "error"), [("[", ValueError), (1, TypeError)])
def test_custom_key_that_is_no_regular_expression_is_an_error(key, error):
    with pytest.raises(error, match="`allocation` .*regular expression"):
        Custom({key: 0.5})


def test_custom_sparsities_become_python_floats():
    (value,) = Custom({"a": np.float32(0.5)}).get_config()["sparsities"].values()
    assert (value, type(value)) == (0.5, float)


def test_custom_of_another_type_is_an_error():
    message = r"function from a `KernelPlan` to a sparsity. Received: \[0.5\]"
    with pytest.raises(TypeError, match=message):
        Custom([0.5])


def test_custom_beyond_a_cap_is_an_error():
    message = (
        "The allocation gives 'a/kernel' the sparsity 0.9, "
        r"but the caps and pattern '1x1' allow \[0, 0.8\]."
    )
    with pytest.raises(ValueError, match=message):
        planned({"allocation": {"a": 0.9}, "max_sparsity": 0.8}, (10, 10))


def test_custom_keeps_its_own_copy_of_the_dict():
    given_dict = {"a": 0.5}
    allocation = Custom(given_dict)
    given_dict["a"] = 0.9
    assert allocation.sparsities == {"a": 0.5}
    allocation.get_config()["sparsities"]["a"] = 0.1
    assert allocation.sparsities == {"a": 0.5}


def test_custom_dict_reloads_and_a_function_does_not():
    allocation = Custom({"a": 0.5})
    saved = ALLOCATIONS.serialize(allocation)
    assert saved == {"name": "custom", "config": {"sparsities": {"a": 0.5}}}
    assert ALLOCATIONS.get(saved) == allocation
    with pytest.raises(ValueError, match="made of a function cannot be saved. Give"):
        ALLOCATIONS.serialize(Custom(lambda plan: 0.5))


# Caps that cannot be met.


def test_pattern_that_cannot_meet_the_target_says_what_it_can():
    # 1xchannel has 2 groups of 50; the caps allow none of either kernel's.
    config = {
        "pattern": "1xchannel",
        "target_sparsity": 0.4,
        "max_sparsity": 0.4,
        "allocation": "uniform",
    }
    message = (
        "The caps and pattern '1xchannel' allow a sparsity between 0.0000 and 0.0000 "
        "over all kernels, so the target cannot be met. Received: target_sparsity=0.4"
    )
    with pytest.raises(ValueError, match=message):
        planned(config, (50, 2), (50, 2))


def test_caps_without_a_whole_group_between_them_are_an_error():
    config = {
        "pattern": "1xchannel",
        "target_sparsity": 0.4,
        "min_sparsity": 0.3,
        "max_sparsity": 0.45,
    }
    message = (
        "The caps contradict for 'a/kernel': of 2 groups at least 1 and at most 0 "
        "would be pruned. Widen `min_sparsity` and `max_sparsity`, or exclude the"
    )
    with pytest.raises(ValueError, match=message):
        planned(config, (50, 2))


def test_caps_from_below_grow_with_the_schedule():
    config = {"target_sparsity": 0.8, "min_sparsity": 0.4, "allocation": "erk"}
    plan = planned(config, (10, 10), (100, 100))
    # Thin, the first would stay dense longer.
    assert plan.demand(0.0).counts == [0, 0]
    assert plan.demand(0.4).counts == [20, 4020]
    assert plan.demand(0.8).counts == [40, 8040]


def test_demand_never_falls_below_what_is_pinned():
    plan = planned(
        {"target_sparsity": 0.8, "allocation": "uniform"}, (10, 10), (10, 10)
    )
    assert plan.demand(0.0, pinned=[30, 0]).counts == [30, 0]
    assert plan.demand(0.2, pinned=[30, 0]).counts == [30, 10]
    assert plan.demand(0.5, pinned=[30, 0]).counts == [50, 50]


# Joint ranking.


def two_dense(first, second):
    """A model of two dense kernels with the given weights."""
    model = keras.Sequential(
        [
            layers.Input((first.shape[0],)),
            layers.Dense(first.shape[1], use_bias=False, name="a"),
            layers.Dense(second.shape[1], use_bias=False, name="b"),
        ]
    )
    model.set_weights([first, second])
    return model


def joint_masks(sparsity, first, second, **config):
    """Masks of a jointly ranked update, made eagerly."""
    config = PruningConfig(target_sparsity=sparsity, **config)
    pruner = KerasBasePruner(config, two_dense(first, second))
    masks, counts, *_ = pruner.updater.maker.make_masks(
        pruner.updater.update_inputs(sparsity)
    )
    counts = value_of(counts).tolist()
    masks = [value_of(mask) for mask in masks]
    return masks, counts


def lowest_of_all(scores, k):
    """Keeps all but the k lowest of several arrays, ties by position."""
    flat = np.concatenate([s.ravel() for s in scores])
    kept = np.ones(flat.size, bool)
    kept[np.argsort(flat, kind="stable")[:k]] = False
    parts = np.split(kept, np.cumsum([s.size for s in scores])[:-1])
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


FOUR = np.array([[1, -2], [3, -4]], "float32")


def test_global_prunes_the_lowest_of_all_kernels():
    masks, counts = joint_masks(0.5, FOUR, FOUR * 1.5, allocation="global")
    # 1, 1.5, 2 and 3; the other 3 stands in the second kernel.
    assert masks[0].tolist() == [[False, False], [False, True]]
    assert masks[1].tolist() == [[False, True], [True, True]]
    assert counts == [3, 1]


def test_global_takes_all_of_a_kernel_of_small_weights():
    config = {"allocation": "global", "max_sparsity": 1.0}
    masks, counts = joint_masks(0.5, FOUR, FOUR * 64, **config)
    assert counts == [4, 0]
    assert not masks[0].any()
    assert masks[1].all()


def test_global_l2_does_not_see_the_scale_of_a_kernel():
    masks, counts = joint_masks(0.5, FOUR, FOUR * 64, allocation="global_l2")
    assert counts == [2, 2]
    assert masks[0].tolist() == masks[1].tolist() == [[False, False], [True, True]]


def test_global_with_normalize_is_global_l2():
    assert GlobalL2().normalize == Global(normalize="l2").normalize == "l2"
    assert ALLOCATIONS.serialize(GlobalL2()) == {"name": "global_l2", "config": {}}
    reloaded = ALLOCATIONS.get({"name": "global", "config": {"normalize": "l2"}})
    assert reloaded == Global(normalize="l2")


def test_global_within_caps_gives_the_surplus_to_the_others():
    capped = {"allocation": "global", "max_sparsity": 0.75}
    _, counts = joint_masks(0.5, FOUR, FOUR * 64, **capped)
    assert counts == [3, 1]
    floored = {"allocation": "global", "min_sparsity": 0.5}
    _, counts = joint_masks(0.5, FOUR, FOUR * 64, **floored)
    assert counts == [2, 2]


@pytest.mark.parametrize("sparsity", [0.1, 0.55, 0.9])
def test_global_with_ties_equals_sorting_the_concatenated_scores(sparsity):
    generator = np.random.default_rng(0)
    first = generator.integers(-9, 10, (16, 8)).astype("float32")
    second = generator.integers(-9, 10, (8, 5)).astype("float32")
    masks, counts = joint_masks(sparsity, first, second, allocation="global")
    expected = lowest_of_all([abs(first), abs(second)], round(sparsity * 168))
    assert sum(counts) == round(sparsity * 168)
    assert [m.tolist() for m in masks] == [m.tolist() for m in expected]


def test_global_l2_equals_sorting_the_normalized_scores():
    generator = np.random.default_rng(1)
    first = generator.standard_normal((16, 8)).astype("float32")
    second = 7 * generator.standard_normal((8, 5)).astype("float32")
    masks, counts = joint_masks(0.7, first, second, allocation="global_l2")
    scores = [abs(w) / np.linalg.norm(w.astype("float64")) for w in (first, second)]
    expected = lowest_of_all(scores, 118)
    assert sum(counts) == 118
    assert [m.tolist() for m in masks] == [m.tolist() for m in expected]


def test_global_ranks_blocks_by_their_mean():
    # Blocks of 2 outputs: means 1, 5 | 3, 4. Three of four blocks go.
    first = np.array([[1, 1, 5, 5]], "float32")
    second = np.array([[3, 3], [4, 4], [9, 9], [9, 9]], "float32")
    masks, counts = joint_masks(0.5, first, second, allocation="global", pattern="2x1")
    # 6 of 12 weights are 3 blocks: 1, 3 and 4.
    assert counts == [1, 2]
    assert masks[0].tolist() == [[False, False, True, True]]
    assert masks[1].tolist() == [[False] * 2, [False] * 2, [True] * 2, [True] * 2]


def test_global_keeps_the_floor_of_a_kernel_of_small_weights():
    generator = np.random.default_rng(0)
    first = generator.standard_normal((20, 10)).astype("float32")
    second = 100 * generator.standard_normal((10, 20)).astype("float32")
    masks, counts = joint_masks(0.6, first, second, allocation="global")
    # 1 % of 200 weights stays, and the second kernel gives the surplus.
    assert counts == [198, 42]
    for mask, weights, count in zip(masks, (first, second), counts, strict=True):
        (expected,) = lowest_of_all([abs(weights)], count)
        np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("scale", [1e-37, 1e-25, 1e-19, 1.0, 2e19, 1e37])
@pytest.mark.parametrize("config", [{}, {"criterion": "lamp"}])
def test_ranking_holds_at_any_size_of_the_weights(scale, config):
    generator = np.random.default_rng(4)
    first = generator.standard_normal((16, 8)).astype("float32")
    second = generator.standard_normal((8, 4)).astype("float32")
    expected, _ = joint_masks(0.5, first, second, **config)
    scaled = (first * np.float32(scale)).astype("float32")
    masks, _ = joint_masks(0.5, scaled, second, **config)
    for mask, other in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(mask, other)


def test_one_huge_weight_does_not_hide_the_others():
    weights = np.full((16, 8), 1e-3, "float32")
    weights[3, 3] = 2e19
    masks, counts = joint_masks(0.3, weights, weights[:8, :4].copy())
    assert masks[0][3, 3] and sum(counts) == 48


@pytest.mark.usefixtures("with_and_without_xla")
@pytest.mark.parametrize("name", ["global", "global_l2"])
def test_global_compiled_equals_eager(name):
    generator = np.random.default_rng(2)
    first = generator.standard_normal((64, 48)).astype("float32")
    second = 3 * generator.standard_normal((48, 10)).astype("float32")
    eager, counts = joint_masks(0.6, first, second, allocation=name)
    config = PruningConfig(target_sparsity=0.6, allocation=name)
    pruner = KerasBasePruner(config, two_dense(first, second))
    pruner.update_masks(0.6)
    assert pruner.num_pruned == sum(counts) == round(0.6 * 3552)
    compiled = [value_of(mask) for mask in pruner.masks.values()]
    assert [m.tolist() for m in compiled] == [m.tolist() for m in eager]


@pytest.mark.usefixtures("with_and_without_xla")
def test_global_l2_scores_compiled_equal_eager_to_the_last_bit():
    # A norm that rounds differently ranks the kernel's weights differently.
    generator = np.random.default_rng(0)
    config = PruningConfig(criterion="magnitude", allocation="global_l2")
    kernel = Kernel("a", None, dense_layout((64, 48)))
    unit = Unit([0], [kernel], [None], [config.pattern])

    def scores(weight):
        return score_groups(config, unit, [weight], [ops.abs(weight)])

    compiled = CompiledFunction(scores)
    weights = [
        ops.convert_to_tensor(generator.standard_normal((64, 48)).astype("float32"))
        for _ in range(30)
    ]
    differing = [
        not np.array_equal(value_of(compiled(weight)), value_of(scores(weight)))
        for weight in weights
    ]
    assert sum(differing) == 0


def test_global_with_another_norm_is_an_error():
    message = "`normalize` must be one of None, l2. Received: 'l1'"
    with pytest.raises(ValueError, match=message):
        Global(normalize="l1")


# An allocation of one's own.


def test_allocation_without_densities_says_what_to_define():
    class Nothing(Allocation):
        pass

    with pytest.raises(NotImplementedError, match="Nothing must define `relative_dens"):
        Nothing().relative_densities([])


def test_allocation_by_relative_densities_meets_the_total():
    class FirstDenser(Allocation):
        def relative_densities(self, plans):
            return [3.0] + [1.0] * (len(plans) - 1)

    plans = [plan_of((10, 10)), plan_of((10, 10))]
    # Densities 0.3 and 0.1 of 100 weights each.
    counts = allocate_counts(FirstDenser(), 0.8, plans, [0, 0], [100, 100])
    assert counts == [70, 90]

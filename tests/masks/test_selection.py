"""The exact k lowest scores, of one tensor and of many, against sorting in NumPy."""

import numpy as np
import pytest
from conftest import BACKEND, slow_where_compiled, value_of
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_pruner.backend import (
    CompiledFunction,
    FunctionCache,
    all_finite,
    call_directly,
    count_true,
    sum_of_all,
)
from keras_pruner.masks import (
    Forecast,
    cuts_of,
    demand_of,
    ordered_keys,
    rank_jointly,
    select_lowest,
    select_lowest_per_output,
    select_up_to,
)
from keras_pruner.masks.kth_lowest import NO_GUESS, count_lowest

property_test = settings(max_examples=30, deadline=None, derandomize=True)
IS_TRACED = BACKEND in ("tensorflow", "jax")


def tensor(values, dtype="float32"):
    return ops.cast(ops.convert_to_tensor(np.array(values, "float32")), dtype)


def keys_of(values, dtype="float32"):
    return ops.convert_to_numpy(ordered_keys(tensor(values, dtype)))


def lowest(values, k, dtype="float32"):
    return ops.convert_to_numpy(select_lowest(tensor(values, dtype), k)).tolist()


def lowest_by_sorting(scores, k):
    selected = np.zeros(scores.size, bool)
    selected[np.argsort(scores.ravel(), kind="stable")[:k]] = True
    return selected.reshape(scores.shape)


def ranked(scores, sizes, target, lower, upper, run=call_directly):
    """Returns the counts, and the cut of each."""
    demand = demand_of(target, sizes, lower, upper)
    counts, bracket, _ = rank_jointly(scores, demand, call=run)
    cuts = cuts_of(scores, counts, bracket, run)
    return ops.convert_to_numpy(counts).tolist(), cuts


def jointly(scores, sizes, target, lower, upper):
    return ranked([tensor(s) for s in scores], sizes, target, lower, upper)[0]


def jointly_by_sorting(scores, sizes, target, lower, upper):
    """Walks down the ranking group by group, as the docstring tells it."""
    counts = list(lower)
    missing = target - sum(k * size for k, size in zip(counts, sizes, strict=True))
    ranking = sorted(
        (score, index, place)
        for index, values in enumerate(scores)
        for place, score in enumerate(sorted(values))
    )
    refused_at = None
    for score, index, place in ranking:
        if refused_at is not None and score > refused_at:
            break
        if not lower[index] <= place < upper[index]:
            continue
        if missing > sizes[index] / 2:
            counts[index] += 1
            missing -= sizes[index]
        else:
            refused_at = score
    return counts


# Keys.


def test_ordered_keys_of_zero_and_one_are_the_bits():
    # 1.0 is 0x3F800000.
    assert keys_of([0.0, 1.0, -1.0]).tolist() == [0, 0x3F800000, -0x3F800000]


def test_ordered_keys_rise_with_the_scores():
    keys = keys_of([-3e38, -7.5, -1.0, -2e-38, 0.0, 2e-38, 0.5, 0.50000006, 1.0, 3e38])
    assert keys.dtype == "int32"
    assert (np.diff(keys.astype("int64")) > 0).all()


def test_ordered_keys_of_both_zeros_are_equal():
    assert keys_of([-0.0, 0.0]).tolist() == [0, 0]


def test_ordered_keys_of_denormals_keep_their_order():
    # Below 1.18e-38 a compiler may flush to zero; the bits need no arithmetic.
    keys = keys_of([-1e-38, -1e-39, -1e-45, 0.0, 1e-45, 1e-39, 1e-38, 1.2e-38])
    assert (np.diff(keys) > 0).all()


def test_ordered_keys_of_bfloat16_are_int16():
    # 1.0 is 0x3F80 in bfloat16.
    keys = keys_of([-1.0, -0.0, 0.0, 1.0], "bfloat16")
    assert keys.dtype == "int16"
    assert keys.tolist() == [-0x3F80, 0, 0, 0x3F80]


def test_ordered_keys_of_bfloat16_rise_with_the_scores():
    values = [-3e38, -7.5, -1.0, -2e-38, 0.0, 2e-38, 0.5, 1.0, 3e38]
    assert (np.diff(keys_of(values, "bfloat16").astype(int)) > 0).all()


def test_ordered_keys_of_float16_are_those_of_float32():
    assert keys_of([0.5, -2.0], "float16").tolist() == keys_of([0.5, -2.0]).tolist()


@property_test
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8)
    # Flushed to zero by some compilers; they have a test of their own.
    .map(lambda values: [0.0 if abs(v) < 1.2e-38 else v for v in values[:8]])
)
def test_ordered_keys_sort_as_the_scores_do(values):
    scores = np.array(values, "float32")
    keys = keys_of(scores)
    assert np.array_equal(
        np.argsort(keys, kind="stable"), np.argsort(scores, kind="stable")
    )


# One tensor.


def test_select_lowest_marks_the_smallest_in_place():
    assert lowest([[3.0, 1.0], [-2.0, 5.0]], 2) == [[False, True], [True, False]]


def test_select_lowest_cuts_ties_by_index():
    assert lowest([2.0, 1.0, 2.0, 2.0, 0.0], 3) == [True, True, False, False, True]


def test_select_lowest_of_equal_scores_takes_the_first():
    assert lowest([7.0] * 5, 2) == [True, True, False, False, False]


def test_select_lowest_ties_both_zeros():
    assert lowest([0.0, -0.0, -0.0, 1.0], 2) == [True, True, False, False]


def test_select_lowest_tells_neighbouring_floats_apart():
    assert lowest([1.0000001, 1.0], 1) == [False, True]


def test_select_lowest_in_bfloat16_ties_neighbouring_floats():
    assert lowest([1.001, 1.0], 1, "bfloat16") == [True, False]


@pytest.mark.parametrize("k", [0, -3])
def test_select_lowest_of_none_marks_nothing(k):
    assert lowest([1.0, 1.0, -2.0], k) == [False, False, False]


@pytest.mark.parametrize("k", [3, 99])
def test_select_lowest_of_all_marks_everything(k):
    assert lowest([1.0, 1.0, -2.0], k) == [True, True, True]


def test_select_lowest_of_a_single_score():
    assert lowest([5.0], 0) == [False]
    assert lowest([5.0], 1) == [True]


@pytest.mark.usefixtures("with_and_without_xla")
def test_select_lowest_compiled_equals_sorting_for_every_k_and_traces_once():
    scores = np.random.default_rng(0).integers(-4, 5, (13, 7)).astype("float32")
    select = CompiledFunction(select_lowest)
    for k in (0, 1, 17, 45, 46, 90, 91):
        count = ops.convert_to_tensor(k, dtype="int32")
        compiled = ops.convert_to_numpy(select(tensor(scores), count))
        eager = ops.convert_to_numpy(select_lowest(tensor(scores), count))
        assert compiled.sum() == k
        assert np.array_equal(compiled, lowest_by_sorting(scores, k))
        assert np.array_equal(compiled, eager)
    if IS_TRACED:
        assert select.trace_count == 1


@pytest.mark.parametrize(
    # Single rows, blocks of 6, of 8 with some left over, of 16 with some left over.
    "shape",
    [(101, 257), (300, 250), (293, 257), (2053, 2049)],
)
def test_select_lowest_of_many_scores_equals_sorting(shape):
    scores = np.random.default_rng(1).standard_normal(shape).astype("float32")
    for values in (scores, np.round(scores, 1)):
        selected = ops.convert_to_numpy(select_lowest(tensor(values), 23456))
        assert np.array_equal(selected, lowest_by_sorting(values, 23456))


@pytest.mark.parametrize("shape", [(5, 7), (300, 250), (293, 257)])
def test_sums_of_blocks_are_those_of_all_rows(shape):
    values = np.random.default_rng(0).integers(-9, 9, shape).astype("float32")
    # Of whole numbers each order gives the same sum.
    assert float(sum_of_all(tensor(values), ops.square)) == np.sum(values**2)
    assert count_true(tensor(values) > 2) == np.sum(values > 2)


@pytest.mark.parametrize("shape", [(5, 7), (300, 250), (293, 257)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_all_finite_sees_the_last_of_all(shape, bad):
    values = np.zeros(shape, "float32")
    assert bool(all_finite(tensor(values)))
    values[-1, -1] = bad
    assert not bool(all_finite(tensor(values)))


@property_test
@given(
    st.lists(
        st.sampled_from([-3e38, -1.5, -1.0, -0.0, 0.0, 1e-30, 1.0, 2.0, 3e38]),
        min_size=9,
        max_size=9,
    ),
    st.integers(0, 9),
)
def test_select_lowest_takes_exactly_k_as_sorting_does(values, k):
    scores = np.array(values, "float32")
    selected = ops.convert_to_numpy(select_lowest(tensor(scores), k))
    assert selected.sum() == k
    assert np.array_equal(selected, lowest_by_sorting(scores, k))


@pytest.mark.skipif(BACKEND != "jax", reason="JAX tells what a compiler plans.")
def test_select_lowest_keeps_nothing_as_large_as_a_quarter_of_the_scores():
    import jax

    scores = jax.ShapeDtypeStruct((4096, 4096), "float32")
    compiled = jax.jit(select_lowest).lower(scores, 1000).compile()
    held = compiled.memory_analysis().temp_size_in_bytes
    assert 0 < held < 4096 * 4096 * 4 / 4


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Of TensorFlow's compiler.")
def test_a_pass_is_compiled_once_for_all_thresholds():
    import tensorflow as tf

    count = tf.function(lambda *given: count_lowest(*given), jit_compile=True)
    # More than are counted row by row.
    arguments = tensor(np.zeros((512, 256))), tf.constant([1, 2, 3, 4])
    program = count.experimental_get_compiler_ir(*arguments)(stage="hlo")
    # Else they would be constants in it, of one call alone.
    assert "s32[4]{0} parameter(" in program


# Many tensors.


def test_jointly_ranks_all_scores_together():
    assert jointly([[1, 4, 5], [2, 3, 6]], [1, 1], 3, [0, 0], [3, 3]) == [1, 2]


def test_jointly_takes_ties_tensor_by_tensor():
    assert jointly([[1, 1, 1], [1, 1, 1]], [1, 1], 4, [0, 0], [3, 3]) == [3, 1]


def test_jointly_below_a_lower_bound_takes_it_from_the_other():
    assert jointly([[8, 9, 10], [1, 2, 3]], [1, 1], 3, [2, 0], [3, 3]) == [2, 1]


def test_jointly_above_an_upper_bound_gives_it_to_the_other():
    assert jointly([[8, 9, 10], [1, 2, 3]], [1, 1], 3, [0, 0], [3, 1]) == [2, 1]


def test_jointly_of_nothing_takes_the_lower_bounds():
    assert jointly([[1, 2, 3], [4, 5, 6]], [1, 1], 0, [0, 0], [3, 3]) == [0, 0]
    assert jointly([[1, 2, 3], [4, 5, 6]], [1, 1], 1, [1, 2], [3, 3]) == [1, 2]


def test_jointly_of_more_than_there_is_takes_the_upper_bounds():
    assert jointly([[1, 2, 3], [4, 5, 6]], [1, 1], 6, [0, 0], [3, 3]) == [3, 3]
    assert jointly([[1, 2, 3], [4, 5, 6]], [1, 1], 6, [0, 0], [2, 1]) == [2, 1]


def test_jointly_counts_weights_where_groups_differ_in_size():
    # In order: 4 weights, 1 weight, 4 weights, ...
    scores = [[1, 3], [2, 4, 5]]
    assert jointly(scores, [4, 1], 5, [0, 0], [2, 3]) == [1, 1]
    assert jointly(scores, [4, 1], 9, [0, 0], [2, 3]) == [2, 1]


@pytest.mark.parametrize(("target", "taken"), [(1, 0), (2, 0), (3, 1), (4, 1)])
def test_jointly_inside_a_group_goes_to_the_nearer_side(target, taken):
    # A group of 4 weights: 2 are as near to 0 as to 4, and stay.
    assert jointly([[1, 3], [2, 4]], [4, 1], target, [0, 0], [2, 2]) == [taken, 0]


def test_jointly_in_bfloat16_ties_neighbouring_floats():
    # 1.001 and 1.0 are one number in bfloat16, so the first tensor gives first.
    scores = [tensor([1.001, 1.001], "bfloat16"), tensor([1.0, 1.0], "bfloat16")]
    counts, _ = ranked(scores, [1, 1], 3, [0, 0], [2, 2])
    assert counts == [2, 1]


def test_jointly_then_selected_prunes_what_sorting_the_concatenation_does():
    generator = np.random.default_rng(2)
    scores = [generator.integers(0, 9, size).astype("float32") for size in (40, 7, 90)]
    counts, cuts = ranked(
        [tensor(s) for s in scores], [1, 1, 1], 60, [0, 0, 0], [40, 7, 90]
    )
    selected = [
        ops.convert_to_numpy(select_up_to(tensor(s), cut)).tolist()
        for s, cut in zip(scores, cuts, strict=True)
    ]
    expected = lowest_by_sorting(np.concatenate(scores), 60)
    assert sum(counts) == 60
    assert np.concatenate(selected).tolist() == expected.tolist()


def test_jointly_capped_then_selected_equals_sorting_each():
    generator = np.random.default_rng(4)
    scores = [generator.standard_normal(size).astype("float32") for size in (90, 70)]
    counts, cuts = ranked([tensor(s) for s in scores], [1, 1], 100, [0, 0], [20, 70])
    assert counts == [20, 70]
    for score, k, cut in zip(scores, counts, cuts, strict=True):
        selected = ops.convert_to_numpy(select_up_to(tensor(score), cut))
        assert np.array_equal(selected, lowest_by_sorting(score, k))


@pytest.mark.usefixtures("with_and_without_xla")
def test_jointly_compiled_equals_sorting_for_every_demand_and_traces_once():
    generator = np.random.default_rng(3)
    scores = [generator.integers(0, 5, size).astype("float32") for size in (11, 6, 8)]
    sizes = [1, 4, 2]
    run = FunctionCache()
    for target, lower, upper in (
        (0, [0, 0, 0], [11, 6, 8]),
        (20, [0, 0, 0], [11, 6, 8]),
        (21, [3, 0, 5], [11, 2, 8]),
        (51, [0, 0, 0], [11, 6, 8]),
    ):
        tensors = [tensor(s) for s in scores]
        counts, _ = ranked(tensors, sizes, target, lower, upper, run)
        assert counts == jointly_by_sorting(scores, sizes, target, lower, upper)
        assert counts == jointly(scores, sizes, target, lower, upper)
    # Three shapes of scores, each sampled and counted; four functions for all; three
    # for a capped tensor alone; and one where ties are cut.
    assert len(run) == 14
    if IS_TRACED:
        assert run.trace_count == 14


class CountingCalls:
    """Calls directly, and counts the passes over scores."""

    def __init__(self):
        self.passes = 0
        self.repeat = call_directly.repeat
        self.sees_numbers = True

    def __call__(self, function, *arguments, **settings):
        self.passes += function is count_lowest
        return call_directly(function, *arguments, **settings)


@pytest.mark.parametrize(
    ("low", "high"), [(0.99, 1.01), (0.0, 1e-9), (5.0, 6.0), (-3.0, 3e38), (2.0, 1.0)]
)
@pytest.mark.parametrize("below", [-1.0, 0.98, 7.0])
def test_a_guess_right_or_wrong_changes_no_count(below, low, high):
    generator = np.random.default_rng(6)
    scores = [np.abs(generator.standard_normal(n)).astype("float32") for n in (500, 90)]
    demand = demand_of(400, [1, 1], [0, 0], [500, 90])
    # Of numbers around the one that is sought.
    sought = np.sort(np.concatenate(scores))[399]
    guess = sought * np.array([below, low, high], "float32")
    tensors = [tensor(s) for s in scores]
    counts, bracket, threshold = rank_jointly(tensors, demand, guess)
    counts = ops.convert_to_numpy(counts).tolist()
    assert counts == jointly_by_sorting(scores, [1, 1], 400, [0, 0], [500, 90])
    assert int(bracket.low) < keys_of([sought])[0] <= int(bracket.high)
    assert keys_of([float(threshold)])[0] == int(bracket.high)


@slow_where_compiled
def test_a_forecast_saves_passes_while_weights_are_pruned_step_by_step():
    generator = np.random.default_rng(7)
    weights = 0.05 * generator.standard_normal((300, 200))
    forecast, passes, steps = Forecast(), {True: 0, False: 0}, 30
    for step in range(steps):
        moved = 1e-3 * np.sign(generator.standard_normal(weights.shape))
        weights = np.where(weights == 0, 0, weights + moved)
        scores = tensor(np.abs(weights))
        share = 0.9 * (1 - (1 - (step + 1) / steps) ** 3)
        demand = demand_of(int(share * weights.size), [1], [0], [weights.size])
        for guess in (forecast.guess(), NO_GUESS):
            run = CountingCalls()
            _, bracket, threshold = rank_jointly([scores], demand, guess, run)
            # The first steps of all have nothing to learn from.
            passes[guess is not NO_GUESS] += run.passes if step > 2 else 0
        forecast.learn(float(threshold))
        pruned = ops.convert_to_numpy(ordered_keys(scores)) <= int(bracket.high)
        weights[pruned] = 0
    assert passes[True] < 0.85 * passes[False]


def test_a_forecast_learns_nothing_where_all_or_nothing_is_taken():
    forecast = Forecast()
    scores, demand = [tensor([1.0, 2.0])], {"sizes": [1], "lower": [0], "upper": [2]}
    for target in (0, 2):
        *_, threshold = rank_jointly(scores, demand_of(target, **demand))
        forecast.learn(float(threshold))
        assert forecast.guess() == NO_GUESS


def test_a_forecast_goes_on_as_far_as_before():
    forecast = Forecast()
    for value in (1.0, 1.5, 2.0, 2.5):
        forecast.learn(value)
    _, low, high = forecast.guess()
    assert 2.5 < low < 3.0 < high < 3.5


@st.composite
def joint_demands(draw, group_sizes):
    numbers = (3, 5, 4)
    scores = [
        draw(st.lists(st.integers(-2, 3), min_size=n, max_size=n)) for n in numbers
    ]
    sizes = [draw(group_sizes) for _ in numbers]
    upper = [draw(st.integers(0, n)) for n in numbers]
    lower = [draw(st.integers(0, most)) for most in upper]
    most = sum(size * n for size, n in zip(sizes, numbers, strict=True))
    return scores, sizes, draw(st.integers(0, most)), lower, upper


@property_test
@given(joint_demands(group_sizes=st.just(1)))
def test_jointly_is_exact_within_any_bounds(demand):
    _, _, target, lower, upper = demand
    counts = jointly(*demand)
    assert counts == jointly_by_sorting(*demand)
    assert sum(counts) == min(max(target, sum(lower)), sum(upper))


@property_test
@given(joint_demands(group_sizes=st.integers(1, 4)))
def test_jointly_with_groups_of_any_sizes_equals_the_ranking(demand):
    _, _, _, lower, upper = demand
    counts = jointly(*demand)
    assert counts == jointly_by_sorting(*demand)
    assert all(a <= k <= b for a, k, b in zip(lower, counts, upper, strict=True))


def test_every_count_is_taken_of_the_outputs():
    scores = np.random.default_rng(0).normal(size=(5, 4)).astype("float32")
    compiled = CompiledFunction(select_lowest_per_output)
    for count in range(21):
        marks = value_of(compiled(scores, ops.convert_to_tensor(count, "int32")))
        share, rest = divmod(count, 4)
        wanted = [share + (column < rest) for column in range(4)]
        assert marks.sum(axis=0).tolist() == wanted
        for column, number in enumerate(wanted):
            lowest = np.argsort(scores[:, column])[:number]
            assert set(np.flatnonzero(marks[:, column])) == set(lowest)

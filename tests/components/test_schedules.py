"""Curves against the published values, and the steps at which masks are updated."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_pruner.components import SCHEDULES, Schedule
from keras_pruner.pruners import PruningScheduler, derive_steps

property_test = settings(max_examples=40, deadline=None, derandomize=True)
NAMES = sorted({schedule.name for schedule in SCHEDULES.values()})
PROGRESS = (0.0, 0.25, 0.5, 0.75, 1.0)


def place(begin, end, frequency, schedule="polynomial", initial=0.0, target=0.9):
    return PruningScheduler(
        SCHEDULES.get(schedule),
        initial=initial,
        target=target,
        begin=begin,
        end=end,
        frequency=frequency,
    )


def update_steps(scheduler, until=100):
    return [step for step in range(until) if scheduler.latest_update(step) == step]


# Curves.


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("exp", (0, 0.4377, 0.6838, 0.8222, 0.9)),
        ("cos", (0, 0.0685, 0.2636, 0.5556, 0.9)),
        ("cube", (0, 0.0141, 0.1125, 0.3797, 0.9)),
        ("polynomial", (0, 0.5203, 0.7875, 0.8859, 0.9)),
        ("linear", (0, 0.225, 0.45, 0.675, 0.9)),
        ("constant", (0.9, 0.9, 0.9, 0.9, 0.9)),
    ],
)
def test_sparsity_from_zero_has_the_published_values(name, published):
    made = [SCHEDULES.get(name).sparsity(p, 0.0, 0.9) for p in PROGRESS]
    assert made == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "halfway"),
    [
        # 1 - 0.8 * (0.2 / 0.8)^(1/2)
        ("exp", 0.6),
        # 0.2 + 0.6 * (1 - cos 45 degrees)
        ("cos", 0.375736),
        # 0.2 + 0.6 / 8
        ("cube", 0.275),
        # 0.8 - 0.6 / 8
        ("polynomial", 0.725),
        ("linear", 0.5),
        ("constant", 0.8),
    ],
)
def test_sparsity_from_an_initial_one_halfway(name, halfway):
    assert SCHEDULES.get(name).sparsity(0.5, 0.2, 0.8) == pytest.approx(halfway)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "constant"])
def test_sparsity_at_both_ends_is_the_initial_one_and_the_target(name):
    schedule = SCHEDULES.get(name)
    assert schedule.sparsity(0.0, 0.2, 0.8) == pytest.approx(0.2)
    assert schedule.sparsity(1.0, 0.2, 0.8) == pytest.approx(0.8)


@pytest.mark.parametrize("name", NAMES)
def test_sparsity_from_the_target_stays_there(name):
    made = [SCHEDULES.get(name).sparsity(p, 0.7, 0.7) for p in PROGRESS]
    assert made == pytest.approx([0.7] * 5)


def test_polynomial_of_another_power():
    schedule = SCHEDULES.get({"name": "polynomial", "config": {"power": 2}})
    # 0.8 - 0.8 / 4
    assert schedule.sparsity(0.5, 0.0, 0.8) == pytest.approx(0.6)


def test_polynomial_of_power_one_is_linear():
    schedule = SCHEDULES.get({"name": "polynomial", "config": {"power": 1}})
    assert schedule.sparsity(0.25, 0.2, 0.8) == pytest.approx(0.35)


def test_exponential_of_another_power():
    schedule = SCHEDULES.get({"name": "exp", "config": {"power": 2}})
    # 1 - 0.8 * (0.2 / 0.8)^(1 - 1/4)
    assert schedule.sparsity(0.5, 0.2, 0.8) == pytest.approx(1 - 0.8 * 0.25**0.75)
    made = [schedule.sparsity(p, 0.0, 0.9) for p in PROGRESS]
    assert made == pytest.approx([0, 0.6348, 0.8222, 0.8845, 0.9], abs=5e-5)
    with pytest.raises(ValueError, match="`power` must be finite and positive"):
        SCHEDULES.get({"name": "exp", "config": {"power": 0}})


def test_oneshot_is_another_name_of_constant():
    assert SCHEDULES.get("oneshot") == SCHEDULES.get("constant")
    assert SCHEDULES.serialize(SCHEDULES.get("oneshot"))["name"] == "constant"


@property_test
@given(
    st.sampled_from(NAMES),
    st.floats(0, 0.99),
    st.floats(0, 0.99),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted),
)
def test_sparsity_never_falls_and_stays_between_its_ends(name, one, other, progress):
    initial, target = sorted((one, other))
    first, second = (SCHEDULES.get(name).sparsity(p, initial, target) for p in progress)
    rounding = 1e-12
    assert initial - rounding <= first <= second + rounding
    assert second <= target + rounding


@pytest.mark.parametrize("name", NAMES)
def test_schedule_reloads_from_its_serialized_form(name):
    schedule = SCHEDULES.get(name)
    saved = json.loads(json.dumps(SCHEDULES.serialize(schedule)))
    assert saved["name"] == name
    assert SCHEDULES.get(saved) == schedule


def test_polynomial_reloads_with_its_power():
    schedule = SCHEDULES.get({"name": "polynomial", "config": {"power": 2.5}})
    saved = SCHEDULES.serialize(schedule)
    assert saved == {"name": "polynomial", "config": {"power": 2.5}}
    assert SCHEDULES.get(saved) == schedule
    assert schedule != SCHEDULES.get("polynomial")
    assert repr(schedule) == "Polynomial(power=2.5)"


# Steps.


def test_updates_come_at_begin_and_every_frequency_up_to_end():
    scheduler = place(begin=3, end=11, frequency=4)
    assert update_steps(scheduler) == [3, 7, 11]
    assert scheduler.last_update == 11


def test_updates_stop_before_end_where_the_range_is_no_multiple():
    scheduler = place(begin=3, end=10, frequency=4)
    assert update_steps(scheduler) == [3, 7]
    assert scheduler.last_update == 7


def test_frequency_beyond_the_range_leaves_one_update():
    scheduler = place(begin=3, end=10, frequency=50)
    assert update_steps(scheduler) == [3]
    assert scheduler(3) == 0.9


def test_begin_equal_to_end_is_one_shot():
    scheduler = place(begin=5, end=5, frequency=1, initial=0.3)
    assert update_steps(scheduler) == [5]
    assert (scheduler(4), scheduler(5), scheduler(6)) == (0.0, 0.9, 0.9)


def test_begin_at_zero_updates_before_the_first_step():
    assert update_steps(place(begin=0, end=4, frequency=2)) == [0, 2, 4]


def test_scheduler_follows_the_curve_between_its_ends():
    scheduler = place(begin=10, end=30, frequency=5, schedule="linear", target=0.8)
    made = [scheduler(step) for step in (9, 10, 15, 20, 25, 30, 31)]
    assert made == pytest.approx([0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 0.8])


def test_scheduler_begins_at_the_initial_sparsity():
    scheduler = place(begin=10, end=30, frequency=5, initial=0.25)
    assert scheduler(9) == 0.0
    assert scheduler(10) == pytest.approx(0.25)


def test_last_update_takes_exactly_the_target_where_the_range_is_no_multiple():
    scheduler = place(begin=3, end=10, frequency=4, schedule="linear")
    # Not 0.9 * 4 / 7, where the line would be.
    assert scheduler(7) == 0.9
    assert scheduler(6) == pytest.approx(0.9 * 3 / 7)


@pytest.mark.parametrize(
    ("step", "following", "latest"),
    [
        (0, 3, None),
        (2, 3, None),
        (3, 7, 3),
        (4, 7, 3),
        (6, 7, 3),
        (7, None, 7),
        (8, None, 7),
        (10, None, 7),
        (11, None, 7),
        (99, None, 7),
    ],
)
def test_next_and_latest_update_around_each_boundary(step, following, latest):
    # Updates at 3 and 7; 11 would come after the end.
    scheduler = place(begin=3, end=10, frequency=4)
    assert scheduler.next_update(step) == following
    assert scheduler.latest_update(step) == latest


def test_next_update_before_the_run_is_begin():
    assert place(begin=0, end=4, frequency=2).next_update(-1) == 0


@property_test
@given(
    st.integers(0, 20),
    st.integers(0, 30),
    st.integers(1, 12),
    st.integers(0, 60),
    st.sampled_from(NAMES),
)
def test_next_and_latest_update_equal_a_list_of_steps(
    begin, length, frequency, step, name
):
    scheduler = place(begin, begin + length, frequency, schedule=name)
    steps = list(range(begin, begin + length + 1, frequency))
    assert scheduler.last_update == steps[-1]
    assert (scheduler.latest_update(step) == step) == (step in steps)
    assert scheduler.next_update(step) == min(
        (s for s in steps if s > step), default=None
    )
    assert scheduler.latest_update(step) == max(
        (s for s in steps if s <= step), default=None
    )
    assert scheduler(steps[-1]) == 0.9
    made = [scheduler(s) for s in steps]
    assert made == sorted(made)


def test_scheduler_prints_its_range():
    assert repr(place(begin=3, end=10, frequency=4)) == (
        "PruningScheduler(Polynomial(power=3.0), 0 -> 0.9, steps 3..10 every 4)"
    )


# Steps left open.


@pytest.mark.parametrize(
    ("total", "steps"),
    [
        (0, (0, 0, 1)),
        (1, (0, 0, 1)),
        (2, (0, 1, 1)),
        (10, (0, 7, 1)),
        # 2025 steps by 100 updates.
        (2700, (0, 2025, 20)),
        # 150 steps apart would be too far.
        (20_000, (0, 15000, 100)),
    ],
)
def test_derive_steps_of_a_run(total, steps):
    assert derive_steps(total) == steps


def test_derive_steps_after_begin_leaves_a_quarter_of_the_rest():
    # 100 + 3/4 of 2600; 1950 steps by 100 updates.
    assert derive_steps(2700, begin=100) == (100, 2050, 19)


def test_derive_steps_of_a_run_that_ends_before_begin_is_one_shot():
    assert derive_steps(50, begin=100) == (100, 100, 1)


def test_derive_steps_keeps_what_is_given():
    assert derive_steps(None, 5, 500, 7) == (5, 500, 7)
    assert derive_steps(None, 0, 500) == (0, 500, 5)
    assert derive_steps(100, 0, None, 30) == (0, 75, 30)


# Errors.


@pytest.mark.parametrize("power", [0, -1.0, float("nan")])
def test_polynomial_without_a_positive_power_is_an_error(power):
    with pytest.raises(ValueError, match="`power` must be finite and positive. "):
        SCHEDULES.get({"name": "polynomial", "config": {"power": power}})


@pytest.mark.parametrize(("begin", "end"), [(5, 4), (-1, 4)])
def test_scheduler_with_steps_out_of_order_is_an_error(begin, end):
    message = (
        "Pruning needs 0 <= begin_step <= end_step. "
        f"Received: begin_step={begin}, end_step={end}"
    )
    with pytest.raises(ValueError, match=message):
        place(begin, end, frequency=1)


@pytest.mark.parametrize("frequency", [0, -2])
def test_scheduler_with_a_frequency_below_one_is_an_error(frequency):
    message = f"`frequency` must be >= 1 step. Received: frequency={frequency}"
    with pytest.raises(ValueError, match=message):
        place(0, 4, frequency)


def test_unknown_schedule_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match="Unknown schedule 'polynomal'.*'polynomial'"):
        SCHEDULES.get("polynomal")


def test_schedule_without_a_curve_says_what_to_define():
    class Flat(Schedule):
        pass

    with pytest.raises(NotImplementedError, match="Flat must define `sparsity`."):
        Flat().sparsity(0.5, 0.0, 0.9)

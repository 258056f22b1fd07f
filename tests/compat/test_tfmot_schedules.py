"""Schedules of `compat.tfmot`: arguments, steps, sparsities and configs."""

import keras
import numpy as np
import pytest

from keras_pruner.compat import tfmot

tk = tfmot.sparsity.keras


def constant(begin, end, frequency=10):
    return tk.ConstantSparsity(0.5, begin, end, frequency)


def polynomial(begin, end, frequency=10):
    return tk.PolynomialDecay(0.2, 0.8, begin, end, 3, frequency)


both = pytest.mark.parametrize("make", [constant, polynomial])


def variable(step):
    return keras.Variable(step, trainable=False, dtype="int32")


def asked(schedule, step):
    due, sparsity = schedule(step)
    return bool(keras.ops.convert_to_numpy(due)), float(
        keras.ops.convert_to_numpy(sparsity)
    )


@both
@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((-1, 1000), "begin_step"),
        ((-5, 1000), "begin_step"),
        ((10, -5), "end_step"),
        ((10, 5), "begin_step"),
        ((10, 1000, 0), "frequency"),
        ((10, 1000, -5), "frequency"),
    ],
)
def test_wrong_steps_are_refused(make, arguments, name):
    with pytest.raises(ValueError, match=name):
        make(*arguments)


@both
@pytest.mark.parametrize("steps", [(0, 0), (0, 1), (100, 1000), (10, 10), (10, 20, 1)])
def test_steps_at_the_bounds_are_taken(make, steps):
    assert make(*steps).begin_step == steps[0]


def test_only_a_constant_may_have_no_end():
    assert tk.ConstantSparsity(0.5, 10).end_step == -1
    with pytest.raises(ValueError, match="cannot be -1"):
        tk.PolynomialDecay(0.4, 0.8, 10, -1)


@pytest.mark.parametrize("sparsity", [-10.0, -0.001, 1.0, 10.0])
@pytest.mark.parametrize(
    "make",
    [
        lambda s: tk.ConstantSparsity(s, 0),
        lambda s: tk.PolynomialDecay(s, 0.8, 0, 10),
        lambda s: tk.PolynomialDecay(0.2, s, 0, 10),
    ],
)
def test_sparsities_are_in_the_unit_interval(make, sparsity):
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        make(sparsity)
    assert make(0.0) and make(0.99)


@both
@pytest.mark.parametrize("as_step", [int, np.int64, variable])
def test_updates_lie_on_the_grid_between_begin_and_end(make, as_step):
    schedule = make(100, 200, 10)
    steps = [90, 99, 100, 109, 110, 111, 200, 201, 210]
    given = [as_step(step) for step in steps]
    due = [
        step for step, one in zip(steps, given, strict=True) if asked(schedule, one)[0]
    ]
    assert due == [100, 110, 200]


def test_a_constant_without_end_prunes_for_ever():
    schedule = tk.ConstantSparsity(0.5, 0, -1, 10)
    assert asked(schedule, 100_000_000) == (True, 0.5)
    assert asked(schedule, 100_000_001) == (False, 0.5)


@pytest.mark.parametrize("as_step", [int, variable])
def test_a_polynomial_has_its_values_at_literal_steps(as_step):
    schedule = tk.PolynomialDecay(0.2, 0.8, 100, 110, 3, 2)
    values = [
        asked(schedule, as_step(step))[1] for step in (90, 100, 102, 105, 110, 120)
    ]
    np.testing.assert_allclose(values, [0.2, 0.2, 0.4928, 0.725, 0.8, 0.8], rtol=1e-6)


def test_a_polynomial_of_one_step_is_final_at_once():
    assert asked(tk.PolynomialDecay(0.2, 0.8, 5, 5), 6)[1] == 0.8


@pytest.mark.parametrize(
    "schedule",
    [tk.ConstantSparsity(0.7, 10, 20, 10), tk.PolynomialDecay(0.2, 0.6, 10, 20, 5, 10)],
)
def test_a_config_makes_an_equal_schedule(schedule):
    classes = {"ConstantSparsity": tk.ConstantSparsity}
    classes["PolynomialDecay"] = tk.PolynomialDecay
    config = schedule.get_config()
    assert config["class_name"] == type(schedule).__name__
    made = keras.saving.deserialize_keras_object(config, custom_objects=classes)
    assert type(made) is type(schedule)
    assert vars(made) == vars(schedule)
    # As Keras serializes what another object holds.
    held = keras.saving.serialize_keras_object(schedule)
    for copy in (
        type(schedule).from_config(config),
        keras.saving.deserialize_keras_object(held, custom_objects=classes),
    ):
        assert vars(copy) == vars(schedule)


def test_defaults_are_those_of_tfmot():
    assert tk.ConstantSparsity(0.5, 0).get_config()["config"] == {
        "target_sparsity": 0.5,
        "begin_step": 0,
        "end_step": -1,
        "frequency": 100,
    }
    assert tk.PolynomialDecay(0.1, 0.5, 0, 9).get_config()["config"] == {
        "initial_sparsity": 0.1,
        "final_sparsity": 0.5,
        "power": 3,
        "begin_step": 0,
        "end_step": 9,
        "frequency": 100,
    }


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError):
        tk.PruningSchedule()

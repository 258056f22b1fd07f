"""Contracts that everything in the registries keeps: a new name is tested at once."""

import json

import keras
import numpy as np
import pytest
from conftest import BACKEND, slow_where_compiled, value_of
from contracts import (
    CASES,
    LOCKED,
    REGISTRIES,
    compile_cache,
    compiled,
    demanded,
    differences,
    eager_updates,
    resume,
    run_eagerly,
    snapshot,
    train,
    trained_cases,
)
from keras import ops

from keras_pruner import PruningConfig
from keras_pruner.pruners import PruningScheduler, create_pruners

# Other tests, of small models, compile without it.
pytestmark = pytest.mark.usefixtures("always_xla")

TRAINED = trained_cases()


def cases_of(*names):
    """Returns the trained cases of some names, for what each of them shows alike."""
    return pytest.mark.parametrize(
        "case", [case for case in TRAINED if case.name in names], ids=str
    )


every_case = pytest.mark.parametrize("case", TRAINED, ids=str)


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory):
    with compile_cache(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture
def data():
    """96 samples of 16 features in 4 classes: 6 batches of 16."""
    generator = np.random.default_rng(0)
    x = generator.random((96, 16)).astype("float32")
    return x, generator.integers(0, 4, 96)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_config_survives_json(case):
    config = case.config()
    saved = json.loads(json.dumps(config.to_dict()))
    assert PruningConfig.from_dict(saved) == config
    component = getattr(config, case.setting)
    if case.setting == "pruning_type":
        assert component == case.name
        return
    registry = REGISTRIES[case.setting]
    assert type(component) is registry[case.name]
    again = type(component).from_config(component.get_config())
    assert again == component and hash(again) == hash(component)
    assert registry.get(registry.serialize(component)) == component


@pytest.mark.parametrize("name", REGISTRIES["schedule"])
def test_schedule_stays_inside_and_ends_exactly(name):
    schedule = REGISTRIES["schedule"].get(name)
    places = {"begin": 3, "end": 50, "frequency": 7}
    scheduler = PruningScheduler(schedule, initial=0.1, target=0.9, **places)
    values = [scheduler(step) for step in range(60)]
    assert values[:3] == [0.0, 0.0, 0.0]
    assert all(0.1 - 1e-12 <= value <= 0.9 + 1e-12 for value in values[3:])
    assert values[45:] == [0.9] * 15  # 45 is the last update


@slow_where_compiled
@every_case
def test_training(case, data, tmp_path):
    """Trained, saved and resumed; then asked for more masks."""
    # This policy asks most of dtypes: kernels are cast in and out of every layer.
    keras.config.set_dtype_policy("mixed_bfloat16")
    config, model = case.config(), compiled(case.model())
    # A pruner is saved with its model; a criterion's memory among the weights.
    suffix = "keras" if case.setting == "pruning_type" else "weights.h5"
    path = str(tmp_path / f"half.{suffix}")
    pruner, watch = train(model, config, data, path=path)
    assert watch.broken == []
    if BACKEND != "torch":
        assert pruner.updater.trace_count == pruner.updater.num_compiled
        # The training step is traced for the first batch, and never again.
        assert watch.executions[0] > 0
        assert watch.executions == [watch.executions[0]] * 12
    check_dtypes(pruner)
    check_count(pruner, LOCKED if case.locks_zeros else pruner.target_sparsity_ratio)

    if case.setting == "pruning_type" or any(pruner.state_variables.values()):
        final = snapshot(model, pruner)
        resumed, again, watch = resume(compiled(case.model()), config, data, path)
        assert watch.broken == []
        assert differences(snapshot(resumed, again), final) == []

    traced = pruner.updater.trace_count
    check_update(pruner, 0.2)
    check_count(pruner, LOCKED if case.locks_zeros else 0.2)
    if BACKEND != "torch":
        assert pruner.updater.trace_count == pruner.updater.num_compiled
        # All that may be new is the cut of ties, where none were cut before.
        assert pruner.updater.trace_count - traced <= len(pruner.units)


def check_dtypes(pruner, kernel="float32", memory="float32"):
    """Kernels, and what is kept of them, have the dtypes that they should have."""
    for path, states in pruner.state_variables.items():
        assert str(pruner.mask_variables[path].dtype) == "bool"
        dtypes = {name: str(state.dtype) for name, state in states.items()}
        assert dtypes.get("dense", kernel) == kernel
        assert dtypes.get("memory", memory) == memory
    assert {str(k.variable.dtype) for k in pruner.kernels} == {kernel}


def check_count(pruner, sparsity):
    """The masks zero exactly what was asked for, and the pruner says so."""
    pruned = sum((~value_of(mask)).sum() for mask in pruner.masks.values())
    wanted, slack = demanded(pruner, sparsity)
    assert abs(pruned - wanted) <= slack
    assert pruner.current_sparsity_ratio == pruned / pruner.num_weights


def check_update(pruner, sparsity):
    """Masks and states are the same, made eagerly and compiled."""
    expected = run_eagerly(
        pruner.updater.maker.make_masks, pruner.updater.update_inputs(sparsity)
    )
    pruner.update_masks(sparsity)
    for kernel, mask, states in zip(
        pruner.kernels, expected.masks, expected.states, strict=True
    ):
        made = pruner.mask_variables[kernel.path]
        np.testing.assert_array_equal(value_of(made), value_of(mask))
        for name, state in states.items():
            made = pruner.state_variables[kernel.path][name]
            np.testing.assert_array_equal(value_of(made), value_of(state))


@slow_where_compiled
@every_case
def test_loop_of_ones_own_in_low_precision(case):
    """Step hooks, run by hand on kernels of bfloat16, with little memory."""
    keras.config.set_dtype_policy("bfloat16")
    steps = {"begin_step": 1, "end_step": 2, "frequency": 1}
    generator = np.random.default_rng(0)
    with eager_updates():
        (pruner,) = create_pruners(
            case.config(low_memory_usage=True, **steps), case.model()
        )
    pruner.on_train_begin()
    for step in range(3):
        pruner.on_step_begin(step)
        gradients = {}
        for kernel in pruner.kernels:
            values = generator.normal(size=kernel.variable.shape)
            gradients[kernel.path] = ops.convert_to_tensor(values, "bfloat16")
        gradients = pruner.on_before_optimizer_step(gradients)
        for kernel in pruner.kernels:
            kernel.variable.assign(kernel.variable - 0.1 * gradients[kernel.path])
        pruner.regularize(0.1)
        pruner.on_after_optimizer_step()
        for kernel in pruner.kernels:
            mask = value_of(pruner.mask_variables[kernel.path])
            assert (value_of(kernel.variable)[~mask] == 0).all()
    check_dtypes(pruner, kernel="bfloat16", memory="bfloat16")
    check_count(pruner, LOCKED if case.locks_zeros else pruner.target_sparsity_ratio)


@every_case
def test_rule_knows_the_scale_of_the_loss(case):
    (pruner,) = create_pruners(case.config(), case.model())
    generator = np.random.default_rng(0)
    for kernel in pruner.kernels:
        shape = kernel.variable.shape
        weight, gradient = generator.normal(size=(2, *shape)).astype("float32")
        mask = ops.convert_to_tensor(generator.random(tuple(shape)) < 0.5)
        states = pruner.state_variables[kernel.path]
        shaped = [
            pruner.rules[kernel.path].shape_gradient(
                ops.convert_to_tensor(gradient * scale),
                ops.convert_to_tensor(weight),
                mask,
                states,
                scale,
            )
            for scale in (1.0, 1024.0)
        ]
        # Multiplied by a power of two, so to the last bit.
        np.testing.assert_array_equal(value_of(shaped[0]) * 1024, value_of(shaped[1]))


@pytest.mark.usefixtures("optimized")
@cases_of("fisher", "second_moment", "str")
def test_scaled_loss_changes_nothing(case, data):
    found = []
    for wrap in (lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer):
        keras.utils.set_random_seed(0)
        with eager_updates():
            model = compiled(case.model(), wrap)
            _, watch = train(model, case.config(), data, epochs=1)
        assert watch.broken == []
        found.append(watch.halfway)
    assert differences(*found) == []


@cases_of("rigl", "sr_ste")
def test_mixed_float16(case, data):
    keras.config.set_dtype_policy("mixed_float16")
    with eager_updates():
        model = compiled(case.model())
        pruner, watch = train(model, case.config(), data)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert watch.broken == []
    check_dtypes(pruner)
    check_count(pruner, pruner.target_sparsity_ratio)


@cases_of("fisher", "second_moment")
def test_resumed_amid_accumulated_gradients(case, data, tmp_path):
    x, y = data
    # Five batches an epoch: the second of a pair is seen after the run was cut.
    data, path = (x[:80], y[:80]), str(tmp_path / "half.keras")
    model = compiled(case.model(), gradient_accumulation_steps=2)
    with eager_updates():
        pruner, watch = train(model, case.config(), data, epochs=3, path=path)
    final = snapshot(model, pruner)
    loaded, resumed, watch_again = resume(None, case.config(), data, path, epochs=3)
    assert watch.broken == watch_again.broken == []
    assert differences(snapshot(loaded, resumed), final) == []

"""Contracts that everything in the registries keeps, so that a new name is tested."""

import json

import keras
import numpy as np
import pytest
from conftest import BACKEND, value_of
from contracts import (
    CASES,
    REGISTRIES,
    compiled,
    demanded,
    differences,
    eager_updates,
    run_eagerly,
    snapshot,
    train,
    trained_cases,
)

from keras_pruner import PruningConfig

POLICY = "mixed_bfloat16"


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
    again = type(component).from_config(component.get_config())
    assert again == component and hash(again) == hash(component)
    assert type(component) is registry[case.name]
    assert registry.get(registry.serialize(component)) == component


@pytest.mark.parametrize("case", trained_cases(), ids=str)
def test_training_keeps_the_contracts(case, data, tmp_path):
    # Of all policies this one asks most of dtypes, and scales no loss.
    keras.config.set_dtype_policy(POLICY)
    config = case.config()
    path = str(tmp_path / "half.keras")
    model = compiled(case.model())
    pruner, watch = train(model, config, data, path=path)
    assert watch.broken == []
    check_traced_once(pruner, watch)
    check_dtypes(pruner)
    target = 56 / 320 if case.locks_zeros else pruner.target_sparsity_ratio
    check_count(pruner, target)
    final = snapshot(model, pruner)

    # Saved after half of the steps, loaded and gone on with: the same.
    with eager_updates():
        loaded = keras.models.load_model(path)
        resumed, watch_again = train(loaded, config, data, first_epoch=1)
    assert watch_again.broken == []
    assert differences(snapshot(loaded, resumed), final) == []

    # The loss multiplied with a power of two: the same, to the last bit.
    if pruner.needs_gradients:
        with eager_updates():
            keras.utils.set_random_seed(0)
            scaled = compiled(case.model(), keras.optimizers.LossScaleOptimizer)
            _, watch_scaled = train(scaled, config, data, epochs=1)
        assert watch_scaled.broken == []
        assert differences(watch_scaled.halfway, watch.halfway) == []

    check_updates(case, pruner)


def check_traced_once(pruner, watch):
    if BACKEND == "torch":
        return
    assert pruner.trace_count == 1
    assert watch.executions[0] > 0
    assert watch.executions == [watch.executions[0]] * 12


def check_dtypes(pruner, kernel_dtype="float32", memory_dtype="float32"):
    for kernel in pruner.kernels:
        states = pruner.state_variables[kernel.path]
        found = {name: str(state.dtype) for name, state in states.items()}
        assert str(kernel.variable.dtype) == kernel_dtype
        assert str(pruner.mask_variables[kernel.path].dtype) == "bool"
        assert found.get("dense", kernel_dtype) == kernel_dtype
        assert found.get("memory", memory_dtype) == memory_dtype


def check_count(pruner, sparsity):
    pruned = sum((~value_of(mask)).sum() for mask in pruner.masks.values())
    wanted, slack = demanded(pruner, sparsity)
    assert abs(pruned - wanted) <= slack
    assert pruner.current_sparsity_ratio == pruned / pruner.num_weights


def check_updates(case, pruner):
    """After training: eager and compiled masks are equal and exact, traced once."""
    for sparsity in (0.2, 0.4):
        expected = run_eagerly(pruner.make_masks, pruner.update_inputs(sparsity))
        pruner.update_masks(sparsity)
        check_count(pruner, 56 / 320 if case.locks_zeros else sparsity)
        for kernel, mask, states in zip(
            pruner.kernels, expected.masks, expected.states, strict=True
        ):
            made = pruner.mask_variables[kernel.path]
            np.testing.assert_array_equal(value_of(made), value_of(mask))
            for name, state in states.items():
                made = pruner.state_variables[kernel.path][name]
                np.testing.assert_array_equal(value_of(made), value_of(state))
    assert pruner.trace_count == 1 or BACKEND == "torch"

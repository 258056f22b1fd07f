"""A loop is told which hook is missing, or that it trains copies of the weights."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, kernels_of, value_of
from keras import ops

from keras_pruner import KerasBasePruner, create_pruners
from keras_pruner.pruners import PrunerGroup

STEPS = {"target_sparsity": 0.5, "begin_step": 0, "end_step": 12, "frequency": 3}


@pytest.fixture(params=[KerasBasePruner, PrunerGroup])
def pruner(request):
    return request.param(STEPS, build_mlp())


def train(pruner):
    """Changes the weights, as an optimizer does."""
    for kernel in pruner.kernels:
        kernel.variable.assign(kernel.variable + 0.01)


def run(pruner, steps=16, train=train, leave_out=()):
    pruner.on_train_begin()
    for number in range(steps):
        if "on_step_begin" not in leave_out:
            pruner.on_step_begin(number)
        train(pruner)
        if "on_after_optimizer_step" not in leave_out:
            pruner.on_after_optimizer_step()
    pruner.on_train_end()


def test_whole_loop_is_not_warned(pruner, caplog):
    run(pruner)
    assert pruner.current_sparsity_ratio == 0.5 and not caplog.text


def test_loop_that_is_too_short_is_advised_to_train_longer(pruner, caplog):
    run(pruner, steps=5)
    assert "Train longer" in caplog.text and "never called" not in caplog.text


def test_missing_on_after_optimizer_step_is_named(pruner, caplog):
    run(pruner, leave_out=["on_after_optimizer_step"])
    assert "No step was counted: call `on_after_optimizer_step`" in caplog.text
    assert "Train longer" not in caplog.text


def test_missing_on_step_begin_raises_at_the_first_step(pruner):
    before = kernels_of(pruner.modules)
    with pytest.raises(ValueError, match="due at step 0.*not called `on_step_begin`"):
        run(pruner, train=lambda _: None, leave_out=["on_step_begin"])
    assert pruner.global_step == 0
    np.testing.assert_array_equal(kernels_of(pruner.modules), before)


def test_steps_outside_of_a_loop_only_warn_once(pruner, caplog):
    for _ in range(3):
        train(pruner)
        pruner.on_after_optimizer_step()
    assert caplog.text.count("due at step 0") == 1


def test_missing_on_step_begin_is_named_at_the_end(caplog):
    (pruner,) = create_pruners(STEPS | {"begin_step": 6, "end_step": 8}, build_mlp())
    run(pruner, steps=6, leave_out=["on_step_begin"])
    assert "`on_step_begin` was never called" in caplog.text


def test_masks_that_are_made_by_hand_need_no_on_step_begin(pruner, caplog):
    pruner.update_masks(0.5)
    for _ in range(4):
        train(pruner)
        pruner.on_after_optimizer_step()
    assert (kernels_of(pruner.modules) == 0).mean() == 0.5 and not caplog.text


def test_missing_on_train_begin_raises_if_steps_are_open():
    pruner = KerasBasePruner({"target_sparsity": 0.5}, build_mlp())
    with pytest.raises(ValueError, match="call `on_train_begin` before the first step"):
        pruner.on_step_begin(0)
    pruner.schedule_steps(8)
    pruner.on_step_begin(0)


@pytest.mark.skipif(BACKEND != "jax", reason="JAX replaces values at an assignment")
def test_loop_that_trains_copies_is_told_so(pruner):
    with pytest.raises(ValueError, match="In 10 steps.*copies.*use `StatelessPruner`"):
        run(pruner, train=lambda _: None)
    assert pruner.global_step == 9


@pytest.mark.parametrize("steps", [9, 16])
def test_weights_that_never_change_are_named_at_the_end(steps, caplog):
    (pruner,) = create_pruners(STEPS | {"end_step": 6}, build_mlp())
    copies = [ops.copy(kernel.variable) for kernel in pruner.kernels]

    def train_copies(_):
        copies[:] = [copy + 0.01 for copy in copies]
        if steps == 16:
            # Assigned, but to the same values.
            for kernel in pruner.kernels:
                kernel.variable.assign(ops.copy(kernel.variable))

    run(pruner, steps, train_copies)
    assert f"In {steps} steps, no weight of the pruned kernels changed" in caplog.text
    assert "trains copies" in caplog.text


@pytest.mark.parametrize("kind", ["ste", "skipped"])
def test_dense_weights_and_skipped_steps_are_no_copies(kind, caplog):
    settings = {"pruning_type": "ste"} if kind == "ste" else {}
    (pruner,) = create_pruners(STEPS | settings, build_mlp())
    optimizer = keras.optimizers.SGD(0.1)
    pruner.on_train_begin()
    for number in range(24):
        pruner.on_step_begin(number)
        pairs = [(ops.ones(k.variable.shape), k.variable) for k in pruner.kernels]
        pairs = pruner.on_before_optimizer_step(pairs)
        # Every other step is skipped, e.g. because a gradient was not finite.
        if number % 2:
            optimizer.apply_gradients(pairs)
        pruner.on_after_optimizer_step()
    pruner.on_train_end()
    assert not caplog.text
    for path, mask in pruner.masks.items():
        assert (value_of(mask).mean() < 1) and path

"""The gradient that criteria see in training, against gradients made by hand."""

import keras
import numpy as np
import pytest
from by_hand import (
    BATCH,
    NAMES,
    RATE,
    ByHand,
    build,
    fit,
    initial,
    mean,
    samples,
    sgd,
)
from conftest import BACKEND, first_where_compiled, value_of
from keras import ops, optimizers

from keras_pruner import (
    CRITERIA,
    GradientCriterion,
    KerasBasePruner,
    PruningCallback,
    register_criterion,
)
from keras_pruner.backend import slots_of

pytestmark = pytest.mark.usefixtures("eager_masks")


@pytest.fixture
def probe():
    """Remembers all gradients, and the weights they were made at, the latest most."""

    @register_criterion("probe")
    class Probe(GradientCriterion):
        def accumulate(self, memory, weight, gradient, pool):
            return 0.5 * memory + (1 + weight) * gradient

    yield "probe"
    CRITERIA._classes.pop("probe")


def clip_norm(limit):
    return lambda gs: [g * min(1, limit / np.linalg.norm(g)) for g in gs]


def clip_global(limit):
    def clip(gradients):
        norm = sum((g**2).sum() for g in gradients) ** 0.5
        return [g * min(1, limit / norm) for g in gradients]

    return clip


def clip_value(limit):
    return lambda gradients: [np.clip(g, -limit, limit) for g in gradients]


def scaled(**kwargs):
    return optimizers.LossScaleOptimizer(sgd(**kwargs), initial_scale=2.0**12)


# Optimizer, how it clips, batches of an update, batches that hold an infinity.
OPTIMIZERS = {
    "plain": (sgd, None, 1, ()),
    "loss scale": (scaled, None, 1, ()),
    "static scale": (lambda: sgd(loss_scale_factor=128.0), None, 1, ()),
    "accumulated": (lambda: sgd(gradient_accumulation_steps=4), None, 4, ()),
    "clipnorm": (lambda: sgd(clipnorm=0.5), clip_norm(0.5), 1, ()),
    "global_clipnorm": (lambda: sgd(global_clipnorm=0.5), clip_global(0.5), 1, ()),
    "clipvalue": (lambda: sgd(clipvalue=0.1), clip_value(0.1), 1, ()),
    "overflow": (scaled, None, 1, (2, 7)),
    "all": (
        lambda: scaled(gradient_accumulation_steps=4, global_clipnorm=0.5),
        clip_global(0.5),
        4,
        (2, 7),
    ),
}
# What torch compiles is not the optimizer.
COMPILED = BACKEND != "torch"
RUNS = {
    "jit": {"jit_compile": COMPILED},
    "no jit": {"jit_compile": False},
    "eager": {"run_eagerly": True, "jit_compile": False},
}
if COMPILED:
    RUNS["4 a call"] = {"steps_per_execution": 4, "jit_compile": True}


@pytest.mark.parametrize(
    "name, run, wrapped",
    first_where_compiled(
        [
            ("all", "jit", True),
            *((name, "jit", False) for name in OPTIMIZERS),
            *((name, run, False) for name in ("plain", "all") for run in [*RUNS][1:]),
            ("plain", "jit", True),
        ]
    ),
)
def test_gradients_in_fit_equal_those_by_hand(name, run, wrapped, probe):
    make, clip, accumulated, overflows = OPTIMIZERS[name]
    x, y = samples(12 + len(overflows))
    for batch in overflows:
        x[BATCH * batch, 0] = np.inf
    # The masks change after four of the good batches, between two calls.
    due, call = 4 // accumulated, RUNS[run].get("steps_per_execution", 1)
    hand, sums, steps = ByHand(), [], 0
    for batch in range(len(x) // BATCH):
        part = slice(BATCH * batch, BATCH * (batch + 1))
        if batch not in overflows:
            gradients = hand.gradients(x[part], y[part])
            sums.append((gradients, hand.masked(gradients)))
        if len(sums) == accumulated:
            hand.step(*(mean(parts) for parts in zip(*sums, strict=True)), clip)
            sums, steps = [], steps + 1
        if (batch + 1) % call == 0 and steps >= due:
            hand.prune(hand.memories, 0.4)
            due = np.inf
    pruning = PruningCallback(
        criterion=probe,
        allocation="uniform",
        target_sparsity=0.4,
        begin_step=4 // accumulated,
        end_step=4 // accumulated,
        verbose=False,
    )
    model = build(make(), wrapped, **RUNS[run])
    fit(model, x, y, pruning)
    (pruner,) = pruning.pruners
    assert pruner.global_step == 12 // accumulated
    for i, kernel in enumerate(NAMES):
        memory = value_of(pruner.state_variables[kernel]["memory"])
        np.testing.assert_allclose(memory, hand.memories[i], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(value_of(pruner.masks[kernel]), hand.masks[i])
        weight = value_of(pruner.kernels[i].variable)
        np.testing.assert_allclose(weight, hand.weights[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrapped", first_where_compiled([False, True]))
def test_pruned_weights_show_their_gradient_but_get_no_momentum(wrapped, probe):
    hand = ByHand()
    hand.prune([np.abs(weight) for weight in hand.weights], 0.5)
    pruning = PruningCallback(
        criterion=probe, target_sparsity=0.5, begin_step=9, end_step=9, verbose=False
    )
    model = build(wrapped=wrapped)
    pruning.set_model(model)
    (pruner,) = pruning.pruners
    for kernel, mask in zip(pruner.kernels, hand.masks, strict=True):
        pruner.mask_variables[kernel.path].assign(mask)
        if wrapped:
            kernel.wrapper_mask.assign(mask)
    pruner.apply_masks()
    x, y = samples(1)
    gradients = hand.gradients(x, y)
    hand.step(gradients)
    fit(model, x, y, pruning)
    for i, kernel in enumerate(pruner.kernels):
        memory = value_of(pruner.state_variables[kernel.path]["memory"])
        np.testing.assert_allclose(memory, hand.memories[i], rtol=1e-5, atol=1e-6)
        assert abs(memory[~hand.masks[i]]).max() > 0.1
        (momentum,) = slots_of(model.optimizer, kernel.variable)
        expected = -RATE * gradients[i] * hand.masks[i]
        np.testing.assert_allclose(value_of(momentum), expected, rtol=1e-5, atol=1e-6)
        assert not value_of(momentum)[~hand.masks[i]].any()
        assert not value_of(kernel.variable)[~hand.masks[i]].any()


class Watch(keras.callbacks.Callback):
    """Keeps the masks after each batch, and the optimizer that `fit` trains with."""

    def __init__(self, pruning):
        super().__init__()
        self.pruning, self.masks = pruning, []

    def on_train_batch_end(self, batch, logs=None):
        self.optimizer = self.model.optimizer
        (pruner,) = self.pruning.pruners
        self.masks.append({n: value_of(m) for n, m in pruner.masks.items()})


def test_nan_weights_in_fit_change_no_mask_and_are_logged(caplog):
    x, y = samples()
    x[BATCH * 5, 0] = np.nan
    steps = {"begin_step": 2, "end_step": 8, "frequency": 2}
    pruning = PruningCallback(
        criterion="snip", target_sparsity=0.5, verbose=False, **steps
    )
    watch = Watch(pruning)
    fit(build(), x, y, pruning, watch)
    (pruner,) = pruning.pruners
    told = "Cannot prune: NaN or infinite weights in a/kernel"
    # Not again at step 8.
    assert caplog.text.count(told) == caplog.text.count(f"Step 6: {told}") == 1
    assert "due at step 8. It failed: an error above says why" in caplog.text
    for name, mask in pruner.masks.items():
        np.testing.assert_array_equal(value_of(mask), watch.masks[4][name])
    assert 0 < pruner.current_sparsity_ratio < 0.5


def check_untouched(pruner):
    """Nothing is pruned, and the weights are as they were built."""
    for kernel, weight in zip(pruner.kernels, initial(), strict=True):
        assert value_of(pruner.masks[kernel.path]).all()
        np.testing.assert_array_equal(value_of(kernel.variable), np.float32(weight))


def test_nan_in_the_memory_alone_is_an_error_that_names_gradients():
    pruner = KerasBasePruner(
        {"criterion": "snip", "begin_step": 1, "end_step": 1}, build()
    )
    gradients = {k.path: np.ones(k.variable.shape) for k in pruner.kernels}
    pruner.on_before_optimizer_step(gradients)
    pruner.on_after_optimizer_step()
    # No gradient brings it there, but a file may.
    memory = pruner.state_variables["b/kernel"]["memory"]
    memory.assign(np.full(memory.shape, np.nan))
    message = "infinite gradients, as the criterion remembers them, in b/kernel. The"
    with pytest.raises(ValueError, match=message):
        pruner.on_step_begin(0)
    check_untouched(pruner)


def test_without_gradient_criteria_nothing_is_kept():
    pruning = PruningCallback(target_sparsity=0.5, verbose=False)
    watch = Watch(pruning)
    fit(build(sgd(gradient_accumulation_steps=2)), *samples(4), pruning, watch)
    (pruner,) = pruning.pruners
    assert not pruner.needs_gradients
    assert pruner.state_variables == {name: {} for name in NAMES}
    own = [variable.name for variable in watch.optimizer._variables]
    masks = [name for name in own if name.endswith("mask")]
    assert set(own) - set(masks) == {"iteration", "learning_rate", "updated_at_0"}
    assert len(own) == 5 and watch.optimizer.states == {}


def test_a_gradient_criterion_without_gradients_names_the_way_out():
    pruner = KerasBasePruner({"criterion": "snip", "begin_step": 1}, build())
    message = "'snip' needs gradients and has seen none. .*`on_before_opt.*prune_at_in"
    with pytest.raises(ValueError, match=message):
        pruner.update_masks()
    check_untouched(pruner)
    pruning = PruningCallback(
        criterion="snip", schedule="constant", begin_step=0, end_step=0, verbose=False
    )
    with pytest.raises(ValueError, match="PruningCallback and `begin_step` >= 1"):
        fit(build(), *samples(2), pruning)


def test_memory_can_be_pruned_by_after_fit():
    pruning = PruningCallback(
        criterion="snip", target_sparsity=0.5, begin_step=99, end_step=99, verbose=False
    )
    fit(build(), *samples(2), pruning)
    (pruner,) = pruning.pruners
    pruner.update_masks()
    assert pruner.current_sparsity_ratio == 22 / 45


@pytest.mark.parametrize("criterion", ["snip_momentum", "taylor", "movement"])
def test_a_loop_of_ones_own_equals_fit(criterion):
    config = {
        "criterion": criterion,
        "pattern": "1x1" if criterion == "movement" else "channelx1",
        "allocation": "global",
        "target_sparsity": 0.5,
        "begin_step": 2,
        "end_step": 10,
        "frequency": 4,
    }
    x, y = samples()
    pruning = PruningCallback(config, verbose=False)
    fit(build(), x, y, pruning)
    (fitted,) = pruning.pruners
    optimizer, hand = sgd(), ByHand()
    pruner = KerasBasePruner(config, build())
    variables = [kernel.variable for kernel in pruner.kernels]
    pruner.on_train_begin()
    for step in range(len(x) // BATCH):
        pruner.on_step_begin(step)
        part = slice(BATCH * step, BATCH * (step + 1))
        hand.weights = [value_of(variable) for variable in variables]
        gradients = [ops.convert_to_tensor(g) for g in hand.gradients(x[part], y[part])]
        pairs = zip(gradients, variables, strict=True)
        optimizer.apply_gradients(pruner.on_before_optimizer_step(pairs))
        pruner.on_after_optimizer_step()
        pruner.on_step_end()
    pruner.on_train_end()
    assert pruner.current_sparsity_ratio == fitted.current_sparsity_ratio > 0.4
    for name, states in pruner.state_variables.items():
        for key, state in states.items():
            expected = value_of(fitted.state_variables[name][key])
            np.testing.assert_allclose(value_of(state), expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(
            value_of(pruner.masks[name]), value_of(fitted.masks[name])
        )
    for one, two in zip(variables, fitted.kernels, strict=True):
        expected = value_of(two.variable)
        np.testing.assert_allclose(value_of(one), expected, rtol=1e-4, atol=1e-6)

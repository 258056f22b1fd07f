"""`prune_one_shot` runs recoveries after pruning, and reports them."""

import keras
import numpy as np
import pytest
from conftest import first_where_compiled, value_of
from keras import layers

from keras_pruner import (
    Recovery,
    prune_one_shot,
    reestimate_batch_normalization,
    register_recovery,
)
from keras_pruner.oneshot import (
    RECOVERIES,
    BatchNormalizationReport,
    Distillation,
    DistillationReport,
)

MAGNITUDE = {
    "method": "magnitude",
    "allocation": "uniform",
    "dense_target": False,
    "centre": False,
    "verbose": False,
}
DISTILL = Distillation(steps=40, learning_rate=1e-2)


def build(seed=0):
    keras.utils.set_random_seed(seed)
    scale = keras.initializers.RandomNormal(stddev=0.7, seed=seed)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(16, kernel_initializer=scale, name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh"),
            layers.Dense(4, "softmax", kernel_initializer=scale, name="head"),
        ]
    )


def samples(size=64):
    return np.random.default_rng(0).normal(size=(size, 6)).astype("float32")


def error(model, pruned, x):
    difference = value_of(model(x, training=False)) - value_of(pruned(x))
    return float((difference**2).mean())


@pytest.mark.parametrize("in_place", first_where_compiled([False, True]))
def test_distillation_repairs_what_magnitude_lost(in_place):
    x, dense = samples(), build()
    before = [value_of(v).copy() for v in dense.weights]
    lost, _ = prune_one_shot(dense, x, 0.5, **MAGNITUDE)
    model = build()
    pruned, report = prune_one_shot(
        model, x, 0.5, recovery=DISTILL, in_place=in_place, **MAGNITUDE
    )
    assert error(dense, pruned, x) < 0.3 * error(dense, lost, x)
    (recovered,) = report.recoveries
    assert isinstance(recovered, DistillationReport)
    assert recovered.loss_after < 0.3 * recovered.loss_before
    assert str(recovered)[:30] in str(report)
    # The zeros are those of the pruning.
    for one, other in zip(lost.weights, pruned.weights, strict=True):
        if one.name == "kernel":
            np.testing.assert_array_equal(value_of(one) == 0, value_of(other) == 0)
    assert (pruned is model) == in_place
    if not in_place:
        for variable, value in zip(model.weights, before, strict=True):
            np.testing.assert_array_equal(value_of(variable), value)


def test_recoveries_run_in_their_order_and_have_a_line_each():
    recovery = ("batch_normalization", {"name": "distill", "config": {"steps": 2}})
    pruned, report = prune_one_shot(
        build(), samples(), 0.5, recovery=recovery, **MAGNITUDE
    )
    first, second = report.recoveries
    assert isinstance(first, BatchNormalizationReport)
    assert first.layers == (pruned.get_layer("norm").path,)
    assert isinstance(second, DistillationReport) and second.steps == 2
    lines = str(report).splitlines()
    starts = [line.split(":")[0] for line in lines if ":" in line]
    assert starts[:3] == ["prune_one_shot", "batch_normalization", "distill"]


def test_statistics_after_pruning_help_without_the_dense_target(caplog):
    dense, x = build(), np.repeat(samples()[:, :1], 6, axis=1)
    hidden = dense.get_layer("hidden")
    hidden.kernel.assign(np.abs(value_of(hidden.kernel)))
    reestimate_batch_normalization(dense, x)
    # All inputs are one feature, so pruning only scales what the statistics rescale.
    settings = {"include": "hidden", "pattern": "1:2"} | MAGNITUDE
    lost, _ = prune_one_shot(dense, x, 0.5, **settings)
    settings["recovery"] = "batch_normalization"
    pruned, _ = prune_one_shot(dense, x, 0.5, **settings)
    assert error(dense, pruned, x) < 1e-3 * error(dense, lost, x)
    assert "dense_target" not in caplog.text
    prune_one_shot(dense, x, 0.5, **settings | {"dense_target": True})
    assert "costs accuracy with `dense_target=True`" in caplog.text


def test_a_recovery_that_fails_leaves_the_model_unchanged():
    class Fails(Recovery):
        def recover(self, model, teacher, samples, *, seed=0, verbose=False):
            assert (value_of(model.get_layer("head").kernel) == 0).any()
            raise KeyboardInterrupt

    model = build()
    before = [value_of(v).copy() for v in model.variables]
    with pytest.raises(KeyboardInterrupt):
        prune_one_shot(
            model, samples(), 0.5, recovery=(DISTILL, Fails()), in_place=True,
            **MAGNITUDE,
        )  # fmt: skip
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)


def test_a_recovery_of_your_own(monkeypatch):
    monkeypatch.setattr(RECOVERIES, "_classes", dict(RECOVERIES._classes))
    x, dense = samples(), build()
    seen = {}

    @register_recovery("bias_shift")
    class BiasShift(Recovery):
        """Adds a number to the last bias."""

        def __init__(self, shift=1.0):
            self.shift = shift

        def get_config(self):
            return {"shift": self.shift}

        def recover(self, model, teacher, samples, *, seed=0, verbose=False):
            seen.update(seed=seed, size=len(samples), outputs=teacher(x))
            bias = model.get_layer("head").bias
            bias.assign(bias + self.shift)
            return f"bias_shift: {self.shift}"

    recovery = {"name": "bias_shift", "config": {"shift": 2.0}}
    recovery = ("batch_normalization", recovery)
    pruned, report = prune_one_shot(
        build(), x, 0.5, recovery=recovery, seed=3, in_place=True, **MAGNITUDE
    )
    assert (value_of(pruned.get_layer("head").bias) == 2).all()
    assert "bias_shift: 2.0" in str(report)
    assert (seen["seed"], seen["size"]) == (3, 64)
    # The teacher is the dense model, though all of the model was changed in place.
    np.testing.assert_allclose(value_of(seen["outputs"]), value_of(dense(x)), atol=1e-6)


def test_a_torch_module_is_refused():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(6, 4)
    before = module.weight.detach().clone()
    with pytest.raises(ValueError, match="`recovery` takes Keras models"):
        prune_one_shot(module, samples(), 0.5, recovery="distill", in_place=True)
    assert torch.equal(module.weight, before)


@pytest.mark.parametrize(
    "recovery, message",
    [
        ("distil", "Did you mean 'distill'"),
        (("distill", {"name": "distill", "config": {"steps": 0}}), "`steps`"),
        ("batch_normalization", "no BatchNormalization layer"),
    ],
)
def test_bad_recoveries_are_refused_before_anything_is_pruned(recovery, message):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    before = value_of(model.layers[0].kernel).copy()
    with pytest.raises(ValueError, match=message):
        prune_one_shot(
            model, samples(), 0.5, recovery=recovery, in_place=True, **MAGNITUDE
        )
    np.testing.assert_array_equal(value_of(model.layers[0].kernel), before)

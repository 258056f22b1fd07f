"""Outputs of a kernel count by how much the outputs of the model depend on them."""

import keras
import numpy as np
import pytest
from conftest import slow_where_compiled
from keras import layers, ops

from keras_pruner import find_kernels, prune_one_shot
from keras_pruner.oneshot import influence
from keras_pruner.oneshot.influence import output_weights

QUICK = {"verbose": False, "check": False}


def samples(size=96, length=12, seed=0):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(5, length))
    x = generator.normal(size=(size, 5)) @ mixing
    return (x + 0.1 * generator.normal(size=x.shape)).astype("float32")


def uneven(last="linear", units=32):
    """Half of the hidden units hardly matter to the outputs."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(units, activation="tanh", name="hidden"),
            layers.Dense(3, activation=last, name="head"),
        ]
    )
    kernel = ops.convert_to_numpy(model.layers[-1].kernel).copy()
    kernel[::2] *= 0.01
    model.layers[-1].kernel.assign(kernel)
    return model


def weights_of(model, batches, **settings):
    with keras.StatelessScope():
        outputs = [ops.convert_to_numpy(model(batches[0], training=False))]
    kernels = find_kernels(model).kernels
    found = output_weights(model, list(kernels), batches, outputs, **settings)
    return {
        f"{k.layer.name}/{k.variable.name}": ops.convert_to_numpy(value)
        for k, value in found.items()
    }


def error_of(model, pruned, x):
    expected, found = (ops.convert_to_numpy(each(x)) for each in (model, pruned))
    return float(np.sum((found - expected) ** 2) / np.sum(expected**2))


def test_the_mean_over_passes_is_that_of_all_derivatives(monkeypatch):
    """In a linear model unit j reaches the outputs by the row j of the next kernel."""
    monkeypatch.setattr(influence, "NUM_PASSES", 300)
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(8, name="first"),
            layers.Dense(3, name="last"),
        ]
    )
    kernel = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    model.layers[-1].kernel.assign(kernel)
    x = samples(32)
    found = weights_of(model, [x[:16], x[16:]])
    norms = np.sqrt(np.sum(kernel**2, axis=1))
    expected = np.sqrt(norms / np.sqrt(np.mean(norms**2)))
    np.testing.assert_allclose(found["first/kernel"], expected, rtol=0.06)
    np.testing.assert_allclose(found["last/kernel"], 1.0, rtol=0.1)


def test_outputs_with_influence_are_kept():
    model, x = uneven(), samples(256)
    errors, kept = {}, {}
    for weigh_outputs in (True, False):
        settings = {"weigh_outputs": weigh_outputs, "allocation": {"hidden": 0.6}}
        pruned, _ = prune_one_shot(
            model, x[:192], 0.6, include=["hidden"], **settings, **QUICK
        )
        errors[weigh_outputs] = error_of(model, pruned, x[192:])
        nonzero = ops.convert_to_numpy(pruned.layers[0].kernel) != 0
        kept[weigh_outputs] = float(np.mean(nonzero[:, 1::2]))
    assert kept[True] > 1.2 * kept[False]
    assert errors[True] < 0.5 * errors[False]


def test_probabilities_count_by_their_log_odds():
    """So a sigmoid at the end changes nothing."""
    x, found = samples(64), []
    for last in ("linear", "sigmoid"):
        found.append(weights_of(uneven(last), [x]))
    assert list(found[0]) == ["hidden/kernel", "head/kernel"]
    for path, weights in found[0].items():
        np.testing.assert_allclose(found[1][path], weights, rtol=1e-3)


def test_the_model_does_not_change():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4, 3), batch_size=8),
            layers.GRU(6, stateful=True, return_sequences=True),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )
    before = [ops.convert_to_numpy(v).copy() for v in model.variables]
    x = np.random.default_rng(0).normal(size=(8, 4, 3)).astype("float32")
    first, second = weights_of(model, [x]), weights_of(model, [x])
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    # Three kernels, and the same weights each time.
    assert len(first) == 3
    for path, value in first.items():
        np.testing.assert_allclose(value, second[path], rtol=1e-6)
    assert any(not np.array_equal(v, w) for v, w in zip(
        first.values(), weights_of(model, [x], seed=1).values(), strict=True
    ))  # fmt: skip


@ops.custom_gradient
def without_derivative(x):
    def gradient(*args, **kwargs):
        raise NotImplementedError("nobody knows the derivative")

    return 1.0 * x, gradient


class Opaque(layers.Layer):
    def call(self, x):
        return without_derivative(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, x.dtype)


@slow_where_compiled
def test_a_model_without_derivatives_is_pruned_and_told(caplog):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(16), Opaque(), layers.Dense(3)]
    )
    x = samples()
    found, _ = prune_one_shot(model, x, 0.5, **QUICK)
    assert "all outputs of a kernel count equally" in caplog.text
    assert "nobody knows the derivative" in caplog.text
    expected, _ = prune_one_shot(model, x, 0.5, weigh_outputs=False, **QUICK)
    for value, other in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (value, other)))


class Cut(layers.Layer):
    def call(self, x):
        return ops.stop_gradient(x)


def test_a_kernel_without_influence_is_left_out():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((12,)), layers.Dense(16), Cut(), layers.Dense(3, name="last")]
    )
    found = weights_of(model, [samples(8)])
    assert list(found) == ["last/kernel"]


@pytest.mark.parametrize("method", ["magnitude", "wanda", "dsnot"])
def test_methods_that_compare_weights_do_not_weigh_outputs(method):
    model, x = uneven(), samples()
    pair = [
        prune_one_shot(
            model, x, 0.5, method=method, allocation="uniform",
            weigh_outputs=weigh_outputs, **QUICK,
        )[0]
        for weigh_outputs in (True, False)
    ]  # fmt: skip
    for value, other in zip(*(model.weights for model in pair), strict=True):
        np.testing.assert_array_equal(*map(ops.convert_to_numpy, (value, other)))


@pytest.mark.parametrize("method", ["admm", "alps", "sparsegpt"])
def test_methods_that_solve_for_the_lowest_error_do(method):
    model, x = uneven("softmax"), samples(256)
    errors = [
        error_of(
            model,
            prune_one_shot(
                model, x[:192], 0.7, method=method, include=["hidden"],
                allocation={"hidden": 0.7}, weigh_outputs=weigh_outputs, **QUICK,
            )[0],
            x[192:],
        )
        for weigh_outputs in (True, False)
    ]  # fmt: skip
    assert errors[0] < errors[1]


def test_the_switch_is_a_bool():
    with pytest.raises(TypeError, match="`weigh_outputs`"):
        prune_one_shot(uneven(), samples(), 0.5, weigh_outputs="yes", **QUICK)

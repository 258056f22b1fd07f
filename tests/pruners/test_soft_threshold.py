"""ST-3 and Feather: thresholds on dense weights, against NumPy."""

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import ops
from keras.optimizers import SGD, Adam
from linear import PATHS, fit, history, linear_model, lowest, pruner_of, step, train
from numpy.testing import assert_allclose, assert_array_equal

from keras_pruner import PruningCallback, create_pruners, strip
from keras_pruner.backend import moving_average_of

pytestmark = pytest.mark.usefixtures("eager_masks")

STEPS = dict(begin_step=1, end_step=9, frequency=4, target_sparsity=0.5625)


def lowered(dense, mask, cut, power=1, gain=1.0):
    """What the model computes with, in float64."""
    dense, cut = dense.astype("float64"), np.float64(cut)
    rest = np.maximum(np.abs(dense) ** power - cut**power, 0)
    return gain * mask * np.sign(dense) * rest ** (1 / power)


def gain_of(dense, mask):
    """`1.01 / (r + .01)` of each output, in float64."""
    sizes = np.abs(dense.astype("float64"))
    return 1.01 / ((sizes * mask).mean(0) / sizes.mean(0) + 0.01)


def test_st3_of_a_literal_kernel():
    values = {"w": [[3, -2.4, 0.1], [1.2, 0.6, -0.5]]}
    pruner, w = pruner_of(values, target_sparsity=0.5, pruning_type="st3")
    gradient = np.arange(6.0).reshape(2, 3)
    (shaped,) = step(pruner, gradient)
    # The lowest are 0.1, -0.5 and 0.6. The second output keeps 2.4 of 3: r = 0.8.
    gain = [1, 1.01 / 0.81, 101]
    assert_allclose(value_of(pruner.state_variables["w"]["gain"]), gain, rtol=1e-6)
    expected = [[2.4, -1.8 * 1.01 / 0.81, 0], [0.6, 0, 0]]
    assert_allclose(value_of(w), expected, rtol=1e-5)
    assert_array_equal(value_of(pruner.masks["w"]), [[1, 1, 0], [1, 0, 0]])
    # Straight to all weights.
    assert_array_equal(shaped, gradient)


def test_feather_of_a_literal_kernel():
    values = {"w": [[3, -2.4, 0.1], [1.2, 0.6, -0.5]]}
    pruner, w = pruner_of(values, target_sparsity=0.5, pruning_type="feather")
    pruner.on_step_begin(0)
    roots = [-((2.4**3 - 0.6**3) ** (1 / 3)), (1.2**3 - 0.6**3) ** (1 / 3)]
    expected = [[(3**3 - 0.6**3) ** (1 / 3), roots[0], 0], [roots[1], 0, 0]]
    assert_allclose(value_of(w), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "target, options, share",
    [(0.95, {}, 1), (0.975, {}, 0.5), (0.5, {"pruned_gradient": 0.25}, 0.25)],
)
def test_feather_damps_the_gradients_of_pruned_weights(target, options, share):
    values = {"w": np.arange(1.0, 41).reshape(4, 10)}
    settings = {"pruning_type": "feather", "pruner_options": options}
    pruner, _ = pruner_of(values, target_sparsity=target, **settings)
    (shaped,) = step(pruner, np.full((4, 10), 2.0))
    mask = value_of(pruner.masks["w"])
    assert mask.sum() == round(40 * (1 - target))
    assert_array_equal(shaped, np.where(mask, 2.0, 2.0 * share))


@pytest.mark.parametrize("name, power", [("st3", 1), ("feather", 3), ("feather", 1.5)])
def test_thresholds_in_fit(name, power):
    options = {"power": power} if name == "feather" else {}
    settings = STEPS | dict(pruning_type=name, pruner_options=options)
    model = linear_model(SGD(0.2))
    _, before, after = train(model, 11, **settings)
    for now, count in ((1, 0), (5, 47), (9, 54)):  # of 96, as the polynomial says
        rows = [after.rows[now][path] for path in PATHS]
        sizes = np.concatenate([np.abs(row.states["dense"]).ravel() for row in rows])
        masks = np.concatenate([row.mask.ravel() for row in rows])
        assert_array_equal(masks, ~lowest(sizes, count))
        for row in rows:
            dense, states = row.states["dense"], row.states
            highest = np.abs(dense[~row.mask]).max(initial=0)
            assert_allclose(states["cut"], highest, rtol=1e-5)
            if name == "st3":
                assert_allclose(states["gain"], gain_of(dense, row.mask), rtol=1e-5)
    for _, _, start, old, row, slope in history(before, after, since=1):
        states = start.states
        assert_allclose(old.states["dense"], states["dense"] - 0.2 * slope, atol=1e-5)
        states = row.states
        gain = states.get("gain", 1.0)
        expected = lowered(states["dense"], row.mask, states["cut"], power, gain)
        assert_allclose(row.weight, expected, atol=1e-5)
    assert after.sparsities[-1] == 0.5625
    for layer in strip(model).layers:
        path = f"{layer.name}/kernel"
        assert_array_equal(value_of(layer.kernel), after.rows[-1][path].weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ste", "st3", "feather"])
def test_dense_digits_survive_98_percent(name):
    """Five seeds of each reach .83 to .89."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    hidden = [layers.Dense(units, activation="relu") for units in (128, 64)]
    model = keras.Sequential([layers.Input((64,)), *hidden, layers.Dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(Adam(2e-3), loss, metrics=["accuracy"])
    arguments = dict(batch_size=32, verbose=0)
    model.fit(x[:1440], y[:1440], epochs=6, **arguments)
    pruning = PruningCallback(pruning_type=name, target_sparsity=0.98, verbose=False)
    model.fit(x[:1440], y[:1440], epochs=12, callbacks=[pruning], **arguments)
    _, accuracy = model.evaluate(x[1440:], y[1440:], verbose=0)
    assert accuracy > 0.75


@pytest.mark.parametrize("name", ["st3", "feather", "str"])
def test_moving_averages_are_of_the_weights_in_the_model(name):
    model = linear_model(Adam(0.05, use_ema=True, ema_momentum=0.75))
    pruning = PruningCallback(verbose=False, pruning_type=name, **STEPS)
    expected = {}

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            for layer in self.model.layers:
                weight, old = value_of(layer.kernel), expected.get(layer.name)
                new = weight if old is None else 0.75 * old + 0.25 * weight
                masks = pruning.pruners[0].masks
                expected[layer.name] = new * value_of(masks[f"{layer.name}/kernel"])
                average = moving_average_of(self.model.optimizer, layer.kernel)
                assert_allclose(value_of(average), expected[layer.name], atol=1e-5)

    look = Look()
    # Before the update, and after it: masks may change between.
    fit(model, 11, [look, pruning])
    for layer in model.layers:
        assert_allclose(value_of(layer.kernel), expected[layer.name], atol=1e-5)


def test_averages_cannot_overwrite_dense_weights():
    optimizer = Adam(use_ema=True, ema_overwrite_frequency=2)
    model = linear_model(optimizer)
    pruning = PruningCallback(verbose=False, pruning_type="st3", **STEPS)
    with pytest.raises(ValueError, match="'st3'.*`ema_overwrite_frequency` out"):
        fit(model, 2, [pruning])
    assert model.optimizer is optimizer


@pytest.mark.parametrize("name", ["st3", "feather"])
def test_weights_that_were_assigned_become_dense_weights(name):
    generator = np.random.default_rng(0)
    values = {"w": generator.normal(size=(8, 4))}
    pruner, w = pruner_of(values, target_sparsity=0.5, pruning_type=name)
    pruner.on_step_begin(0)
    mask = value_of(pruner.masks["w"])
    value = generator.normal(size=(8, 4)).astype("float32") * mask
    states = {
        key: ops.convert_to_tensor(state)
        for key, state in pruner.state_variables["w"].items()
    }
    rule, value = pruner.rules["w"], ops.convert_to_tensor(value)
    dense = rule.dense_from_forward(value, states)
    again, _ = rule.forward_weights(dense, mask, states)
    assert_allclose(value_of(again), value_of(value), atol=1e-5)


@pytest.mark.parametrize("name", ["st3", "feather"])
def test_kernel_of_zeros_stays_finite(name):
    pruner, w = pruner_of({"w": np.zeros((2, 3))}, pruning_type=name)
    step(pruner, np.ones((2, 3)), rate=0.5)
    step(pruner, np.zeros((2, 3)))
    kept = value_of(pruner.masks["w"])
    assert np.isfinite(value_of(w)).all() and not value_of(w)[~kept].any()
    # Nothing was lost, so nothing is scaled up.
    assert_allclose(value_of(w)[kept], -0.5)


@pytest.mark.parametrize("name", ["st3", "feather", "str"])
@pytest.mark.parametrize(
    "settings, message",
    [
        ({"pattern": "2x1"}, "takes pattern '1x1' only"),
        ({"criterion": "snip"}, "leave `criterion` open. Received: criterion='snip'"),
        ({"allocation": "per_output"}, "one threshold for a kernel"),
    ],
)
def test_thresholds_refuse_other_rankings(name, settings, message):
    layer = keras.layers.Dense(4)
    layer.build((None, 4))
    with pytest.raises(ValueError, match=message):
        create_pruners({"pruning_type": name} | settings, {"w": layer})


@pytest.mark.parametrize("options", [{"power": 0.5}, {"pruned_gradient": 2}])
def test_feather_checks_its_options(options):
    (key,) = options
    layer = keras.layers.Dense(4)
    layer.build((None, 4))
    settings = {"pruning_type": "feather", "pruner_options": options}
    with pytest.raises(ValueError, match=f"'{key}' must be in"):
        create_pruners(settings, {"w": layer})

"""STR: thresholds that learn, against NumPy and finite differences."""

import numpy as np
import pytest
from conftest import value_of
from keras.optimizers import Adam
from linear import PATHS, X, Y, history, linear_model, lowest, pruner_of, step, train
from numpy.testing import assert_allclose, assert_array_equal

pytestmark = pytest.mark.usefixtures("eager_masks")


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, "float64")))


def lowered(dense, mask, cut, threshold):
    """What the model computes with, in float64."""
    rest = np.abs(dense.astype("float64")) - cut * sigmoid(threshold)
    return mask * np.sign(dense) * np.maximum(rest, 0)


def loss(kernel):
    return np.mean((X @ kernel - Y) ** 2)


def test_str_of_literal_kernels():
    settings = dict(pruning_type="str", pruner_options={"learning_rate": 0.1})
    values = {"a": [[3, -2.4]], "b": [[1.2, 0.6]]}
    pruner, a, b = pruner_of(values, target_sparsity=0.5, **settings)
    learned = [pruner.state_variables[name]["threshold"] for name in "ab"]
    learned[0].assign(np.log(3))  # sigmoid(s) = 3/4
    learned[1].assign(-np.log(3))  # 1/4
    # |w| / sigmoid(s) is 4 and 3.2 in a, 4.8 and 2.4 in b: -2.4 and 0.6 go, and what
    # is left is lowered by them.
    pruner.on_step_begin(0)
    assert_allclose([value_of(a), value_of(b)], [[[0.6, 0]]] * 2, rtol=1e-5)
    slopes = step(pruner, [[0.5, 9]], [[-0.5, 9]])
    assert_array_equal(slopes, [[[0.5, 0]], [[-0.5, 0]]])
    # dL/ds = -gradient * c * 3/16, with c = 3.2 and 2.4.
    expected = [np.log(3) + 0.1 * 0.5 * 0.6, -np.log(3) - 0.1 * 0.5 * 0.45]
    assert_allclose([value_of(s) for s in learned], expected, rtol=1e-5)


def test_threshold_follows_the_slope_of_the_loss():
    settings = dict(pruning_type="str", pruner_options={"learning_rate": 1})
    pruner, w = pruner_of({"w": np.ones((8, 4))}, target_sparsity=0.5, **settings)
    states = pruner.state_variables["w"]
    for seed in range(20):
        generator = np.random.default_rng(seed)
        dense = generator.normal(size=(8, 4)).astype("float32")
        threshold = float(np.float32(generator.normal()))
        states["dense"].assign(dense)
        states["threshold"].assign(threshold)
        pruner.update_masks()
        mask = value_of(pruner.masks["w"])
        assert mask.sum() == 16
        given = dense, mask, float(value_of(states["cut"]))
        kernel = lowered(*given, threshold)
        assert_allclose(value_of(w), kernel, atol=1e-6)
        step(pruner, 2 * X.T @ (X @ kernel - Y) / Y.size)
        slope = threshold - value_of(states["threshold"])
        higher, lower = (loss(lowered(*given, threshold + h)) for h in (1e-5, -1e-5))
        assert_allclose(slope, (higher - lower) / 2e-5, rtol=1e-4)


def test_str_in_fit_ranks_all_kernels_by_their_thresholds():
    settings = dict(pruning_type="str", pruner_options={"learning_rate": 5.0})
    settings |= dict(begin_step=1, end_step=9, frequency=4, target_sparsity=0.5625)
    _, before, after = train(linear_model(Adam(0.02)), 11, **settings)
    for now, count in ((1, 0), (5, 47), (9, 54)):  # of 96, as the polynomial says
        states = [before.rows[now][path].states for path in PATHS]
        levels = [sigmoid(state["threshold"]) for state in states]
        scores = [
            (np.abs(state["dense"]) / level).ravel()
            for state, level in zip(states, levels, strict=True)
        ]
        masks = [after.rows[now][path].mask.ravel() for path in PATHS]
        expected = ~lowest(np.concatenate(scores), count)
        assert_array_equal(np.concatenate(masks), expected)
    assert abs(levels[0] - levels[1]) > 0.01
    assert after.sparsities[-1] == 0.5625
    for _, _, _, _, row, _ in history(before, after, since=1):
        state = row.states
        given = state["dense"], row.mask, state["cut"], state["threshold"]
        assert_allclose(row.weight, lowered(*given), atol=1e-6)

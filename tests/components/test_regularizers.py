"""Regularizers: one step on literal weights, and whole runs against NumPy."""

import keras
import numpy as np
import pytest
from by_hand import BATCH, RATE, ByHand, build, fit, lowest, mean, samples, sgd
from conftest import value_of
from keras import ops, optimizers

from keras_pruner import PATTERNS, REGULARIZERS, KerasBasePruner, PruningCallback
from keras_pruner.kernels import Kernel, dense_layout

pytestmark = pytest.mark.usefixtures("eager_masks")


@pytest.mark.parametrize(
    "name, pattern, expected",
    [
        ("l1", "1x1", [[2, 0], [-3, 0]]),
        ("growing_l1", "1x1", [[2, 0], [-3, 0]]),
        ("l2", "1x1", [[1.5, 0.25], [-2, 0]]),
        ("growing_l2", "1x1", [[1.5, 0.25], [-2, 0]]),
        # Norms 5 and 1/2 of columns; sqrt(37) / 2 and 4 of rows; of single weights.
        ("group_lasso", "1xchannel", [[2.4, 0], [-3.2, 0]]),
        ("group_lasso", "channelx1", [[3 - 6 / 37**0.5, 0.5 - 37**-0.5], [-3, 0]]),
        ("group_lasso", "1x1", [[2, 0], [-3, 0]]),
        # All m weights of a group of n:m.
        ("group_lasso", "1:2", [[2.4, 0], [-3.2, 0]]),
    ],
)
def test_one_step_on_a_literal_kernel(name, pattern, expected):
    weight = np.array([[3, 0.5], [-4, 0]], "float32")
    kernel = Kernel("fc", keras.Variable(weight), dense_layout((2, 2)))
    pattern = PATTERNS.get(pattern)
    shrunk = REGULARIZERS.get(name).shrink(
        ops.convert_to_tensor(weight), ops.convert_to_tensor(1.0), kernel, pattern
    )
    np.testing.assert_allclose(value_of(shrunk), expected, rtol=1e-6)


def soft_threshold(weight, amount):
    return np.sign(weight) * np.maximum(np.abs(weight) - amount, 0)


def decay(weight, amount):
    return weight / (1 + amount)


def shrink_columns(weight, amount):
    return weight * np.maximum(1 - amount / np.linalg.norm(weight, axis=0), 0)


SHRINK = {"l1": soft_threshold, "l2": decay, "group_lasso": shrink_columns}


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("name", [*SHRINK, "growing_l1", "growing_l2"])
def test_runs_equal_numpy(name, accumulated):
    # The amount at full strength is RATE * 2 = 0.2.
    grows = name.startswith("growing")
    target = 0.4 if grows else 0.0
    x, y = samples(6 * accumulated)
    hand, sums, steps, growth = ByHand(), [], 0, 1
    acts_on = [np.ones(weight.shape, bool) for weight in hand.weights]
    for batch in range(6 * accumulated):
        if grows and not sums and steps in (0, 2, 4):
            growth = steps / 4
            scores = [np.abs(weight) for weight in hand.weights]
            acts_on = [lowest(score, target) for score in scores]
            hand.prune(scores, target * growth)
        part = slice(BATCH * batch, BATCH * (batch + 1))
        sums.append(hand.gradients(x[part], y[part]))
        if len(sums) == accumulated:
            hand.step(mean(sums))
            sums, steps = [], steps + 1
            for i, weight in enumerate(hand.weights):
                shrunk = SHRINK[name.removeprefix("growing_")](weight, 0.2 * growth)
                hand.weights[i] = np.where(acts_on[i], shrunk, weight)
    pruning = PruningCallback(
        regularizer=name,
        regularizer_strength=0.2 / RATE,
        pattern="1xchannel" if name == "group_lasso" else "1x1",
        include=".*",
        allocation="uniform",
        target_sparsity=target,
        schedule="linear",
        begin_step=0,
        end_step=4,
        frequency=2,
        verbose=False,
    )
    steps = {"gradient_accumulation_steps": 2} if accumulated == 2 else {}
    fit(build(sgd(**steps)), x, y, pruning)
    (pruner,) = pruning.pruners
    for kernel, weight, mask in zip(
        pruner.kernels, hand.weights, hand.masks, strict=True
    ):
        np.testing.assert_array_equal(value_of(pruner.masks[kernel.path]), mask)
        np.testing.assert_allclose(
            value_of(kernel.variable), weight, rtol=1e-5, atol=1e-6
        )


def test_a_step_is_regularized_at_its_own_learning_rate():
    # 0.5 for the first step, and nothing from the second on.
    schedule = optimizers.schedules.PiecewiseConstantDecay([0], [0.5, 0.0])
    pruning = PruningCallback(
        regularizer="l2", regularizer_strength=2.0, target_sparsity=0.0, verbose=False
    )
    model = build(optimizers.SGD(schedule))
    x, y = samples(3)
    hand = ByHand()
    gradients = hand.gradients(x[:BATCH], y[:BATCH])
    fit(model, x, y, pruning)
    for layer, weight, gradient in zip(
        model.layers, hand.weights, gradients, strict=True
    ):
        expected = (weight - 0.5 * gradient) / (1 + 0.5 * 2.0)
        np.testing.assert_allclose(value_of(layer.kernel), expected, atol=1e-6)


def shrink_channels(weights, amount):
    """Group lasso over columns of A with rows of B."""
    norms = np.sqrt((weights[0] ** 2).sum(0) + (weights[1] ** 2).sum(1))
    factors = np.maximum(1 - amount / norms, 0)
    return [weights[0] * factors, weights[1] * factors[:, None]]


def test_group_lasso_sums_over_the_kernels_of_a_channel():
    pruning = PruningCallback(
        regularizer="group_lasso",
        regularizer_strength=0.2 / RATE,
        pattern="channel_groups",
        include=".*",
        target_sparsity=0.0,
        verbose=False,
    )
    model = build(optimizers.SGD(RATE))
    x, y = samples(4)
    hand = ByHand()
    for batch in range(4):
        part = slice(BATCH * batch, BATCH * (batch + 1))
        gradients = hand.gradients(x[part], y[part])
        hand.weights = [
            w - RATE * g for w, g in zip(hand.weights, gradients, strict=True)
        ]
        hand.weights = shrink_channels(hand.weights, 0.2)
    fit(model, x, y, pruning)
    for layer, weight in zip(model.layers, hand.weights, strict=True):
        np.testing.assert_allclose(value_of(layer.kernel), weight, rtol=1e-5, atol=1e-6)


def test_group_lasso_in_a_loop_shrinks_heads_together():
    layer = keras.layers.MultiHeadAttention(num_heads=4, key_dim=2, name="att")
    layer.build(query_shape=(None, 3, 4), value_shape=(None, 3, 4))
    model = {"att": layer}
    pruner = KerasBasePruner(
        {
            "pattern": "mha",
            "regularizer": "group_lasso",
            "regularizer_strength": 1.0,
            "target_sparsity": 0.0,
        },
        model,
    )
    # Heads are the second axis of query, key and value, and the first of the output.
    axes = {"query": 1, "key": 1, "value": 1, "attention_output": 0}
    before = {kernel.path: value_of(kernel.variable) for kernel in pruner.kernels}
    by_head = {
        path: np.moveaxis(value, axes[path.split("/")[-2]], 0).reshape(4, -1)
        for path, value in before.items()
    }
    squares = sum((value**2).sum(axis=1) for value in by_head.values())
    factors = 1 - 0.25 / np.sqrt(squares)
    pruner.regularize(0.25)
    for kernel in pruner.kernels:
        axis = axes[kernel.path.split("/")[-2]]
        shape = [1] * len(kernel.variable.shape)
        shape[axis] = 4
        np.testing.assert_allclose(
            value_of(kernel.variable),
            before[kernel.path] * factors.reshape(shape),
            rtol=1e-5,
        )

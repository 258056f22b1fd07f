"""One training step, run by `PruningOptimizer` in `fit` and by hooks in a loop."""

import contextlib

import keras
import numpy as np
import pytest
from conftest import BACKEND, set_kernel, value_of
from keras import layers, ops

from keras_pruner import KerasBasePruner, PruningCallback

RATE, STRENGTH = 0.5, 0.2
GRADIENT = np.array([[1.0, -2.0], [0.5, 0.25]], "float32")
WEIGHT = np.array([[3.0, 1.0], [4.0, -0.5]], "float32")


def dense():
    layer = layers.Dense(2, use_bias=False, name="fc")
    layer.build((None, 2))
    set_kernel(layer, WEIGHT)
    return layer


def pruner_of(layer, **settings):
    config = {"target_sparsity": 0.25, "begin_step": 0, "end_step": 0} | settings
    return KerasBasePruner(config, {"fc": layer})


def regularized(**settings):
    return {"regularizer": "l1", "regularizer_strength": STRENGTH} | settings


def take_step(pruner, optimizer, **arguments):
    variable = pruner.kernels[0].variable
    pairs = pruner.on_before_optimizer_step([(ops.array(GRADIENT), variable)])
    optimizer.apply_gradients(pairs)
    pruner.on_after_optimizer_step(**arguments)


def expected_step(rate=RATE, regularizes=True):
    """The lowest weight, -0.5, is pruned; then a step and a soft threshold."""
    weight = WEIGHT.copy()
    weight[1, 1] = 0
    gradient = GRADIENT.copy()
    gradient[1, 1] = 0
    weight = weight - rate * gradient
    if regularizes:
        shrunk = np.maximum(np.abs(weight) - rate * STRENGTH, 0)
        weight = np.sign(weight) * shrunk
    return weight


def begin(pruner):
    pruner.on_train_begin()
    pruner.on_step_begin(0)


def test_loop_regularizes_by_the_rate_of_the_attached_optimizer():
    layer = dense()
    pruner, optimizer = pruner_of(layer, **regularized()), keras.optimizers.SGD(RATE)
    pruner.attach_optimizer(optimizer)
    begin(pruner)
    take_step(pruner, optimizer)
    np.testing.assert_allclose(value_of(layer.kernel), expected_step(), rtol=1e-6)


def test_loop_regularizes_by_a_rate_that_is_given():
    layer = dense()
    pruner, optimizer = pruner_of(layer, **regularized()), keras.optimizers.SGD(RATE)
    begin(pruner)
    take_step(pruner, optimizer, learning_rate=RATE)
    np.testing.assert_allclose(value_of(layer.kernel), expected_step(), rtol=1e-6)


def test_loop_without_a_rate_is_told_what_to_do():
    layer = dense()
    pruner, optimizer = pruner_of(layer, **regularized()), keras.optimizers.SGD(RATE)
    begin(pruner)
    with pytest.raises(ValueError, match="regularizer.*attach_optimizer.*learning_rat"):
        take_step(pruner, optimizer)
    # Without a regularizer no rate is needed.
    layer = dense()
    pruner = pruner_of(layer)
    begin(pruner)
    take_step(pruner, keras.optimizers.SGD(RATE))
    expected = expected_step(regularizes=False)
    np.testing.assert_allclose(value_of(layer.kernel), expected, rtol=1e-6)


def test_loop_reads_the_rate_before_a_schedule_moves_on():
    layer = dense()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [RATE, 0.0])
    pruner, optimizer = (
        pruner_of(layer, **regularized()),
        keras.optimizers.SGD(schedule),
    )
    pruner.attach_optimizer(optimizer)
    begin(pruner)
    take_step(pruner, optimizer)
    np.testing.assert_allclose(value_of(layer.kernel), expected_step(), rtol=1e-6)


def test_regularize_by_hand_is_not_done_twice():
    layer = dense()
    pruner, optimizer = pruner_of(layer, **regularized()), keras.optimizers.SGD(RATE)
    pruner.attach_optimizer(optimizer)
    begin(pruner)
    variable = layer.kernel
    pairs = pruner.on_before_optimizer_step([(ops.array(GRADIENT), variable)])
    optimizer.apply_gradients(pairs)
    pruner.regularize(RATE)
    np.testing.assert_allclose(value_of(variable), expected_step(), rtol=1e-6)
    pruner.on_after_optimizer_step()
    np.testing.assert_allclose(value_of(variable), expected_step(), rtol=1e-6)


def test_fit_and_loop_take_the_same_step():
    class OneKernel(keras.Model):
        def __init__(self):
            super().__init__()
            self.fc = dense()

        def call(self, x):
            return ops.sum(self.fc.kernel * GRADIENT) + 0 * ops.sum(x, axis=1)

    model = OneKernel()
    model(np.ones((4, 2), "float32"))
    model.compile(keras.optimizers.SGD(RATE), loss=lambda y, p: p, jit_compile=False)
    settings = {"target_sparsity": 0.25, "begin_step": 0, "end_step": 0}
    callback = PruningCallback(verbose=False, **settings, **regularized())
    model.fit(
        np.ones((4, 2)), np.ones(4), batch_size=4, verbose=0, callbacks=[callback]
    )
    np.testing.assert_allclose(value_of(model.fc.kernel), expected_step(), rtol=1e-6)


def test_dense_weights_of_a_kernel_without_gradient_stay(data):
    """In a step that does not reach a kernel, its hidden weights are not lost."""
    inputs = keras.Input((16,))
    used = layers.Dense(3, activation="softmax", name="used")(inputs)
    unused = layers.Dense(3, name="unused")
    unused.build((None, 16))

    class Partial(keras.Model):
        pass

    model = Partial(inputs, used)
    model.unused = unused
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
    before = value_of(unused.kernel).copy()
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            _ = self.model
            (pruner,) = callback.pruners
            seen.append(value_of(pruner.state_variables["unused/kernel"]["dense"]))

    callback = PruningCallback(
        pruning_type="ste",
        target_sparsity=0.5,
        begin_step=0,
        end_step=0,
        verbose=False,
    )
    # Keras warns of a variable without a gradient, except on JAX.
    warns = contextlib.nullcontext() if BACKEND == "jax" else pytest.warns(UserWarning)
    with warns:
        model.fit(*data, batch_size=48, verbose=0, callbacks=[callback, Look()])
    for value in seen:
        np.testing.assert_array_equal(value, before)

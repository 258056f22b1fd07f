"""What other code does beside pruning: the result is right, or a message tells."""

import copy
import pickle

import keras
import numpy as np
import pytest
from absl import logging
from conftest import (
    BACKEND,
    build_mlp,
    compile_mlp,
    first_where_compiled,
    kernels_of,
    slow_where_compiled,
    value_of,
)

import keras_pruner
from keras_pruner import PruningCallback, PruningOptimizer

SETTINGS = {"target_sparsity": 0.8, "verbose": False}


@pytest.fixture
def warnings(monkeypatch):
    """The texts of all warnings that are logged."""
    texts = []
    monkeypatch.setattr(logging, "warning", lambda text, *a: texts.append(text % a))
    return texts


def pruning(**settings):
    return PruningCallback(**(SETTINGS | settings))


def fit(model, data, *callbacks, epochs=4, **kwargs):
    x, y = data
    arguments = {"batch_size": 16, "epochs": epochs, "verbose": 0} | kwargs
    return model.fit(x, y, callbacks=list(callbacks), **arguments)


def zeros(model):
    return float((kernels_of(model) == 0).mean())


class Score(keras.callbacks.Callback):
    """A validation loss that is lowest in the first epoch, where pruning is mild."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_score"] = float(epoch)


class Do(keras.callbacks.Callback):
    """Calls a function at the beginning of an epoch."""

    def __init__(self, epoch, function):
        super().__init__()
        self.epoch, self.function = epoch, function

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.function(self.model)


def best():
    return keras.callbacks.EarlyStopping(
        "val_score", mode="min", patience=99, restore_best_weights=True
    )


# Weights that other callbacks assign.


@pytest.mark.parametrize("is_first", [True, False])
def test_weights_restored_at_the_end_are_counted_and_told(is_first, data, warnings):
    model, callback = compile_mlp(), pruning()
    pair = [callback, best()] if is_first else [best(), callback]
    fit(model, data, Score(), *pair)
    assert zeros(model) < 0.7
    assert callback.sparsity == zeros(model)
    (text,) = warnings
    assert f"{zeros(model):.4f}" in text and "0.8026" in text and "at_target" in text


def test_masks_are_applied_again_if_asked(data, warnings):
    model, callback = compile_mlp(), pruning(reapply_masks=True)
    fit(model, data, Score(), best(), callback)
    assert zeros(model) == callback.sparsity == 122 / 152
    assert not warnings


def test_best_epoch_at_the_target_is_restored(data, warnings):
    model, callback, stop = compile_mlp(), pruning(), best()
    fit(model, data, Score(), callback, callback.at_target(stop), epochs=8)
    assert zeros(model) == callback.sparsity == 122 / 152
    assert stop.best_epoch == 6  # 3/4 of 48 steps end in epoch 5.
    assert not warnings


def test_at_target_takes_callbacks_only():
    with pytest.raises(TypeError, match="takes a keras.callbacks.Callback"):
        pruning().at_target("val_loss")


def test_logs_say_what_the_weights_hold(data):
    model, callback = compile_mlp(), pruning(begin_step=0, end_step=0)
    dense = model.get_weights()

    class Assign(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.set_weights(dense)

    history = fit(model, data, Assign(), callback, epochs=2)
    assert history.history["sparsity"] == [0.0, 0.0]


def test_a_metric_named_sparsity_keeps_its_place(data):
    class Sparsity(keras.metrics.Mean):
        def update_state(self, y_true, y_pred, sample_weight=None):
            super().update_state(keras.ops.zeros(()) + 7.0)

    model = compile_mlp(metrics=[Sparsity(name="sparsity")])
    history = fit(model, data, pruning(), epochs=2).history
    assert history["sparsity"] == [7.0, 7.0]
    assert history["kernel_sparsity"][-1] == 122 / 152


# A fit without the callback.


def test_a_plain_fit_of_a_pruned_model_is_told_once(data, warnings):
    model = compile_mlp()
    fit(model, data, pruning())
    fit(model, data, epochs=1)
    fit(model, data, epochs=1)
    (text,) = warnings
    assert "80.3 % of the weights" in text and "pattern_lock" in text


def test_a_plain_fit_of_a_stripped_model_is_told(data, warnings):
    model = compile_mlp()
    fit(model, data, pruning())
    fit(compile_mlp(keras_pruner.strip(model)), data, epochs=1)
    assert len(warnings) == 1


@slow_where_compiled
def test_lora_on_pruned_kernels_is_told_once(data, warnings):
    model = compile_mlp()
    fit(model, data, pruning())
    for layer in model.layers:
        layer.enable_lora(2)
    compile_mlp(model)
    fit(model, data, epochs=1)
    fit(model, data, epochs=1)
    (text,) = warnings
    assert "80.3 % of the weights in the kernels" in text and "LoRA" in text


def test_lora_on_dense_kernels_is_no_matter(data, warnings):
    model = compile_mlp()
    model.layers[0].enable_lora(2)
    compile_mlp(model)
    fit(model, data, epochs=1)
    assert not warnings


def test_a_fit_with_a_callback_or_of_a_dense_model_is_no_matter(data, warnings):
    model = compile_mlp()
    fit(model, data, epochs=1)
    fit(model, data, pruning())
    fit(model, data, pruning(pruning_type="pattern_lock"))
    callbacks = keras.callbacks.CallbackList(
        [pruning()], model=model, epochs=1, steps=3
    )
    x, y = data
    model.fit(x, y, callbacks=callbacks, verbose=0)
    assert not warnings


def test_wrapped_layers_in_a_training_step_of_ones_own_train(data, warnings):
    class OwnStep(keras.Model):
        def train_step(self, *args, **kwargs):
            return super().train_step(*args, **kwargs)

    inputs = keras.Input((16,))
    head = keras.layers.Dense(3, activation="softmax")
    model = OwnStep(inputs, keras_pruner.PrunedLayer(head)(inputs))
    fit(compile_mlp(model), data, epochs=1)
    assert not warnings


def test_wrapped_layers_without_a_callback_are_told(data, warnings):
    model = compile_mlp(keras_pruner.wrap(build_mlp(), {"target_sparsity": 0.8}))
    fit(model, data, epochs=1)
    (text,) = warnings
    assert "wrapped for pruning" in text and "PruningCallback" in text


# Who trains.


class TwoSteps(keras.Model):
    """A training step of its own, by an optimizer that `compile` does not know."""

    def __init__(self):
        super().__init__()
        self.inner = build_mlp()
        self.own_optimizer = keras.optimizers.SGD(0.1)

    def call(self, x, training=None):
        return self.inner(x, training=training)


class Distiller(keras.Model):
    """Trains a student beside a teacher, which gets no gradient but is trainable."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = build_mlp(), build_mlp()

    def call(self, x, training=None):
        return self.student(x, training=training)

    def loss_of(self, x, y):
        given = self.student(x, training=True)
        wanted = self.teacher(x, training=False)
        return self.compute_loss(x, y, given) + keras.ops.mean((wanted - given) ** 2)


if BACKEND == "tensorflow":
    import tensorflow as tf

    def own_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x, y, self(x, training=True))
        weights = self.trainable_variables
        self.own_optimizer.apply_gradients(
            zip(tape.gradient(loss, weights), weights, strict=True)
        )
        return {"loss": loss}

    def distilling_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.loss_of(*data)
        weights = self.student.trainable_variables
        gradients = tape.gradient(loss, weights)
        self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        return {"loss": loss}

elif BACKEND == "torch":

    def own_step(self, data):
        x, y = data
        self.zero_grad()
        loss = self.compute_loss(x, y, self(x, training=True))
        loss.backward()
        weights = self.trainable_weights
        self.own_optimizer.apply([w.value.grad for w in weights], weights)
        return {"loss": loss}

    def distilling_step(self, data):
        self.zero_grad()
        loss = self.loss_of(*data)
        loss.backward()
        weights = self.student.trainable_weights
        self.optimizer.apply([w.value.grad for w in weights], weights)
        return {"loss": loss}


without_jax = pytest.mark.skipif(
    BACKEND == "jax", reason="its steps have a gradient for every trainable weight"
)
EAGER = [True] if BACKEND == "torch" else [False, True]


def build(model, data, **kwargs):
    model(data[0][:2])
    return compile_mlp(model, **kwargs)


@without_jax
@pytest.mark.parametrize("eager", EAGER)
def test_a_step_with_an_optimizer_of_its_own_is_told(eager, data, warnings):
    TwoSteps.train_step = own_step
    model = build(TwoSteps(), data, run_eagerly=eager)
    optimizer, message = model.optimizer, "follows `model.optimizer`"
    if eager:
        fit(model, data, pruning())
        assert message in warnings[0]
    else:
        with pytest.raises(ValueError, match=f"{message}.*super...compile"):
            fit(model, data, pruning())
    assert model.optimizer is optimizer


@without_jax
@pytest.mark.parametrize("eager", EAGER)
@pytest.mark.parametrize("at_once", [False, True])
def test_kernels_without_gradient_stay_dense(at_once, eager, data, warnings):
    Distiller.train_step = distilling_step
    model = build(Distiller(), data, run_eagerly=eager)
    before = kernels_of(model.teacher)
    steps = {"begin_step": 0, "end_step": 0} if at_once else {}
    callback = pruning(**steps)
    fit(model, data, callback)
    np.testing.assert_array_equal(kernels_of(model.teacher), before)
    # A weight that was pruned and returned may have no gradient yet.
    assert zeros(model.student) >= callback.sparsity == 122 / 152
    assert callback.pruners[0].num_pruned == 122
    assert "No gradient reaches 'sequential" in warnings[0]
    assert [skip.reason for skip in callback.skipped] == [
        "no gradient reaches it in the training step"
    ] * 2
    fit(model, data, callback, epochs=1)
    assert zeros(model.student) >= 122 / 152 and zeros(model.teacher) == 0


@without_jax
def test_kernels_without_gradient_are_pruned_if_asked(data, warnings):
    Distiller.train_step = distilling_step
    model = build(Distiller(), data)
    fit(model, data, pruning(include="sequential.*"))
    assert zeros(model.teacher) > 0.5
    assert not warnings


@without_jax
@slow_where_compiled
@pytest.mark.parametrize("pruning_type", ["basic", "set"])
@pytest.mark.parametrize("at_once", [False, True])
def test_a_wrapper_without_gradient_computes_dense(at_once, pruning_type, data):
    Distiller.train_step = distilling_step
    model = Distiller()
    steps = {"begin_step": 0, "end_step": 0} if at_once else {}
    # A config of its own, so all kernels of one pruner are released.
    config = {"target_sparsity": 0.9, "pruning_type": pruning_type, **steps}
    model.student = keras_pruner.wrap(model.student)
    model.teacher = keras_pruner.wrap(model.teacher, config)
    fit(build(model, data), data, pruning())
    assert zeros(model.student) >= 122 / 152
    for layer in model.teacher.layers:
        (mask,) = layer.masks.values()
        assert value_of(mask).all() and value_of(layer.layer.kernel).all()


def test_an_optimizer_that_never_steps_is_told(data, warnings):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=20)
    fit(compile_mlp(optimizer=optimizer), data, pruning(), epochs=2)
    (text, *_) = [text for text in warnings if "applied no step" in text]
    assert "gradient_accumulation_steps" in text


# What is trainable.


def test_freezing_between_two_fits_keeps_the_masks(data):
    model, callback = compile_mlp(), pruning()
    fit(model, data, callback)
    mask = kernels_of(model) != 0
    model.get_layer("hidden").trainable = False
    compile_mlp(model)
    fit(model, data, callback, epochs=2)
    np.testing.assert_array_equal(kernels_of(model) != 0, mask)
    assert [kernel.path for kernel in callback.pruners[0].kernels] == ["head/kernel"]


def test_unfreezing_prunes_the_new_kernels_and_keeps_the_old_zeros(data):
    model, callback = build_mlp(), pruning()
    model.get_layer("hidden").trainable = False
    fit(compile_mlp(model), data, callback)
    head = value_of(model.get_layer("head").kernel) == 0
    assert head.sum() == 19
    model.get_layer("hidden").trainable = True
    fit(compile_mlp(model), data, callback)
    assert zeros(model) == 122 / 152
    assert (value_of(model.get_layer("head").kernel)[head] == 0).all()


def test_unfreezing_with_a_gradient_criterion_keeps_the_old_zeros(data):
    model, callback = build_mlp(), pruning(criterion="snip_momentum")
    model.get_layer("hidden").trainable = False
    fit(compile_mlp(model), data, callback)
    head = value_of(model.get_layer("head").kernel) == 0
    model.get_layer("hidden").trainable = True
    fit(compile_mlp(model), data, callback)
    assert zeros(model) == 122 / 152
    assert (value_of(model.get_layer("head").kernel)[head] == 0).all()


@pytest.mark.parametrize("is_frozen_first", [True, False])
def test_layers_of_a_local_config_may_be_frozen(is_frozen_first, data):
    local = {"include": "head", "target_sparsity": 0.5}
    model, callback = build_mlp(), pruning(local_configs=[local])
    head = model.get_layer("head")
    for is_frozen in (is_frozen_first, not is_frozen_first):
        head.trainable = not is_frozen
        fit(compile_mlp(model), data, callback)
        assert len(callback.pruners) == 2 - is_frozen
        assert callback.is_done
    assert (value_of(head.kernel) == 0).sum() == 12
    assert (value_of(model.get_layer("hidden").kernel) == 0).sum() == 102


def test_unfreezing_with_fixed_steps_begins_again(data):
    model, callback = build_mlp(), pruning(begin_step=0, end_step=12)
    model.get_layer("hidden").trainable = False
    fit(compile_mlp(model), data, callback)
    model.get_layer("hidden").trainable = True
    fit(compile_mlp(model), data, callback)
    assert zeros(model) == 122 / 152


def test_a_new_head_is_pruned_too(data):
    model, callback = compile_mlp(), pruning()
    fit(model, data, callback)
    hidden = value_of(model.get_layer("hidden").kernel) == 0
    model.pop()
    model.add(keras.layers.Dense(5, activation="softmax", name="new"))
    fit(compile_mlp(model), data, callback)
    assert zeros(model) == round(0.8 * 168) / 168
    assert (value_of(model.get_layer("hidden").kernel)[hidden] == 0).all()


def test_a_mid_epoch_schedule_goes_on_with_the_kernels_that_stay(data):
    model, callback = compile_mlp(), pruning(begin_step=0, end_step=40)
    fit(model, data, callback, epochs=2)
    model.get_layer("hidden").trainable = False
    compile_mlp(model)
    fit(model, data, callback, epochs=6)
    assert callback.sparsity == 19 / 24
    assert callback.pruners[0].global_step == 48


def test_an_optimizer_that_does_not_know_a_weight_is_told(data):
    model = build_mlp()
    model.get_layer("hidden").trainable = False
    fit(compile_mlp(model), data, epochs=1)
    model.get_layer("hidden").trainable = True
    optimizer = model.optimizer
    with pytest.raises(ValueError, match="hidden/kernel'.*Call `model.compile`"):
        fit(model, data, pruning())
    assert model.optimizer is optimizer


def compile_again(model):
    compile_mlp(model, optimizer=keras.optimizers.SGD(0.1))
    model.make_train_function()


@pytest.mark.skipif(
    BACKEND == "jax", reason="Keras cannot do it on JAX without pruning"
)
def test_compiling_in_the_middle_of_a_fit_goes_on(data):
    model, callback = compile_mlp(), pruning()
    fit(model, data, callback, Do(2, compile_again))
    assert zeros(model) == callback.sparsity == 122 / 152
    assert isinstance(model.optimizer, keras.optimizers.SGD)


@pytest.mark.skipif(
    BACKEND == "jax", reason="Keras cannot do it on JAX without pruning"
)
def test_freezing_and_compiling_in_the_middle_of_a_fit(data):
    def freeze(model):
        model.get_layer("hidden").trainable = False
        compile_again(model)

    model, callback = compile_mlp(), pruning()
    fit(model, data, callback, Do(1, freeze), epochs=6)
    assert callback.sparsity == 19 / 24


@slow_where_compiled
@pytest.mark.skipif(BACKEND == "jax", reason="JAX never runs a step eagerly")
def test_freezing_in_an_eager_fit_leaves_the_frozen_weights(data):
    kept = {}

    def freeze(model):
        model.get_layer("hidden").trainable = False
        kept["hidden"] = value_of(model.get_layer("hidden").kernel).copy()

    model, callback = compile_mlp(run_eagerly=True), pruning()
    fit(model, data, callback, Do(1, freeze), epochs=6)
    np.testing.assert_array_equal(
        value_of(model.get_layer("hidden").kernel), kept["hidden"]
    )
    assert callback.sparsity == 19 / 24


def test_weights_set_back_start_again_if_asked(data, warnings):
    model, callback = compile_mlp(), pruning()
    start = model.get_weights()
    fit(model, data, callback)
    model.set_weights(start)
    fit(model, data, callback, epochs=1)
    assert "callback.reset()" in warnings[0]
    model.set_weights(start)
    callback.reset()
    assert callback.sparsity == 0 and not callback.pruners
    history = fit(model, data, callback)
    assert history.history["sparsity"][0] < 0.79
    assert zeros(model) == 122 / 152


def test_a_reset_of_all_optimizer_variables_loses_no_mask(data):
    def reset(model):
        for variable in model.optimizer.variables:
            variable.assign(keras.ops.zeros(variable.shape, variable.dtype))

    model, callback = compile_mlp(), pruning()
    if BACKEND == "jax":
        # The masks are there, because a step has no side effects.
        with pytest.raises(ValueError, match="inner_optimizer.variables"):
            fit(model, data, callback, Do(2, reset))
    else:
        fit(model, data, callback, Do(2, reset))
        assert zeros(model) == callback.sparsity == 122 / 152


# Hooks that a loop calls.


@pytest.mark.parametrize("end", ["on_train_batch_end", "on_epoch_end"])
@pytest.mark.parametrize("steps", [{}, {"begin_step": 0, "end_step": 20}])
def test_hooks_called_without_those_of_epochs(steps, end, data):
    x, y = data
    model, callback = compile_mlp(), pruning(**steps)
    callback.set_model(model)
    callback.on_train_begin()
    for number in range(30):
        callback.on_train_batch_begin(0)
        model.train_on_batch(x, y)
        getattr(callback, end)(number)
    callback.on_train_end()
    assert zeros(model) == 122 / 152
    assert not isinstance(model.optimizer, PruningOptimizer)


def test_a_loop_that_was_left_gives_way_to_a_new_callback(data):
    x, y = data
    model, old = compile_mlp(), pruning()
    optimizer = model.optimizer
    old.set_model(model)
    model.train_on_batch(x, y)
    fit(model, data, pruning())
    assert zeros(model) == 122 / 152
    assert model.optimizer is optimizer


def test_a_callback_that_never_began_gives_way_to_a_plain_fit(data):
    model, callback = compile_mlp(), pruning()
    optimizer = model.optimizer
    callback.set_model(model)
    fit(model, data, epochs=1)
    assert model.optimizer is optimizer
    assert int(value_of(optimizer.iterations)) == 6


def test_hooks_without_a_model_are_told():
    with pytest.raises(ValueError, match="callback.set_model"):
        pruning().on_train_begin()


# Several callbacks, several models.


def test_two_callbacks_in_one_fit_are_refused(data):
    model = compile_mlp()
    optimizer = model.optimizer
    before = kernels_of(model)
    with pytest.raises(ValueError, match="local_configs"):
        fit(model, data, pruning(include="hidden"), pruning(include="head"))
    assert model.optimizer is optimizer
    np.testing.assert_array_equal(kernels_of(model), before)
    fit(model, data, pruning())
    assert zeros(model) == 122 / 152


def test_one_callback_cannot_prune_two_models_at_once(data):
    callback, other = pruning(), compile_mlp()

    def nested(model):
        fit(other, data, callback)

    model = compile_mlp()
    with pytest.raises(ValueError, match="in a `fit` that still runs.*deepcopy"):
        fit(model, data, callback, Do(1, nested))
    assert not isinstance(model.optimizer, PruningOptimizer)
    assert not isinstance(other.optimizer, PruningOptimizer)


def test_a_second_callback_trains_by_its_own_rules(data):
    """JAX must not run the step that it traced for the first, which is alive."""
    sums = {}
    for second in (0.0, 3.0):
        keras.utils.set_random_seed(0)
        model, callbacks = compile_mlp(optimizer=keras.optimizers.SGD(0.1)), []
        for strength in (0.0, second):
            settings = {"regularizer": "l2", "regularizer_strength": strength}
            callbacks.append(pruning(target_sparsity=0.0, **settings))
            fit(model, data, callbacks[-1], epochs=1, shuffle=False)
        sums[second] = np.abs(kernels_of(model)).sum()
    assert sums[3.0] < 0.8 * sums[0.0]


def test_another_model_can_be_pruned_within_a_fit(data):
    other = compile_mlp()
    model, callback = compile_mlp(), pruning()
    fit(model, data, callback, Do(1, lambda _: fit(other, data, pruning())))
    assert zeros(model) == zeros(other) == 122 / 152


@pytest.mark.parametrize("is_used", first_where_compiled([True, False]))
@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_has_the_settings_and_has_pruned_nothing(copied, is_used, data):
    callback = pruning(reapply_masks=True)
    if is_used:
        fit(compile_mlp(), data, callback)
    new = copied(callback)
    assert new.config == callback.config
    assert new.reapply_masks and not new.pruners and new.sparsity == 0
    model = compile_mlp()
    fit(model, data, new)
    assert zeros(model) == 122 / 152


# The wrapped optimizer.


class Halve(keras.callbacks.Callback):
    def __init__(self, name):
        super().__init__()
        self.name = name

    def on_train_batch_begin(self, batch, logs=None):
        old = getattr(self.model.optimizer, self.name)
        setattr(self.model.optimizer, self.name, old * 0.5)


@pytest.mark.parametrize(
    "name, optimizer",
    first_where_compiled(
        [
            ("momentum", lambda: keras.optimizers.SGD(0.1, momentum=0.9)),
            ("beta_1", lambda: keras.optimizers.Adam()),
            ("weight_decay", lambda: keras.optimizers.AdamW(weight_decay=0.1)),
            ("clipnorm", lambda: keras.optimizers.SGD(0.1, clipnorm=1.0)),
        ]
    ),
)
def test_settings_of_the_optimizer_reach_it(name, optimizer, data):
    optimizer = optimizer()
    before = getattr(optimizer, name)
    fit(compile_mlp(optimizer=optimizer), data, pruning(), Halve(name), epochs=1)
    assert getattr(optimizer, name) == before / 2**6


def test_the_optimizer_has_no_settings_of_its_own():
    inner = keras.optimizers.Adam(use_ema=True, gradient_accumulation_steps=2)
    optimizer = PruningOptimizer(inner)
    assert optimizer.use_ema and optimizer.gradient_accumulation_steps == 2
    optimizer.global_clipnorm = 3.0
    assert inner.global_clipnorm == 3.0
    with pytest.raises(AttributeError, match="momentumm"):
        _ = optimizer.momentumm


@pytest.mark.skipif(BACKEND == "jax", reason="JAX calls `stateless_apply`")
def test_methods_that_the_user_overrides_are_called(data):
    calls = []

    class Mine(keras.optimizers.SGD):
        def apply_gradients(self, grads_and_vars):
            calls.append("apply_gradients")
            return super().apply_gradients(grads_and_vars)

        def apply(self, grads, trainable_variables=None):
            calls.append("apply")
            return super().apply(grads, trainable_variables)

    for callbacks in [], [pruning()]:
        fit(compile_mlp(optimizer=Mine(0.1)), data, *callbacks, epochs=1)
    half = len(calls) // 2
    assert calls[:half] == calls[half:]


# A model that is not built.


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(8, activation="relu", name="hidden")
        self.head = keras.layers.Dense(3, activation="softmax", name="head")

    def call(self, x):
        return self.head(self.hidden(x))


def sequential():
    return keras.Sequential([layer for layer in build_mlp().layers])


@pytest.mark.parametrize("make", [Subclassed, sequential, "new"])
@pytest.mark.parametrize("steps", first_where_compiled([1, 3]))
def test_a_model_that_is_not_built_is_built_and_pruned(steps, make, data):
    if make == "new":
        layers = [keras.layers.Dense(8, name="hidden"), keras.layers.Dense(3)]
        model = keras.Sequential(layers)
    else:
        model = make()
    if BACKEND != "torch":
        compile_mlp(model, steps_per_execution=steps)
    else:
        compile_mlp(model)
    callback = pruning()
    fit(model, data, callback)
    assert zeros(model) == callback.sparsity == 122 / 152
    if BACKEND == "tensorflow" and make != sequential:
        assert callback.pruners[0].global_step == 24 - steps


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_files_of_a_checkpoint_callback_load(suffix, data, tmp_path):
    model, path = compile_mlp(), str(tmp_path / f"model.{suffix}")
    fit(model, data, pruning(), keras.callbacks.ModelCheckpoint(path))
    loaded = keras.models.load_model(path)
    np.testing.assert_array_equal(kernels_of(loaded), kernels_of(model))

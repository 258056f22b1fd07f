"""`PruningCallback` in `model.fit`, under everything that fit can be asked for."""

import csv

import keras
import numpy as np
import pytest
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
from keras_pruner import PruningCallback, PruningConfig, PruningOptimizer
from keras_pruner.backend import last_step_before_decay

TARGET = 122  # round(0.8 * 152)


class Watch(keras.callbacks.Callback):
    """After every batch: counts pruned weights that are not exactly zero."""

    def __init__(self, pruning):
        super().__init__()
        self.pruning = pruning
        self.grown = 0
        self.batches = 0
        self.sparsities = []

    def on_train_batch_end(self, batch, logs=None):
        assert self.model is not None  # JAX synchronises its variables here
        for pruner in self.pruning.pruners:
            for kernel in pruner.kernels:
                mask = value_of(pruner.mask_variables[kernel.path])
                self.grown += int((value_of(kernel.variable)[~mask] != 0).sum())
        self.batches += 1
        self.sparsities.append(self.pruning.sparsity)


def fit(model, data, epochs=4, settings=None, **kwargs):
    pruning = PruningCallback(
        **({"target_sparsity": 0.8, "verbose": False} | (settings or {}))
    )
    watch = Watch(pruning)
    x, y = data
    arguments = dict(x=x, y=y, batch_size=16, epochs=epochs, verbose=0) | kwargs
    history = model.fit(callbacks=[pruning, watch], **arguments)
    return pruning, watch, history


def adam(**kwargs):
    return keras.optimizers.Adam(1e-2, **kwargs)


OPTIMIZERS = {
    "adam": adam,
    "accumulation": lambda: adam(gradient_accumulation_steps=4),
    "ema": lambda: adam(use_ema=True),
    "ema overwriting": lambda: adam(use_ema=True, ema_overwrite_frequency=3),
    "clipnorm": lambda: adam(clipnorm=1.0),
    "global_clipnorm": lambda: keras.optimizers.SGD(
        1e-2, momentum=0.9, global_clipnorm=1.0
    ),
    "weight decay": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1),
    "learning rate schedule": lambda: keras.optimizers.SGD(
        keras.optimizers.schedules.CosineDecay(0.1, 24), momentum=0.9
    ),
}


@pytest.mark.parametrize("name", first_where_compiled(OPTIMIZERS))
def test_fit_reaches_target_with_optimizer(name, data):
    optimizer = OPTIMIZERS[name]()
    model = compile_mlp(optimizer=optimizer)
    pruning, watch, history = fit(model, data)
    assert watch.grown == 0 and watch.batches == 24
    assert (kernels_of(model) == 0).sum() == TARGET
    assert pruning.sparsity == TARGET / 152
    assert history.history["sparsity"][-1] == TARGET / 152
    assert model.optimizer is optimizer
    expected = 6 if name == "accumulation" else 24
    assert int(value_of(optimizer.iterations)) == expected
    assert pruning.pruners[0].global_step == expected


COMPILE = {
    "steps_per_execution 4": {"steps_per_execution": 4},
    "jit": {"jit_compile": True},
    "no jit": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "jit and steps_per_execution": {"jit_compile": True, "steps_per_execution": 3},
}


@pytest.mark.parametrize("name", COMPILE)
def test_fit_reaches_target_when_compiled_with(name, data):
    arguments = COMPILE[name]
    if BACKEND == "torch" and (
        arguments.get("jit_compile") or "steps_per_execution" in arguments
    ):
        pytest.skip("Keras has no steps_per_execution, and no XLA, on torch")
    model = compile_mlp(optimizer=adam(), **arguments)
    _, watch, _ = fit(model, data)
    assert watch.grown == 0
    assert (kernels_of(model) == 0).sum() == TARGET


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("accumulation", [None, 2])
def test_fit_reaches_target_in_mixed_precision(policy, accumulation, data):
    keras.config.set_dtype_policy(policy)
    model = build_mlp()
    model = compile_mlp(model, adam(gradient_accumulation_steps=accumulation))
    scaled = type(model.optimizer).__name__
    assert (scaled == "LossScaleOptimizer") == (policy == "mixed_float16")
    _, watch, _ = fit(model, data)
    assert watch.grown == 0
    assert (kernels_of(model) == 0).sum() == TARGET
    assert type(model.optimizer).__name__ == scaled


def test_fit_twice_goes_on_with_frozen_masks_and_optimizer_state(data):
    model = compile_mlp(optimizer=adam())
    pruning, _, _ = fit(model, data)
    masks = {k: value_of(m) for k, m in pruning.pruners[0].masks.items()}
    x, y = data
    watch = Watch(pruning)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[pruning, watch])
    assert watch.grown == 0 and watch.sparsities == [TARGET / 152] * 12
    assert pruning.pruners[0].global_step == 36
    assert int(value_of(model.optimizer.iterations)) == 36
    for name, mask in pruning.pruners[0].masks.items():
        np.testing.assert_array_equal(value_of(mask), masks[name])


def test_fit_with_initial_epoch_plans_the_epochs_that_are_left(data):
    model = compile_mlp(optimizer=adam())
    pruning, watch, _ = fit(model, data, epochs=6, initial_epoch=4)
    assert watch.batches == 12
    assert pruning.pruners[0].end_step == 9
    assert (kernels_of(model) == 0).sum() == TARGET


def test_fit_after_dense_training_counts_steps_from_its_own_start(data):
    model = compile_mlp(optimizer=adam())
    x, y = data
    model.fit(x, y, batch_size=16, epochs=3, verbose=0)
    settings = {"begin_step": 2, "end_step": 8, "frequency": 3}
    _, watch, _ = fit(model, data, epochs=2, settings=settings)
    assert watch.sparsities[0] == 0
    assert watch.sparsities[6] < watch.sparsities[7] == TARGET / 152


def batches(data, repeat):
    x, y = data
    while True:
        for start in range(0, 96, 16):
            yield x[start : start + 16], y[start : start + 16]
        if not repeat:
            return


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_fit_with_generator_and_steps_per_epoch(data):
    model = compile_mlp(optimizer=adam())
    _, watch, _ = fit(
        model,
        data,
        x=batches(data, repeat=True),
        y=None,
        batch_size=None,
        steps_per_epoch=6,
    )
    assert watch.grown == 0
    assert (kernels_of(model) == 0).sum() == TARGET


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_fit_with_generator_of_unknown_length_prunes_in_one_shot(data, caplog):
    model = compile_mlp(optimizer=adam())
    _, watch, _ = fit(
        model,
        data,
        x=batches(data, repeat=False),
        y=None,
        batch_size=None,
        epochs=1,
    )
    assert "one shot" in caplog.text
    assert watch.grown == 0 and watch.sparsities[0] == TARGET / 152
    assert (kernels_of(model) == 0).sum() == TARGET


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.skipif(BACKEND != "tensorflow", reason="tf.data is TensorFlow's")
@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
def test_fit_with_unknown_steps_measures_the_first_epoch(data):
    import tensorflow as tf

    x, y = data
    dataset = tf.data.Dataset.from_generator(
        lambda: batches(data, repeat=False),
        output_signature=(
            tf.TensorSpec((None, 16), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        ),
    )
    model = compile_mlp(optimizer=adam())
    arguments = dict(x=dataset, y=None, batch_size=None)
    pruning, watch, history = fit(model, data, epochs=5, **arguments)
    assert history.history["sparsity"][0] == 0
    assert history.history["sparsity"][-1] == TARGET / 152
    assert pruning.pruners[0].end_step < pruning.pruners[0].global_step
    assert watch.grown == 0
    assert (kernels_of(model) == 0).sum() == TARGET


def test_settings_are_derived_and_said_in_one_line(data, capsys):
    x, y = data
    said = {}
    for verbose in 0, 2:
        pruning = PruningCallback(target_sparsity=0.8)
        arguments = {"batch_size": 16, "epochs": 4, "callbacks": [pruning]}
        compile_mlp(optimizer=adam()).fit(x, y, verbose=verbose, **arguments)
        said[verbose] = capsys.readouterr().out.strip().splitlines()
    assert said[0] == []
    assert [line for line in said[2] if "PruningCallback" in line] == [
        "PruningCallback: 1x1 pattern, 2 kernels (0 skipped), sparsity 0 -> 0.8 "
        "by Polynomial(power=3.0), steps 0 to 18 every 1 of 24 steps"
    ]


def steps_with(rate, data, **settings):
    """The chosen end of a run of 24 steps, and the line that says it."""
    x, y = data
    model = compile_mlp(optimizer=keras.optimizers.SGD(rate))
    pruning = PruningCallback(target_sparsity=0.8, **settings)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[pruning])
    return pruning.pruners[0].scheduler.end


def drops(steps):
    return keras.optimizers.schedules.PiecewiseConstantDecay(steps, [1.0, 0.1, 0.01])


@slow_where_compiled
def test_pruning_ends_before_the_learning_rate_is_low(data):
    assert steps_with(0.1, data) == 18
    # A rate counts as low at an eighth of the highest.
    assert steps_with(drops([11, 20]), data) == 11
    assert steps_with(drops([19, 20]), data) == 18
    cosine = keras.optimizers.schedules.CosineDecay
    assert steps_with(cosine(0.1, 24), data) == 18
    assert steps_with(cosine(0.1, 12), data) == 9
    warm = cosine(0.0, 12, warmup_target=0.1, warmup_steps=6)
    assert steps_with(warm, data) == 15
    # A step that you choose stays.
    assert steps_with(drops([11, 20]), data, end_step=16) == 16
    # Rewinding sets the schedule back, so the rate is high in every part.
    assert steps_with(drops([11, 20]), data, pruning_type="lottery_ticket") == 20


def test_a_rate_that_never_becomes_low_ends_nothing():
    rate = keras.optimizers.schedules.CosineDecay(1.0, 10, alpha=0.2)
    assert last_step_before_decay(keras.optimizers.SGD(rate), 0, 0, 20) is None


class Branches(keras.optimizers.schedules.LearningRateSchedule):
    """A rate with a branch, which counts how often Python runs one."""

    def __init__(self):
        self.runs = 0

    def __call__(self, step):
        return keras.ops.cond(step < 12, self.rate(1.0), self.rate(0.01))

    def rate(self, value):
        def branch():
            self.runs += 1
            return keras.ops.convert_to_tensor(value)

        return branch


def test_reading_the_rate_compiles_no_branch():
    rate = Branches()
    assert last_step_before_decay(keras.optimizers.SGD(rate), 0, 0, 100) == 11
    assert rate.runs == 101


def test_a_second_fit_reads_the_schedule_where_the_first_stopped(data):
    x, y = data
    model = compile_mlp(optimizer=keras.optimizers.SGD(drops([30, 60])))
    model.fit(x, y, batch_size=16, epochs=4, verbose=0)
    pruning = PruningCallback(target_sparsity=0.8)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[pruning])
    assert pruning.pruners[0].scheduler.end == 30 - 24


def test_the_line_of_a_run_says_why_it_ends_early(data, capsys):
    x, y = data
    model = compile_mlp(optimizer=keras.optimizers.SGD(drops([11, 20])))
    pruning = PruningCallback(target_sparsity=0.8)
    model.fit(x, y, batch_size=16, epochs=4, verbose=2, callbacks=[pruning])
    said = capsys.readouterr().out
    assert "steps 0 to 11 every 1 of 24 steps; the learning rate is low after" in said


def test_sparsity_is_in_history_csv_and_batch_logs(data, tmp_path):
    model = compile_mlp(optimizer=adam())
    seen = []
    pruning = PruningCallback(target_sparsity=0.8, verbose=False)
    log = tmp_path / "log.csv"
    later = [
        keras.callbacks.CSVLogger(str(log)),
        keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append(logs["sparsity"])
        ),
    ]
    x, y = data
    history = model.fit(
        x, y, batch_size=16, epochs=4, verbose=0, callbacks=[pruning, *later]
    )
    assert len(seen) == 24 and seen == sorted(seen) and seen[-1] == TARGET / 152
    with open(log) as file:
        column = [float(row["sparsity"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(column, history.history["sparsity"])


def test_update_is_traced_once_over_a_whole_schedule(data):
    if BACKEND == "torch":
        pytest.skip("torch traces nothing")
    model = compile_mlp(optimizer=adam())
    pruning, _, _ = fit(model, data, settings={"frequency": 1})
    (pruner,) = pruning.pruners
    assert pruner.updater.trace_count == pruner.updater.num_compiled


def test_early_stop_before_the_target_warns(data, caplog):
    model = compile_mlp(optimizer=adam())
    x, y = data
    pruning = PruningCallback(target_sparsity=0.8, verbose=False)
    stop = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True)
    )
    model.fit(x, y, batch_size=16, epochs=9, verbose=0, callbacks=[pruning, stop])
    assert "before the target 0.8000 was reached" in caplog.text


def test_end_step_after_the_run_warns_at_its_start(data, caplog):
    model = compile_mlp(optimizer=adam())
    settings = {"begin_step": 0, "end_step": 100, "frequency": 50}
    fit(model, data, epochs=1, settings=settings)
    assert "this run ends at step 6" in caplog.text


def test_learning_rate_callbacks_reach_the_users_optimizer(data):
    model = compile_mlp(optimizer=adam())
    x, y = data
    callbacks = [
        PruningCallback(target_sparsity=0.8, verbose=False),
        keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.25),
    ]
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=callbacks)
    assert float(value_of(model.optimizer.learning_rate)) == 0.25


@slow_where_compiled
@pytest.mark.parametrize(
    ("rates", "settings", "warns"),
    [
        ([1e-2, 1e-3, 1e-3, 1e-3], {}, True),
        ([1e-3, 1e-2, 2e-3, 2e-3], {}, False),
        ([1e-2, 1e-2, 1e-2, 1e-3], {}, False),
        ([0.0, 1e-2, 1e-2, 1e-2], {}, False),
        ([1e-2, 1e-3, 1e-3, 1e-3], {"end_step": 18}, False),
    ],
)
def test_a_rate_that_a_callback_lowers_too_early_is_told(
    rates, settings, warns, data, caplog
):
    model = compile_mlp(optimizer=adam())
    x, y = data
    pruning = PruningCallback(target_sparsity=0.8, verbose=False, **settings)
    lower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates[epoch])
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[lower, pruning])
    told = "The learning rate fell from 0.01 to 0.001, and masks change until step 18"
    assert caplog.text.count(told) == caplog.text.count("learning rate fell") == warns


WARM_UP = keras.optimizers.schedules.CosineDecay(
    1e-5, 8, warmup_target=1e-2, warmup_steps=4
)
# Low at the end of the second epoch, and high again after that.
RESTARTS = keras.optimizers.schedules.CosineDecayRestarts(1e-2, 12.5, t_mul=1.0)


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [(WARM_UP, {"pruning_type": "lottery_ticket"}), (RESTARTS, {})],
    ids=["lottery ticket", "restarts"],
)
def test_a_schedule_that_rises_again_is_no_matter(schedule, settings, data, caplog):
    model = compile_mlp(optimizer=keras.optimizers.Adam(schedule))
    pruning, _, _ = fit(model, data, settings=settings)
    assert pruning.is_done
    assert "learning rate fell" not in caplog.text


def test_local_configs_prune_each_layer_by_its_own(data):
    model = compile_mlp(optimizer=adam())
    local = [{"include": "head", "pattern": "1xchannel", "target_sparsity": 0.3}]
    settings = {"local_configs": local, "allocation": "uniform"}
    pruning, watch, _ = fit(model, data, settings=settings)
    main, head = pruning.pruners
    assert [k.path for k in main.kernels] == ["hidden/kernel"]
    assert [k.path for k in head.kernels] == ["head/kernel"]
    assert watch.grown == 0
    hidden, kernel = (value_of(layer.kernel) for layer in model.layers)
    assert (hidden == 0).sum() == round(0.8 * 128)
    np.testing.assert_array_equal((kernel == 0).all(0).sum(), 1)


def test_group_lasso_in_fit_shrinks_group_norms(data):
    norms = {}
    for regularizer in (None, "group_lasso"):
        keras.utils.set_random_seed(1)
        model = compile_mlp(optimizer=keras.optimizers.SGD(0.1))
        settings = {
            "pattern": "1xchannel",
            "allocation": "uniform",
            "target_sparsity": 0.5,
            "regularizer": regularizer,
            "regularizer_strength": 0.2,
        }
        fit(model, data, settings=settings)
        norms[regularizer] = np.linalg.norm(value_of(model.layers[0].kernel))
    assert norms["group_lasso"] < 0.8 * norms[None]


def test_callback_on_uncompiled_model_is_an_error():
    callback = PruningCallback()
    callback.set_model(build_mlp())
    with pytest.raises(ValueError, match="needs a compiled model"):
        callback.on_train_begin()


@pytest.mark.parametrize("steps", first_where_compiled([1, 3]))
def test_wrapped_layer_that_is_not_built_is_built_and_pruned(steps, data):
    layer = keras_pruner.PrunedLayer(keras.layers.Dense(3, activation="softmax"))
    steps = {} if BACKEND == "torch" else {"steps_per_execution": steps}
    model = compile_mlp(keras.Sequential([layer]), **steps)
    pruning, *_ = fit(model, data)
    assert pruning.sparsity == round(0.8 * 48) / 48


def test_failed_attach_leaves_the_model_as_it_was(data):
    model = compile_mlp(optimizer=adam())
    before, optimizer = kernels_of(model), model.optimizer
    x, y = data
    with pytest.raises(ValueError, match="matches no prunable kernel"):
        model.fit(x, y, callbacks=[PruningCallback(include="hiden")], verbose=0)
    assert model.optimizer is optimizer
    np.testing.assert_array_equal(kernels_of(model), before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_not_finite_are_an_error_and_masks_stay(bad, data):
    model = compile_mlp(optimizer=adam())
    value = value_of(model.layers[0].kernel).copy()
    value[3, 5] = bad
    model.layers[0].kernel.assign(value)
    pruner = keras_pruner.KerasBasePruner({"begin_step": 0, "end_step": 0}, model)
    with pytest.raises(ValueError, match="NaN or infinite weights in hidden/kernel"):
        pruner.update_masks(0.9)
    assert pruner.current_sparsity_ratio == 0
    assert all(value_of(mask).all() for mask in pruner.masks.values())
    assert (value_of(model.layers[0].kernel) == 0).sum() == 0


def test_resume_from_pruned_checkpoint_keeps_zeros(data):
    model = compile_mlp(optimizer=adam())
    fit(model, data, settings={"target_sparsity": 0.5})
    zeros = kernels_of(model) == 0
    settings = {"target_sparsity": 0.8, "resume_from_pruned_checkpoint": True}
    _, watch, _ = fit(model, data, settings=settings)
    assert min(watch.sparsities) >= 76 / 152
    assert watch.grown == 0
    assert (kernels_of(model)[zeros] == 0).all()
    assert (kernels_of(model) == 0).sum() == TARGET


def test_saved_in_mid_training_loads_and_goes_on(data, tmp_path):
    x, y = data
    model = compile_mlp(optimizer=adam())
    path = str(tmp_path / "model_{epoch}.keras")
    pruning = PruningCallback(target_sparsity=0.8, verbose=False)
    # Before the pruning callback, so it saves what was true before the last update.
    checkpoint = keras.callbacks.ModelCheckpoint(path)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[checkpoint, pruning])
    loaded = keras.models.load_model(path.format(epoch=2))
    assert isinstance(loaded.optimizer, PruningOptimizer)
    assert int(value_of(loaded.optimizer.step)) == 12
    again = PruningCallback(target_sparsity=0.8, verbose=False)
    watch = Watch(again)
    loaded.fit(
        x,
        y,
        batch_size=16,
        epochs=4,
        initial_epoch=2,
        verbose=0,
        callbacks=[again, watch],
    )
    assert again.pruners[0].end_step == pruning.pruners[0].end_step
    assert watch.grown == 0 and min(watch.sparsities) > 0.5
    assert (kernels_of(loaded) == 0).sum() == TARGET
    assert isinstance(loaded.optimizer, keras.optimizers.Adam)


def test_loading_with_another_selection_is_an_error(data, tmp_path):
    x, y = data
    model = compile_mlp(optimizer=adam())
    path = str(tmp_path / "model.keras")
    callbacks = [
        PruningCallback(target_sparsity=0.8, verbose=False),
        keras.callbacks.ModelCheckpoint(path),
    ]
    model.fit(x, y, batch_size=16, epochs=1, verbose=0, callbacks=callbacks)
    loaded = keras.models.load_model(path)
    other = PruningCallback(target_sparsity=0.8, exclude="head", verbose=False)
    with pytest.raises(ValueError, match="other kernels were pruned"):
        loaded.fit(x, y, verbose=0, callbacks=[other])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorBoard needs TensorFlow")
def test_pruning_summaries_write_each_kernels_sparsity(data, tmp_path):
    from tensorflow.python.summary.summary_iterator import summary_iterator

    x, y = data
    model = compile_mlp(optimizer=adam())
    callbacks = [
        PruningCallback(target_sparsity=0.8, verbose=False),
        keras_pruner.PruningSummaries(str(tmp_path)),
    ]
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=callbacks)
    import tensorflow as tf

    written = {}
    for file in (tmp_path / "train").iterdir():
        for event in summary_iterator(str(file)):
            for item in event.summary.value:
                value = tf.make_ndarray(item.tensor)
                written.setdefault(item.tag, []).append(value)
    assert len(written["sparsity/hidden/kernel"]) == 3
    assert written["sparsity/all"][-1] == pytest.approx(TARGET / 152)


def test_backup_and_restore_resumes_masks_in_any_order(data, tmp_path):
    x, y = data

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise RuntimeError("power cut")

    for number, pruning_first in enumerate((True, False)):
        folder = str(tmp_path / f"backup{number}")

        def callbacks(folder=folder, pruning_first=pruning_first):
            pruning = PruningCallback(target_sparsity=0.8, verbose=False)
            backup = keras.callbacks.BackupAndRestore(folder)
            pair = [pruning, backup] if pruning_first else [backup, pruning]
            return pruning, pair

        _, pair = callbacks()
        model = compile_mlp(optimizer=adam())
        arguments = dict(batch_size=16, epochs=4, verbose=0)
        with pytest.raises(RuntimeError, match="power cut"):
            model.fit(x, y, callbacks=[*pair, Interrupt()], **arguments)

        model = compile_mlp(optimizer=adam())
        pruning, pair = callbacks()
        watch = Watch(pruning)
        model.fit(x, y, callbacks=[*pair, watch], **arguments)
        assert watch.batches == 12
        assert watch.sparsities[0] > 0.3
        assert pruning.pruners[0].end_step == 18
        assert pruning.pruners[0].global_step == 24
        assert watch.grown == 0
        assert (kernels_of(model) == 0).sum() == TARGET


def test_evaluate_with_the_callback_leaves_the_optimizer(data):
    x, y = data
    optimizer = adam()
    model = compile_mlp(optimizer=optimizer)
    model.evaluate(x, y, verbose=0, callbacks=[PruningCallback()])
    assert model.optimizer is optimizer


def test_config_and_settings_combine():
    config = PruningConfig(target_sparsity=0.5, pattern="2:4")
    callback = PruningCallback(config, pruning_frequency=7)
    assert callback.config.frequency == 7
    assert callback.config.pattern == config.pattern
    assert config.frequency is None

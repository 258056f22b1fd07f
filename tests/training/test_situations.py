"""Daily training scripts: each ends with the target, the user's optimizer, and logs."""

import copy
import json
import pickle

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
from keras import layers, ops

from keras_pruner import (
    PruningCallback,
    PruningConfig,
    prune_one_shot,
    report,
    strip,
    wrap,
)

pytestmark = pytest.mark.usefixtures("eager_masks")

TARGET = 0.5
LOSS = "sparse_categorical_crossentropy"


def zeros_of(model):
    return float((kernels_of(model) == 0).mean())


def prune(model, data, others=(), epochs=3, settings=None, **kwargs):
    """Fits the model, and checks all that a run promises at its end."""
    pruning = PruningCallback(
        **{"target_sparsity": TARGET, "verbose": False} | (settings or {})
    )
    optimizer = model.optimizer
    x, y = data
    arguments = dict(x=x, y=y, batch_size=32, epochs=epochs, verbose=0) | kwargs
    history = model.fit(callbacks=[pruning, *others], **arguments)
    assert model.optimizer is optimizer
    assert pruning.sparsity == pytest.approx(pruning.config.target_sparsity, abs=0.01)
    return pruning, history


def batches(data):
    x, y = data
    return [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(x), 32)]


class At(keras.callbacks.Callback):
    """Calls `at(callback, logs)` in one hook."""

    def __init__(self, hook, at):
        super().__init__()

        def call(*args, logs=None):
            at(self, logs)

        setattr(self, hook, call)


# Keras' callbacks beside pruning.

CALLBACKS = {
    "reduce on plateau": lambda path: keras.callbacks.ReduceLROnPlateau("loss", 0.5, 1),
    "scheduler": lambda path: keras.callbacks.LearningRateScheduler(lambda e: 0.01),
    "terminate on nan": lambda path: keras.callbacks.TerminateOnNaN(),
    "csv": lambda path: keras.callbacks.CSVLogger(path / "log.csv"),
    "backup": lambda path: keras.callbacks.BackupAndRestore(path / "backup"),
    "keras": lambda path: keras.callbacks.ModelCheckpoint(
        path / "{epoch}-{sparsity:.2f}.keras"
    ),
    "best weights": lambda path: keras.callbacks.ModelCheckpoint(
        path / "best.weights.h5", "loss", save_best_only=True, save_weights_only=True
    ),
    "most sparse": lambda path: keras.callbacks.ModelCheckpoint(
        path / "best.keras", "sparsity", mode="max", save_best_only=True
    ),
    "stop on sparsity": lambda path: keras.callbacks.EarlyStopping(
        "sparsity", mode="max", patience=2
    ),
    "predict in fit": lambda path: At(
        "on_train_batch_end", lambda c, logs: c.model.predict_on_batch(np.ones((2, 16)))
    ),
    "evaluate in fit": lambda path: At(
        "on_epoch_end",
        lambda c, logs: c.model.evaluate(np.ones((2, 16)), np.ones(2), verbose=0),
    ),
    "json logs": lambda path: At(
        "on_epoch_end", lambda c, logs: json.dumps(copy.deepcopy(logs))
    ),
    "json optimizer": lambda path: At(
        "on_train_begin", lambda c, logs: json.dumps(c.model.optimizer.get_config())
    ),
    "report": lambda path: At("on_epoch_end", lambda c, logs: str(report(c.model))),
    "state tree": lambda path: At(
        "on_epoch_end",
        lambda c, logs: c.model.set_state_tree(
            c.model.get_state_tree(value_format="numpy_array")
        ),
    ),
}


@pytest.mark.parametrize("name", first_where_compiled(CALLBACKS))
def test_callbacks_beside_pruning(name, data, tmp_path):
    model = compile_mlp()
    _, history = prune(model, data, [CALLBACKS[name](tmp_path)])
    assert zeros_of(model) == TARGET
    assert history.history["sparsity"][-1] == TARGET


@pytest.mark.parametrize("swap_each_epoch", [False, True])
def test_swapped_moving_averages_keep_zeros(swap_each_epoch, data):
    optimizer = keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.9)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=swap_each_epoch)
    model = compile_mlp(optimizer=optimizer)
    prune(model, data, [swap], validation_data=data)
    assert zeros_of(model) == TARGET


def test_copies_made_in_fit_have_the_zeros_of_the_target(data, tmp_path):
    copies = {}

    def make(callback, logs):
        model = callback.model
        copies["deepcopy"] = copy.deepcopy(model)
        copies["clone"] = keras.models.clone_model(model)
        copies["json"] = keras.models.model_from_json(model.to_json())
        copies["clone"].set_weights(model.get_weights())
        copies["json"].set_weights(model.get_weights())
        copies["strip"] = strip(model)

    prune(compile_mlp(), data, [At("on_epoch_end", make)])
    assert {name: zeros_of(each) for name, each in copies.items()} == dict.fromkeys(
        copies, TARGET
    )


@slow_where_compiled
def test_mean_of_the_last_epochs_weights_keeps_zeros(data):
    kept = []
    model = compile_mlp()
    keep = At("on_epoch_end", lambda c, logs: kept.append(c.model.get_weights()))
    average = At(
        "on_train_end",
        lambda c, logs: c.model.set_weights([np.mean(w, 0) for w in zip(*kept[-2:])]),  # noqa: B905
    )
    prune(model, data, [keep, average], epochs=8)
    assert zeros_of(model) == TARGET


def test_fit_of_the_same_or_another_model_inside_of_a_callback(data):
    model, other = compile_mlp(), compile_mlp()

    def train(callback, logs):
        callback.model.fit(*data, verbose=0)
        prune(other, data, settings={"target_sparsity": 0.25}, epochs=1)

    prune(model, data, [At("on_epoch_end", train)])
    assert (zeros_of(model), zeros_of(other)) == (TARGET, 0.25)


def test_loop_over_batches_with_a_callback_list(data):
    model = compile_mlp()
    optimizer = model.optimizer
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    hooks = keras.callbacks.CallbackList(
        [pruning], add_history=True, model=model, epochs=3, steps=3, verbose=0
    )
    hooks.on_train_begin()
    for epoch in range(3):
        hooks.on_epoch_begin(epoch)
        for number, batch in enumerate(batches(data)):
            hooks.on_train_batch_begin(number)
            logs = model.train_on_batch(*batch, return_dict=True)
            hooks.on_train_batch_end(number, logs)
        hooks.on_epoch_end(epoch, logs)
    hooks.on_train_end()
    assert (zeros_of(model), model.optimizer) == (TARGET, optimizer)
    assert model.history.history["sparsity"][-1] == TARGET


@pytest.mark.parametrize("form", ["single", "twice", "list"])
def test_forms_of_the_argument_callbacks(form, data):
    model = compile_mlp()
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    callbacks = {
        "single": pruning,
        "twice": [pruning, pruning],
        "list": keras.callbacks.CallbackList(
            [pruning], add_history=True, model=model, epochs=2, steps=3
        ),
    }
    model.fit(*data, epochs=2, verbose=0, callbacks=callbacks[form])
    assert (zeros_of(model), pruning.sparsity) == (TARGET, TARGET)


# Forms and courses of the data.


class Batches(keras.utils.PyDataset):
    def __init__(self, data, **kwargs):
        super().__init__(**kwargs)
        self.batches = batches(data)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def tensorflow_data(data):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(data)


def torch_data(data):
    if BACKEND != "torch":
        pytest.skip("Importing torch takes longer than all other situations.")
    import torch

    tensors = [torch.as_tensor(each) for each in data]
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*tensors), batch_size=32
    )


DATA = {
    "repeated": lambda data: dict(
        x=tensorflow_data(data).batch(32).repeat(), steps_per_epoch=2
    ),
    "runs out": lambda data: dict(x=tensorflow_data(data).batch(32), steps_per_epoch=4),
    "unknown length": lambda data: dict(
        x=tensorflow_data(data).filter(lambda x, y: y < 2).batch(32)
    ),
    "torch": lambda data: dict(x=torch_data(data)),
    "workers": lambda data: dict(x=Batches(data, workers=2)),
    "generator": lambda data: dict(x=(each for each in batches(data)), epochs=1),
    "one batch": lambda data: dict(
        x=data[0][:8], y=data[1][:8], epochs=1, batch_size=8
    ),
    "class weight": lambda data: dict(
        x=data[0], y=data[1], class_weight={0: 1.0, 1: 2.0, 2: 0.0}
    ),
    "sample weight": lambda data: dict(
        x=data[0], y=data[1], sample_weight=np.linspace(0, 1, 96)
    ),
    "validation now and then": lambda data: dict(
        x=data[0], y=data[1], validation_split=0.2, validation_freq=2
    ),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("name", DATA)
def test_forms_of_data(name, data):
    model = compile_mlp(weighted_metrics=[])
    arguments = DATA[name](data)
    if "y" not in arguments:
        arguments |= {"y": None, "batch_size": None, "shuffle": False}
    _, history = prune(model, data, **arguments)
    assert zeros_of(model) == TARGET
    json.dumps(history.history)


def test_repeated_fits_of_other_lengths_keep_the_target(data):
    model = compile_mlp()
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    for size, epochs in ((96, 0), (96, 1), (40, 2), (7, 1)):
        x, y = (each[:size] for each in data)
        model.fit(x, y, epochs=epochs, verbose=0, callbacks=pruning)
        assert (zeros_of(model), pruning.sparsity) == (TARGET * (epochs > 0),) * 2


def test_a_run_that_stops_early_says_the_sparsity_that_it_reached(data, caplog):
    def stop(callback, logs):
        callback.model.stop_training = True

    model = compile_mlp()
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    stop = At("on_train_batch_end", stop)
    model.fit(*data, epochs=9, verbose=0, callbacks=[pruning, stop])
    assert zeros_of(model) == pruning.sparsity < TARGET
    assert "before the target 0.5000 was reached" in caplog.text


# Dtypes.


@pytest.fixture(params=["float16", "float64"])
def floatx(request):
    if BACKEND == "jax" and request.param == "float64":
        pytest.skip("JAX has no float64 unless it is told so at its start")
    keras.config.set_floatx(request.param)
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_floatx("float32")


@pytest.mark.parametrize(
    "settings",
    first_where_compiled(
        [{}, {"criterion": "lamp"}, {"pattern": "2:4"}, {"pruning_type": "ste"}]
    ),
)
def test_another_default_of_floats(settings, floatx, data):
    model = compile_mlp(jit_compile=False)
    callback = PruningCallback(target_sparsity=0.5, **settings)
    model.fit(*data, epochs=2, batch_size=16, verbose=0, callbacks=[callback])
    assert model.layers[0].kernel.dtype == floatx
    assert (kernels_of(model) == 0).mean() == callback.sparsity == 0.5


def test_one_shot_with_another_default_of_floats(floatx, data):
    model, report = prune_one_shot(build_mlp(), data[0], 0.5, verbose=False)
    assert (kernels_of(model) == 0).mean() == report.sparsity == 0.5


# Compiling.

OPTIMIZERS = "AdamW Lion Lamb Muon Adafactor Ftrl Nadam Adagrad"


@pytest.mark.parametrize("name", OPTIMIZERS.split())
def test_optimizers(name, data):
    optimizer = getattr(keras.optimizers, name)(clipnorm=0.1)
    model = compile_mlp(optimizer=optimizer, jit_compile=False)
    prune(model, data)
    assert zeros_of(model) == TARGET
    assert int(value_of(optimizer.iterations)) == 9


def test_compiled_again_between_fits(data):
    model = build_mlp()
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    sgd = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    for optimizer, settings in (
        ("adam", {}),
        (sgd, {}),
        ("rmsprop", {"run_eagerly": BACKEND != "jax"}),
        (scaled, {}),
    ):
        model.compile(optimizer, LOSS, **settings)
        own = model.optimizer
        model.fit(*data, epochs=1, verbose=0, callbacks=[pruning])
        assert (zeros_of(model), model.optimizer) == (TARGET, own)


CONSTRAINTS = {
    "max norm": keras.constraints.MaxNorm(0.1),
    "not negative": keras.constraints.NonNeg(),
    "unit norm": keras.constraints.UnitNorm(),
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_of_weights_keep_zeros(name, data):
    model = build_mlp()
    model.layers[0].kernel.constraint = constraint = CONSTRAINTS[name]
    compile_mlp(model)
    prune(model, data, settings={"include": "hidden"})
    kernel = value_of(model.layers[0].kernel)
    assert (kernel == 0).mean() >= TARGET
    if name == "unit norm":
        np.testing.assert_allclose(np.square(kernel).sum(0), 1, rtol=1e-3)
    else:
        np.testing.assert_allclose(kernel, value_of(constraint(kernel)), atol=1e-6)


def test_two_runs_of_one_seed_are_equal(data):
    def run():
        keras.backend.clear_session(free_memory=False)
        keras.utils.set_random_seed(7)
        model = compile_mlp()
        prune(model, data, settings={"criterion": "random"})
        return kernels_of(model)

    np.testing.assert_array_equal(run(), run())


# Models.


def test_models_that_share_layers(data):
    base = build_mlp()
    inputs = [keras.Input((16,)), keras.Input((16,))]
    distance = layers.Subtract()([base(each) for each in inputs])
    outputs = layers.Dense(1, activation="sigmoid", name="same")(distance)
    model = keras.Model(inputs, outputs)
    model.compile("adam", "binary_crossentropy")
    x, y = data
    prune(model, ([x, x[::-1]], (y == y[::-1]).astype("float32")))
    plain = strip(model).predict([x, x], verbose=0)
    np.testing.assert_allclose(plain, model.predict([x, x], verbose=0), atol=1e-6)
    assert zeros_of(base) == pytest.approx(TARGET, abs=0.02)


def test_encoder_cut_from_an_autoencoder_is_pruned(data):
    inputs = keras.Input((16,))
    code = layers.Dense(4)(inputs)
    model = keras.Model(inputs, layers.Dense(16)(code))
    model.compile("adam", "mse")
    x, _ = data
    prune(model, (x, x))
    encoder = strip(keras.Model(inputs, code))
    assert (value_of(encoder.layers[-1].kernel) == 0).mean() > 0.3


def test_table_used_as_output_stays_sparse_and_tied():
    class Language(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.table = layers.Embedding(10, 8)
            self.dense = layers.Dense(8)

        def call(self, x):
            return self.dense(self.table(x)) @ ops.transpose(self.table.embeddings)

    words = np.random.default_rng(0).integers(0, 10, (96, 6))
    model = Language()
    model(words[:1])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    prune(model, (words, words), settings={"layer_types": ["Embedding", "Dense"]})
    weights = [model.table.embeddings, model.dense.kernel]
    weights = np.concatenate([value_of(each).ravel() for each in weights])
    assert (weights == 0).mean() == TARGET


def test_frozen_base_stays_dense_until_it_is_unfrozen(data):
    base = build_mlp(classes=8)
    base.trainable = False
    model = keras.Sequential([keras.Input((16,)), base, layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    prune(model, data)
    assert zeros_of(base) == 0
    base.trainable = True
    compile_mlp(model)
    prune(model, data)
    assert zeros_of(base) > 0.4


def test_combined_model_of_a_frozen_discriminator(data):
    x, y = data
    generator = keras.Sequential([keras.Input((3,)), layers.Dense(16)])
    judge = keras.Sequential([keras.Input((16,)), layers.Dense(1)])
    judge.compile("adam", "mse")
    judge.trainable = False
    model = keras.Sequential([keras.Input((3,)), generator, judge])
    model.compile("adam", "mse")
    prune(model, (x[:, :3], np.ones(96)))
    assert (zeros_of(generator), zeros_of(judge)) == (TARGET, 0)


@slow_where_compiled
def test_cross_validation_sweep_and_ensemble_share_a_callback(data):
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    models = [compile_mlp(), compile_mlp()]
    for model in models * 2:
        model.fit(*data, epochs=1, verbose=0, callbacks=[pruning])
        assert (zeros_of(model), pruning.sparsity) == (TARGET, TARGET)
    for target in (0.75, 0.25):
        prune(models[0], data, epochs=1, settings={"target_sparsity": target})
        assert zeros_of(models[0]) == target


def test_pickled_and_reloaded_models_go_on(data, tmp_path):
    model = compile_mlp()
    prune(model, data)
    model.save(tmp_path / "model.keras")
    before = kernels_of(model) == 0
    for again in (
        pickle.loads(pickle.dumps(model)),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        assert type(again.optimizer) is type(model.optimizer)
        prune(again, data, settings={"resume_from_pruned_checkpoint": True})
        np.testing.assert_array_equal(kernels_of(again) == 0, before)


def test_clone_of_a_wrapped_model_computes_the_same(data):
    model = compile_mlp(wrap(build_mlp(), PruningConfig(target_sparsity=TARGET)))
    prune(model, data)
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    x, _ = data
    np.testing.assert_array_equal(
        again.predict(x, verbose=0), model.predict(x, verbose=0)
    )
    assert zeros_of(strip(again)) == TARGET


# Situations that are told.


@pytest.mark.parametrize("how", ["compile", "assign"])
def test_optimizer_replaced_in_fit_is_told(how, data):
    """Afterwards the callback says the sparsity that the weights have."""

    def replace(callback, logs):
        if how == "compile":
            callback.model.compile("sgd", LOSS)
        else:
            callback.model.optimizer = keras.optimizers.SGD()
        callback.model.make_train_function(force=True)

    model = compile_mlp()
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    others = [At("on_epoch_end", replace)]
    try:
        model.fit(*data, epochs=3, verbose=0, callbacks=[pruning, *others])
    except (ValueError, RuntimeError) as error:
        assert "optimizer" in str(error)
    assert pruning.sparsity == zeros_of(model)


@pytest.mark.parametrize("epochs", [1, 3])
def test_optimizer_state_set_to_zero_in_fit_keeps_the_masks(data, epochs):
    def restart(callback, logs):
        for variable in callback.model.optimizer.variables:
            variable.assign(ops.zeros(variable.shape, variable.dtype))

    model = compile_mlp()
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    others = [At("on_epoch_end", restart)]
    for _ in range(2):
        try:
            model.fit(*data, epochs=epochs, verbose=0, callbacks=[pruning, *others])
        except (ValueError, RuntimeError) as error:
            assert "masks" in str(error)
        assert pruning.sparsity == zeros_of(model) <= TARGET


def test_legacy_file_saved_in_fit_loads(data, tmp_path):
    model = compile_mlp()
    path = str(tmp_path / "model.h5")
    prune(model, data, [keras.callbacks.ModelCheckpoint(path)])
    assert zeros_of(keras.models.load_model(path)) == TARGET


def test_embedding_of_ones_own_is_named_by_its_class():
    class Table(layers.Embedding):
        pass

    words = np.random.default_rng(0).integers(0, 10, (96, 6))
    outputs = [Table(10, 8, name="table"), layers.Flatten(), layers.Dense(1)]
    model = keras.Sequential([keras.Input((6,), dtype="int32"), *outputs])
    model.compile("adam", "mse")
    settings = {"layer_types": ["Table", "Dense"]}
    pruning, _ = prune(model, (words, np.ones(96)), settings=settings)
    assert [kernel.path for kernel in pruning.pruners[0].kernels][0] == (
        "table/embeddings"
    )


def test_misspelt_layer_type_beside_a_right_one_is_told(data):
    with pytest.raises(ValueError, match="Desne"):
        prune(compile_mlp(), data, settings={"layer_types": ["Dense", "Desne"]})


def test_metric_named_sparsity_is_kept(data):
    metric = keras.metrics.SparseCategoricalAccuracy(name="sparsity")
    model = compile_mlp(metrics=[metric], optimizer=keras.optimizers.SGD(0.0))
    _, history = prune(model, data, epochs=1)
    value = float(value_of(metric.result()))
    assert history.history["sparsity"] == [pytest.approx(value)]
    assert "kernel_sparsity" in history.history


def test_fit_with_the_same_callback_inside_of_fit_is_told(data):
    model = compile_mlp()
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)

    def train(callback, logs):
        model.fit(*data, verbose=0, callbacks=[pruning])

    with pytest.raises((ValueError, RuntimeError), match="PruningCallback"):
        model.fit(
            *data, epochs=2, verbose=0, callbacks=[pruning, At("on_epoch_end", train)]
        )


def test_subclass_that_forgets_super_prunes_all_the_same(data):
    class Own(PruningCallback):
        def on_epoch_begin(self, epoch, logs=None):
            pass

    model = compile_mlp()
    pruning = Own(target_sparsity=TARGET, verbose=False)
    model.fit(*data, epochs=3, verbose=0, callbacks=[pruning])
    assert zeros_of(model) == TARGET


def test_callback_list_that_never_begins_leaves_the_optimizer(data):
    model = compile_mlp()
    optimizer = model.optimizer
    pruning = PruningCallback(target_sparsity=TARGET, verbose=False)
    keras.callbacks.CallbackList([pruning], model=model)
    model.fit(*data, verbose=0)
    assert model.optimizer is optimizer


@pytest.mark.skipif(BACKEND != "tensorflow", reason="a tool of TensorFlow")
def test_a_search_for_nan_goes_on_while_masks_are_made():
    import tensorflow as tf

    # Larger than what TensorFlow compiles without XLA.
    kernel = keras.layers.Dense(600, name="wide")
    model = keras.Sequential([keras.Input((600,)), kernel, layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((4, 600), "float32")
    tf.debugging.enable_check_numerics()
    try:
        prune(model, (x, np.ones((4, 1))), epochs=2)
    finally:
        tf.debugging.disable_check_numerics()
    assert zeros_of(model) == pytest.approx(TARGET, abs=1e-4)

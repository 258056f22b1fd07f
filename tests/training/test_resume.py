"""What survives a restart, a damaged file, a full disk and a failed `fit`."""

import os
import re
import resource
import signal

import h5py
import keras
import numpy as np
import pytest
from conftest import (
    BACKEND,
    build_mlp,
    compile_mlp,
    first_where_compiled,
    kernels_of,
    value_of,
)
from keras import ops

import keras_pruner
from keras_pruner import BackupAndResume, PrunedLayer, PruningCallback

pytestmark = pytest.mark.usefixtures("eager_masks")

STEPS = {"begin_step": 1, "end_step": 8, "frequency": 1}


def fit(model, data, *callbacks, epochs=2, settings=None, **arguments):
    pruning = PruningCallback(
        **{"target_sparsity": 0.8, "verbose": False} | (settings or {})
    )
    x, y = data
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0} | arguments
    model.fit(x, y, epochs=epochs, callbacks=[pruning, *callbacks], **arguments)
    return pruning


def call_at(epoch, batch, function):
    """Returns a callback that calls a function once, after a batch."""

    class CallAt(keras.callbacks.Callback):
        epoch = None

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, number, logs=None):
            if (self.epoch, number) == (epoch, batch):
                function(self.model)

    return CallAt()


def everything(model, pruning=None):
    """Returns copies of all variables of a model, its optimizer and its masks."""
    variables = [*model.variables, *model.optimizer.variables]
    for pruner in pruning.pruners if pruning else ():
        variables += pruner.mask_variables.values()
        for states in pruner.state_variables.values():
            variables += states.values()
    return [np.array(value_of(variable)) for variable in variables]


def assert_equal(values, expected):
    assert len(values) == len(expected)
    for value, wanted in zip(values, expected, strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_array_equal(value, wanted)


def build_with_dropout(**settings):
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Input((16,)),
        keras.layers.Dense(8, activation="relu", name="hidden"),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(3, activation="softmax", name="head"),
    ]
    optimizer = keras.optimizers.Adam(1e-2, **settings)
    return compile_mlp(keras.Sequential(layers), optimizer, metrics=["accuracy"])


# The saved state.


@pytest.fixture
def saved(data, tmp_path):
    """A run that was saved in mid-training: its model and the file of weights."""
    model = compile_mlp()
    path = tmp_path / "half.weights.h5"
    save = call_at(0, 3, lambda model: model.save_weights(path))
    fit(model, data, save, epochs=1, settings=STEPS | {"criterion": "snip"})
    return path


def test_saved_masks_take_one_bit_a_weight(saved, tmp_path):
    with h5py.File(saved) as file:
        masks = {k: v for k, v in file["optimizer/vars"].items() if "mask" in k}
        assert [mask.nbytes for mask in masks.values()] == [128 / 8, 24 / 8]
    layer = PrunedLayer(keras.layers.Dense(1000))
    model = keras.Sequential([keras.Input((1000,)), layer])
    mask = np.random.default_rng(0).random((1000, 1000)) < 0.5
    (variable,) = layer.masks.values()
    variable.assign(mask)
    sizes = {}
    for name, one in (("wrapped", model), ("plain", keras_pruner.strip(model))):
        one.save_weights(tmp_path / f"{name}.weights.h5")
        sizes[name] = (tmp_path / f"{name}.weights.h5").stat().st_size
    assert 125_000 <= sizes["wrapped"] - sizes["plain"] < 125_000 + 10_000
    model.save(tmp_path / "model.keras")
    (loaded,) = keras.models.load_model(tmp_path / "model.keras").layers
    (variable,) = loaded.masks.values()
    np.testing.assert_array_equal(value_of(variable), mask)


@pytest.mark.parametrize(
    "settings, units, message",
    [
        ({"criterion": "fisher"}, 8, "hidden/kernel'.*criterion=.*snip.*fisher"),
        ({"criterion": "snip", "pattern": "4x1"}, 8, "mask of shape .8, 3. for kernel"),
        ({"criterion": "snip", "pruning_type": "rigl"}, 8, "pruning_type='basic'"),
        ({"criterion": "snip", "exclude": "head"}, 8, "(?s)head/kernel.*not pruned"),
        # Here Keras names the first: a layer.
        ({"criterion": "snip"}, 9, "Dense name=hidden"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused_whole(
    settings, units, message, saved, data
):
    model = compile_mlp(
        keras.Sequential(
            [
                keras.layers.Input((16,)),
                keras.layers.Dense(units, name="hidden"),
                keras.layers.Dense(3, activation="softmax", name="head"),
            ]
        )
    )
    seen = {}

    def load(model):
        seen["before"] = everything(model)
        try:
            model.load_weights(saved)
        except ValueError as error:
            seen["error"] = str(error)
        seen["after"] = everything(model)

    fit(model, data, call_at(0, 0, load), epochs=1, settings=STEPS | settings)
    assert_equal(seen["after"], seen["before"])
    assert re.search(message, seen["error"]), seen["error"]


def test_weights_that_were_saved_without_pruning_are_refused(data, tmp_path):
    plain = compile_mlp()
    plain.fit(*data, verbose=0)
    plain.save_weights(tmp_path / "plain.weights.h5")
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(tmp_path / "plain.weights.h5")
    )
    model = compile_mlp()
    before = everything(model)
    with pytest.raises(ValueError, match="was saved without pruning"):
        fit(model, data, load)
    assert_equal(everything(model)[: len(before)], before)


# Damaged files.


def truncate(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def flip(path, dataset):
    """Flips one bit of a dataset in an HDF5 file, behind the library's back."""
    with h5py.File(path) as file:
        offset = file[dataset].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "how", [0, 0.5, 0.99, "layers/dense/vars/0", "optimizer/vars/mask_0"]
)
def test_damaged_weights_are_refused_and_the_model_is_as_it_was(how, saved, data):
    (flip if isinstance(how, str) else truncate)(saved, how)
    model = compile_mlp()
    before = everything(model)
    with pytest.raises(OSError, match="damaged"):
        keras_pruner.load_weights(model, saved)
    assert_equal(everything(model), before)
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(saved)
    )
    with pytest.raises(OSError, match="damaged"):
        fit(model, data, load, settings=STEPS | {"criterion": "snip"})
    assert_equal(everything(model)[: len(before)], before)


def test_masks_have_a_checksum_of_their_own(saved, data):
    flip(saved, "optimizer/vars/mask_0")
    with h5py.File(saved, "r+") as file:
        # As if Keras itself had written the file.
        del file.attrs["keras_pruner_digest"]
    load = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(saved)
    )
    model = compile_mlp()
    before = everything(model)
    with pytest.raises(ValueError, match="pruning state .* is damaged"):
        fit(model, data, load, settings=STEPS | {"criterion": "snip"})
    assert_equal(everything(model)[: len(before)], before)


def test_damaged_model_file_is_refused(tmp_path):
    model, path = compile_mlp(), tmp_path / "model.keras"
    keras_pruner.save_model(model, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    before = everything(model)
    with pytest.raises(OSError, match="damaged"):
        keras_pruner.load_weights(model, path)
    assert_equal(everything(model), before)
    with pytest.raises(Exception, match="CRC"):
        keras.models.load_model(path)


# Many files.


def test_saving_and_loading_in_fit_makes_no_optimizers(data, tmp_path, monkeypatch):
    # TensorFlow keeps something of each, for ever, and Keras makes one each time.
    made = []
    make = keras.optimizers.Optimizer.__init__

    def count(self, *arguments, **keywords):
        made.append(type(self))
        make(self, *arguments, **keywords)

    def save_and_load(model):
        model.save(tmp_path / "model.keras")
        monkeypatch.setattr(keras.optimizers.Optimizer, "__init__", count)
        for _ in range(3):
            model.save(tmp_path / "model.keras")
            model.save_weights(tmp_path / "model.weights.h5")
            model.load_weights(tmp_path / "model.weights.h5")
        monkeypatch.undo()

    backup = BackupAndResume(tmp_path / "run", save_freq=1)
    fit(compile_mlp(), data, backup, call_at(0, 3, save_and_load), epochs=1)
    assert made == []


# A full disk.


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_full_disk_leaves_the_old_file(name, tmp_path):
    model, path = compile_mlp(), tmp_path / name
    save = keras_pruner.save_model if ".keras" in name else keras_pruner.save_weights
    save(model, path)
    old = path.read_bytes()
    big = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError):
            save(big, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == [name]
    save(big, path)
    assert path.stat().st_size > 300 * 300 * 4


def test_callbacks_of_keras_save_whole_files_in_fit(data, tmp_path, monkeypatch):
    model, path = compile_mlp(), tmp_path / "latest.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(str(path), save_weights_only=True)
    fit(model, data, checkpoint, epochs=1)
    old = path.read_bytes()

    def fail(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        fit(model, data, checkpoint, epochs=1)
    assert path.read_bytes() == old
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert not {"save", "save_weights", "load_weights"} & set(model.__dict__)


# A run that goes on.


class Cut(Exception):
    pass


def cut(model):
    raise Cut


@pytest.mark.parametrize(
    "at, saved_first, accumulate",
    # The first one has trained all batches of an epoch, and not ended it.
    first_where_compiled(
        [
            ((1, 5), True, None),
            ((1, 5), False, 4),
            ((0, 1), False, 4),
            ((1, 2), True, None),
        ]
    ),
)
def test_backup_resumes_bit_for_bit_in_any_order(
    at, saved_first, accumulate, data, tmp_path
):
    settings = {"criterion": "snip_momentum"}
    build = lambda: build_with_dropout(gradient_accumulation_steps=accumulate)  # noqa: E731
    shuffles = BACKEND != "tensorflow"
    model = build()
    pruning = fit(model, data, epochs=3, settings=settings, shuffle=shuffles)
    expected, logs = everything(model, pruning), model.history.history

    # Saved after batches 2, 4 and 6, cut in between or right after.
    callbacks = BackupAndResume(tmp_path / "run", save_freq=2), call_at(*at, cut)
    pair = callbacks if saved_first else callbacks[::-1]
    with pytest.raises(Cut):
        fit(build(), data, *pair, epochs=3, settings=settings, shuffle=shuffles)
    model = build()
    again = BackupAndResume(tmp_path / "run", save_freq=2)
    pruning = fit(model, data, again, epochs=3, settings=settings, shuffle=shuffles)
    assert_equal(everything(model, pruning), expected)
    for name, values in model.history.history.items():
        assert values[-2:] == logs[name][-2:]
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("batch", first_where_compiled([1, 5]))
def test_backup_in_the_first_epoch_of_a_generator(batch, data, tmp_path):
    tf = pytest.importorskip("tensorflow")
    # The first epoch measures its length.
    dataset = tf.data.Dataset.from_generator(
        lambda: zip(*data, strict=True),
        output_signature=(tf.TensorSpec((16,)), tf.TensorSpec((), "int64")),
    ).batch(16)

    def train(*callbacks):
        keras.utils.set_random_seed(0)
        model = compile_mlp()
        pruning = PruningCallback(target_sparsity=0.8, verbose=False)
        callbacks = [pruning, *callbacks]
        arguments = {"shuffle": False, "verbose": 0, "callbacks": callbacks}
        model.fit(dataset, epochs=4, **arguments)
        return everything(model, pruning), pruning.pruners[0].scheduler

    expected, scheduler = train()
    backup = tmp_path / "run"
    with pytest.raises(Cut):
        train(BackupAndResume(backup, save_freq=2), call_at(0, batch, cut))
    found, again = train(BackupAndResume(backup, save_freq=2))
    assert_equal(found, expected)
    assert again.last_update == scheduler.last_update


def test_backup_is_read_before_anything_is_assigned(data, tmp_path):
    path = tmp_path / "run.weights.h5"
    build_mlp().save_weights(path)
    model = compile_mlp()
    before = everything(model)
    with pytest.raises(ValueError, match="is no backup of BackupAndResume"):
        fit(model, data, BackupAndResume(tmp_path))
    assert_equal(everything(model)[: len(before)], before)


def test_the_callback_may_be_used_twice_without_compiling_again(data):
    if BACKEND == "torch":
        pytest.skip("torch traces nothing")
    executions = []

    @keras.saving.register_keras_serializable(package="resume")
    class Tap(keras.layers.Layer):
        def call(self, x):
            executions.append(x)
            return x

    model = keras.Sequential([keras.Input((16,)), Tap(), keras.layers.Dense(3)])
    model.compile("adam", "mse")
    x, _ = data
    pruning = PruningCallback(target_sparsity=0.8, verbose=False)
    counts = []
    for _ in range(2):
        model.fit(x, x[:, :3], verbose=0, callbacks=[pruning])
        counts.append(len(executions))
    assert counts[0] == counts[1]
    # Another loss is compiled anew.
    model.compile(model.optimizer, "mae")
    model.fit(x, x[:, :3], verbose=0, callbacks=[pruning])
    assert len(executions) > counts[1]


# A fit that fails.


@pytest.mark.parametrize(
    "hook, error",
    [
        ("on_train_batch_end", KeyboardInterrupt),
        ("on_epoch_end", RuntimeError),
        ("on_test_end", KeyboardInterrupt),
    ],
)
def test_an_exception_in_fit_gives_the_users_optimizer_back(hook, error, data):
    model = compile_mlp()
    optimizer = model.optimizer

    def fail(*arguments, **keywords):
        raise error("stop")

    failing = keras.callbacks.Callback()
    setattr(failing, hook, fail)
    pruning = PruningCallback(verbose=False, **STEPS)
    x, y = data
    with pytest.raises(error, match="stop"):
        model.fit(x, y, verbose=0, callbacks=[pruning, failing], validation_data=(x, y))
    assert model.optimizer is optimizer
    assert not {"save", "load_weights", "get_compile_config"} & set(model.__dict__)
    model.fit(x, y, verbose=0)
    # The callback goes on where it was.
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, callbacks=[pruning])
    assert model.optimizer is optimizer
    assert (kernels_of(model) == 0).sum() == round(0.9 * 152)


class Poisoned(keras.layers.Layer):
    """Passes its input on; value and gradient are NaN where it is beyond 100."""

    def call(self, x):
        large = ops.abs(x) > 100
        # Twice, so that the gradient elsewhere is not 0 * NaN.
        return ops.where(large, ops.where(large, x, 0.0) * np.nan, x)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_gradient_of_nan_leaves_the_masks(scaled, data, caplog):
    x, y = data
    x = x.copy()
    x[33, :] = 1000  # in the third batch
    inputs = keras.Input((16,))
    hidden = keras.layers.Dense(8, name="hidden")(inputs)
    outputs = keras.layers.Dense(3, activation="softmax", name="head")(
        Poisoned()(hidden)
    )
    optimizer = keras.optimizers.SGD(1e-2)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model = compile_mlp(keras.Model(inputs, outputs), optimizer)
    steps = {"begin_step": 1, "end_step": 9, "frequency": 1, "criterion": "snip"}
    seen = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["sparsity"])
    )
    pruning = fit(model, (x, y), watch, settings=steps)
    (pruner,) = pruning.pruners
    assert len(seen) == 12 and seen == sorted(seen)
    for states in pruner.state_variables.values():
        assert np.isfinite(value_of(states["memory"])).all()
    finite = np.isfinite(np.concatenate([value_of(v).ravel() for v in model.weights]))
    for kernel in pruner.kernels:
        mask = value_of(pruner.mask_variables[kernel.path])
        assert (value_of(kernel.variable)[~mask] == 0).all()
    if scaled:
        # Keras skips the step, and pruning reaches its target.
        assert finite.all() and seen[-1] == 122 / 152
    else:
        # Keras' weights are lost; the masks stay as they were.
        assert not finite.all() and seen[-1] == seen[1] > 0
        assert "NaN or infinite weights in hidden/kernel" in caplog.text

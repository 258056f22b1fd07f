"""What survives a restart, a damaged file, a full disk and a failed `fit`."""

import json
import pathlib
import resource
import subprocess
import sys
import types

import h5py
import keras
import numpy as np
import pytest
from conftest import BACKEND, compile_mlp, kernels_of, value_of

import keras_pruner
from keras_pruner import BackupAndResume, PrunedLayer, PruningCallback

ROOT = pathlib.Path(__file__).parent.parent
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
    layer.masks["dense/kernel" if 0 else next(iter(layer.masks))].assign(mask)
    sizes = {}
    for name, one in (("wrapped", model), ("plain", keras_pruner.strip(model))):
        one.save_weights(tmp_path / f"{name}.weights.h5")
        sizes[name] = (tmp_path / f"{name}.weights.h5").stat().st_size
    assert 125_000 <= sizes["wrapped"] - sizes["plain"] < 125_000 + 10_000
    model.save(tmp_path / "model.keras")
    (loaded,) = keras.models.load_model(tmp_path / "model.keras").layers
    np.testing.assert_array_equal(value_of(next(iter(loaded.masks.values()))), mask)


@pytest.mark.parametrize(
    "settings, units, message",
    [
        ({"criterion": "fisher"}, 8, "hidden/kernel'.*criterion=.*snip.*fisher"),
        ({"criterion": "snip", "pattern": "4x1"}, 8, "mask of shape .8, 3. for kernel"),
        ({"criterion": "snip", "pruning_type": "rigl"}, 8, "pruning_type='basic'"),
        ({"criterion": "snip", "exclude": "head"}, 8, "(?s)head/kernel.*not pruned"),
        ({"criterion": "snip"}, 9, "hidden/kernel' has shape .16, 8. in it, and .16"),
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
    if units == 8:
        assert_equal(seen["after"], seen["before"])
        assert __import__("re").search(message, seen["error"]), seen["error"]
    else:
        # Keras names the layer first.
        assert_equal(seen["after"], seen["before"])
        assert "Dense name=hidden" in seen["error"]


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


def damage(path, how):
    content = bytearray(path.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    elif how == "empty":
        content.clear()
    else:
        # In the middle of a kernel, of masks, and of the file's own structure.
        place = {
            "weights": content.find(how.encode()) if how in content else None,
        }
        del place
    path.write_bytes(content)


def flip(path, dataset):
    """Flips one bit of a dataset in an HDF5 file, behind the library's back."""
    with h5py.File(path) as file:
        offset = file[dataset].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "how", ["truncated", "empty", "layers/dense/vars/0", "optimizer/vars/mask_0"]
)
def test_damaged_weights_are_refused_and_the_model_is_as_it_was(how, saved, data):
    if "/" in how:
        flip(saved, how)
    else:
        damage(saved, how)
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


# A full disk.


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5"])
def test_a_full_disk_leaves_the_old_file(name, tmp_path):
    model, path = compile_mlp(), tmp_path / name
    save = keras_pruner.save_model if ".keras" in name else keras_pruner.save_weights
    save(model, path)
    old = path.read_bytes()
    big = keras.Sequential([keras.Input((300,)), keras.layers.Dense(300)])
    code = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal = __import__("signal")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, code[1]))
        with pytest.raises(Exception):  # noqa: B017 (h5py's is a RuntimeError)
            save(big, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, code)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    save(big, path)
    assert path.stat().st_size > 300 * 300 * 4

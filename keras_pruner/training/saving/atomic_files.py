"""Saves and loads models so that a failure midway loses nothing."""

import contextlib
import os
import warnings
import zipfile
import zlib
from typing import Any

import h5py
import keras
import numpy as np

from keras_pruner.backend import remember_what_to_skip
from keras_pruner.training.saving.orbax import check_tree, is_orbax, optimizer_config
from keras_pruner.training.saving.partial_files import write_in_one_step
from keras_pruner.types import Path

_DIGEST = "keras_pruner_digest"

_KINDS = (".keras", ".weights.h5")


def save_model(model: keras.Model, filepath: Path, **arguments: Any) -> None:
    """Saves a model like `model.save`, but completely or not at all.

    It writes a temporary file beside the target, flushes it to the disk and moves it to
    the target in one step. If that fails at any point, e.g. because the disk is full or
    the process is killed, an existing file stays unchanged. The next save to the same
    target removes the temporary files of killed processes.

    Args:
        model: Keras model.
        filepath: Path that ends in `.keras`. Keras handles other paths and remote ones.
        **arguments: Arguments of `model.save`.

    Raises:
        OSError: If the file cannot be written; it names the target.
    """
    remember_what_to_skip()
    with _in_one_step(filepath, arguments) as (path, arguments):
        type(model).save(model, path, **arguments)


def save_weights(model: keras.Model, filepath: Path, **arguments: Any) -> None:
    """Saves weights like `model.save_weights`, but completely or not at all.

    See `save_model`. The file includes a checksum of its contents, which `load_weights`
    checks. Keras reads the file like any other.

    Args:
        model: Keras model.
        filepath: Path that ends in `.weights.h5`. Keras handles other paths and remote
            ones.
        **arguments: Arguments of `model.save_weights`.

    Raises:
        OSError: If the file cannot be written.
    """
    remember_what_to_skip()
    with _in_one_step(filepath, arguments) as (path, arguments):
        type(model).save_weights(model, path, **arguments)
        if str(path) != str(filepath):
            with h5py.File(path, "r+") as file:
                seal(file)


def load_weights(model: keras.Model, filepath: Path, **arguments: Any) -> None:
    """Loads weights like `model.load_weights`, but all of them or none.

    A truncated or damaged file raises an error before anything is assigned. If anything
    in the file does not fit, all variables of the model and its optimizer stay
    unchanged. This needs memory for a second copy of them during loading. An optimizer
    state that does not fit is also an error; Keras would continue without it.

    Args:
        model: Built Keras model.
        filepath: Path of a `.weights.h5` or `.keras` file. Damaged numbers in a
            `.weights.h5` file from Keras go unnoticed, because Keras writes no
            checksum. Or the folder of an `OrbaxCheckpoint`, whose latest step is
            checked against the model. Keras handles other files.
        **arguments: Arguments of `model.load_weights`.

    Raises:
        OSError: If the file is damaged.
        ValueError: If the file does not fit the model.
    """
    remember_what_to_skip()
    check_file(filepath)
    variables = all_variables(model)
    before = [np.array(keras.ops.convert_to_numpy(v)) for v in variables]
    optimizer = getattr(model, "optimizer", None)
    run_state = getattr(optimizer, "run_state", None)
    try:
        with warnings.catch_warnings():
            if not arguments.get("skip_mismatch"):
                warnings.filterwarnings("error", "Skipping variable loading for opt")
            if is_orbax(filepath):
                check_tree(model, filepath)
            type(model).load_weights(model, filepath, **arguments)
            if is_orbax(filepath) and run_state is not None:
                # No variable holds the run state.
                optimizer.take_run(optimizer_config(filepath).get("run"))
    except BaseException:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        if run_state is not None:
            optimizer.restore_run(run_state)
        raise


def all_variables(model):
    """Returns the variables of a model and of its optimizer, each once."""
    optimizer = getattr(model, "optimizer", None)
    variables = list(model.variables)
    if optimizer is not None:
        variables += getattr(optimizer, "all_variables", optimizer.variables)
    return list({id(variable): variable for variable in variables}.values())


def check_file(filepath):
    """Raises an error if a file of weights or of a model is truncated or damaged.

    Args:
        filepath: Path of a local `.weights.h5` or `.keras` file. The function ignores
            other paths.

    Raises:
        OSError: If the file is damaged.
    """
    path = str(filepath)
    if not path.endswith(_KINDS) or not os.path.isfile(path):
        return
    try:
        if path.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                intact = archive.testzip() is None
        else:
            with h5py.File(path, "r") as file:
                saved = file.attrs.get(_DIGEST)
                # Files from Keras have no checksum.
                intact = saved is None or int(saved) == _digest(file)
    except Exception as error:
        # A damaged file raises errors of many types.
        raise OSError(f"'{path}' is truncated or damaged: {error}") from error
    if not intact:
        raise OSError(f"'{path}' is damaged: its checksum is another. Use an older one")


def seal(file):
    """Writes a checksum of its contents into an open HDF5 file."""
    file.attrs[_DIGEST] = _digest(file)


def _digest(file):
    value = 0

    def add(name, item):
        nonlocal value
        value = zlib.crc32(name.encode(), value)
        for key in sorted(item.attrs):
            value = zlib.crc32(f"{key}={item.attrs[key]}".encode(), value)
        if isinstance(item, h5py.Dataset):
            array = np.ascontiguousarray(item[()])
            value = zlib.crc32(f"{array.dtype}{array.shape}".encode(), value)
            value = zlib.crc32(array.tobytes(), value)

    # This visits items in the order of their names.
    file.visititems(add)
    return value


@contextlib.contextmanager
def _in_one_step(filepath, arguments):
    """Yields a path to write to and Keras' arguments; moves the file afterwards."""
    if not str(filepath).endswith(_KINDS) or "://" in str(filepath):
        yield filepath, arguments
        return
    if os.path.exists(filepath) and not arguments.get("overwrite", True):
        # Keras asks whether to overwrite the file.
        yield filepath, arguments
        return
    with write_in_one_step(filepath) as path:
        # The temporary file exists already.
        yield path, arguments | {"overwrite": True}

"""Saves and loads models so that a failure on the way loses nothing."""

import contextlib
import os
import pathlib
import shutil
import warnings
import zipfile
import zlib

import h5py
import keras
import numpy as np

from keras_pruner.backend import remember_what_to_skip
from keras_pruner.training.saving.orbax import check_tree, is_orbax, optimizer_config

_DIGEST = "keras_pruner_digest"

_KINDS = (".keras", ".weights.h5")


def save_model(model, filepath, **arguments):
    """Saves a model as `model.save` does, but whole or not at all.

    The file is written beside its place, flushed to the disk and then put in place in
    one step. If that fails at any point, e.g. because the disk is full or the process
    is killed, a file that was there before is still there, unchanged.

    Args:
        model: Keras model.
        filepath: Path that ends in `.keras`. Other paths, and remote ones, are left to
            Keras.
        **arguments: Arguments of `model.save`.

    Raises:
        OSError: If it cannot be written.
    """
    remember_what_to_skip()
    with _in_one_step(model, filepath, arguments) as path:
        type(model).save(model, path, **arguments)


def save_weights(model, filepath, **arguments):
    """Saves weights as `model.save_weights` does, but whole or not at all.

    As `save_model`. A checksum of all that is in the file is written with it, which
    `load_weights` checks. Keras reads the file like any other.

    Args:
        model: Keras model.
        filepath: Path that ends in `.weights.h5`. Other paths, and remote ones, are
            left to Keras.
        **arguments: Arguments of `model.save_weights`.

    Raises:
        OSError: If it cannot be written.
    """
    remember_what_to_skip()
    with _in_one_step(model, filepath, arguments) as path:
        type(model).save_weights(model, path, **arguments)
        if str(path) != str(filepath):
            with h5py.File(path, "r+") as file:
                seal(file)


def load_weights(model, filepath, **arguments):
    """Loads weights as `model.load_weights` does, but all of them or none.

    A file that is truncated or damaged is refused before anything is assigned. If
    anything in it does not fit, all variables of the model and of its optimizer are as
    they were; for this they are kept in memory once more while the file is loaded. An
    optimizer whose saved state does not fit is an error too: Keras would go on without
    it.

    Args:
        model: Built Keras model.
        filepath: Path of a `.weights.h5` or `.keras` file. Of a `.weights.h5` file that
            `save_weights` did not write, damage of the numbers themselves cannot be
            seen: Keras writes no checksum. Or the folder of an `OrbaxCheckpoint`, whose
            latest step is checked against the model. Other files are left to Keras.
        **arguments: Arguments of `model.load_weights`.

    Raises:
        OSError: If the file is damaged.
        ValueError: If it does not fit the model.
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
                # No variable holds it.
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
    variables = [*model.variables, *(optimizer.variables if optimizer else ())]
    return list({id(variable): variable for variable in variables}.values())


def check_file(filepath):
    """Raises if a file of weights or of a model is truncated or damaged.

    Args:
        filepath: Path. What is neither `.weights.h5` nor `.keras`, or not a file of
            this machine, is not looked at.

    Raises:
        OSError: If it is damaged.
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
                # Keras' own files have none.
                intact = saved is None or int(saved) == _digest(file)
    except Exception as error:
        # What a damaged file makes of its reader has no one type.
        raise OSError(f"'{path}' is truncated or damaged: {error}") from error
    if not intact:
        raise OSError(f"'{path}' is damaged: its checksum is another. Use an older one")


def seal(file):
    """Writes a checksum of all that an open HDF5 file holds into it."""
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

    # In the order of names.
    file.visititems(add)
    return value


@contextlib.contextmanager
def _in_one_step(model, filepath, arguments):
    """Context that gives a path to write to, and puts what is there in its place."""
    if not str(filepath).endswith(_KINDS) or "://" in str(filepath):
        yield filepath
        return
    if os.path.exists(filepath) and not arguments.get("overwrite", True):
        # Keras asks.
        yield filepath
        return
    with write_in_one_step(filepath) as path:
        yield path


@contextlib.contextmanager
def write_in_one_step(filepath):
    """Context that gives a path to write to, and puts what is there in its place.

    Args:
        filepath: Where the file shall be in the end.
    """
    # What a link points to is replaced, not the link.
    target = pathlib.Path(os.path.realpath(filepath))
    partial = partial_path(target)
    try:
        yield partial
        if target.exists():
            shutil.copymode(target, partial)
        _flush(partial, os.O_RDWR)
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == "posix":
        _flush(target.parent, os.O_RDONLY)


def partial_path(filepath):
    """Returns where a file is written before it is put in place.

    One name, so that runs that were killed leave one such file, not many.
    """
    path = pathlib.Path(filepath)
    return path.with_name(f".partial.{path.name}")


def _flush(path, flags):
    """Waits until a file, or what a folder holds, is on the disk."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

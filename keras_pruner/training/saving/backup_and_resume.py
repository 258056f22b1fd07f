"""Backs up a run during `fit`, so that a killed run resumes at the same batch."""

import json
import pathlib
import random
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops

from keras_pruner.backend import (
    build_by_batch,
    random_state,
    remember_what_to_skip,
    set_initial_epoch,
    set_random_state,
)
from keras_pruner.training.saving.atomic_files import (
    check_file,
    load_weights,
    seal,
)
from keras_pruner.training.saving.partial_files import (
    remove_partials,
    write_in_one_step,
)
from keras_pruner.types import Logs, Path

_GROUP = "keras_pruner_run"


class BackupAndResume(keras.callbacks.Callback):
    """Backs up a run of `fit`, and resumes it at the batch where it was saved.

    Use it like `keras.callbacks.BackupAndRestore`, alone or with `PruningCallback`, in
    any order:

    ```python
    callbacks = [BackupAndResume("backup", save_freq=100), PruningCallback()]
    model.fit(x, y, epochs=20, callbacks=callbacks)
    ```

    A run that is killed at any moment and restarted by the same script ends with
    bit-identical weights, as if never killed. This requires deterministic operations
    and the same order of data. Keras' callback differs: it repeats the epoch from
    mid-epoch weights, writes weights and position separately, and overwrites the only
    good file.

    It writes one file, completely or not at all, with a checksum. The file has weights,
    optimizer, metrics of the epoch so far, epoch and batch, and the model's random
    generators (e.g. of dropout), which Keras does not save. It also has the states of
    NumPy's and Python's global generators at the beginning of the epoch. On torch it
    adds torch's, there and after the latest batch. A resumed run first draws the
    finished batches of the epoch again, without training, so that the rest is equal.

    The order of data is the same if it depends only on those generators
    (`shuffle=True` on JAX and torch; a `PyDataset` that shuffles by NumPy) or on epoch
    and batch. `shuffle=True` on TensorFlow and `tf.data` shuffle again in each process,
    and a Python generator restarts: the run resumes, but not bit for bit.

    Args:
        backup_dir: Folder of the backup, for this run alone.
        save_freq: `"epoch"`, or the number of batches between saves.
        delete_checkpoint: Whether to delete the backup when a run ends successfully.

    Raises:
        ValueError: If an argument is wrong; in `fit`, if the backup does not fit the
            model. Nothing is assigned then.
        OSError: In `fit`, if the backup is damaged or cannot be written. A failed write
            keeps the older backup.
    """

    def __init__(
        self,
        backup_dir: Path,
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        is_count = isinstance(save_freq, int) and not isinstance(save_freq, bool)
        if save_freq != "epoch" and not (is_count and int(save_freq) > 0):
            raise ValueError(
                "`save_freq` must be 'epoch' or a number of batches >= 1. "
                f"Received: save_freq={save_freq!r}"
            )
        if not str(backup_dir):
            raise ValueError("`backup_dir` is empty. Name a folder.")
        self.path = pathlib.Path(backup_dir) / "run.weights.h5"
        self.save_freq: Any = save_freq
        self.delete_checkpoint = delete_checkpoint
        self._restored: Any = None
        self._epoch = 0
        self._unsaved = 0
        self._batches_done = 0
        self._batches_to_skip = 0
        self._random: Any = None

    def on_train_begin(self, logs: Logs = None) -> None:
        self._restored = None
        self._unsaved = 0
        if not self.path.exists():
            return
        model = self.model
        if not model.built:
            raise ValueError(
                "BackupAndResume needs a built model: begin it with `keras.Input`, or "
                "call it on a batch of data before `fit`."
            )
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        check_file(self.path)
        with h5py.File(self.path, "r") as file:
            if _GROUP not in file:
                raise ValueError(
                    f"'{self.path}' is no backup of BackupAndResume. Name another "
                    "`backup_dir`, or remove the file to start again."
                )
            group = file[_GROUP]
            self._restored = json.loads(bytes(group["run"][()]))
            metrics, seeds = _read(group, "metric"), _read(group, "seed")
        generators = _seeds_of(model)
        if len(seeds) != len(generators):
            raise ValueError(
                f"The backup '{self.path}' does not fit the model: it has the states "
                f"of {len(seeds)} random generators, and the model has "
                f"{len(generators)}. Nothing was assigned."
            )
        load_weights(model, self.path)
        for variable, value in zip(generators, seeds, strict=True):
            variable.assign(value)
        self._restored["metrics"] = metrics
        set_initial_epoch(model, self._restored["epoch"])

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._epoch, self._batches_done = epoch, 0
        restored, self._restored = self._restored, None
        if restored is not None:
            _set_random_state(restored["random"])
        self._random = _random_state()
        self._batches_to_skip = restored["batches_done"] if restored else 0
        if self._batches_to_skip:
            model = self.model
            model.train_function = _Replay(
                model,
                self._batches_to_skip,
                restored["metrics"],
                restored["backend_random"],
            )

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        before, self._batches_done = self._batches_done, batch + 1
        if self.save_freq == "epoch" or self._batches_done <= self._batches_to_skip:
            return
        self._unsaved += self._batches_done - before
        if self._unsaved >= self.save_freq:
            self._save(self._epoch, self._batches_done)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._end_replay()
        if self.save_freq == "epoch":
            # A resumed run repeats the next epoch from its beginning.
            self._random = _random_state()
            self._save(epoch + 1, 0)

    def on_train_end(self, logs: Logs = None) -> None:
        self._end_replay()
        set_initial_epoch(self.model, None)
        if not self.delete_checkpoint:
            return
        folder = self.path.parent
        self.path.unlink(missing_ok=True)
        remove_partials(self.path)
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()

    def _end_replay(self):
        """Ends a replay if the epoch has no batch left to train on."""
        model = self.model
        if isinstance(model.train_function, _Replay):
            model.train_function.end()

    def _save(self, epoch, batches_done):
        # On JAX, reading `self.model` updates the variables.
        model = self.model
        run = {
            "epoch": epoch,
            "batches_done": batches_done,
            "random": self._random,
            # The backend's global generator, from which training steps draw.
            "backend_random": _backend_state(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        remember_what_to_skip()
        with write_in_one_step(self.path) as path:
            type(model).save_weights(model, path)
            with h5py.File(path, "r+") as file:
                group = file.create_group(_GROUP)
                text = json.dumps(run).encode()
                group["run"] = np.frombuffer(text, dtype="uint8")
                for name, variables in (
                    ("metric", model.metrics_variables),
                    ("seed", _seeds_of(model)),
                ):
                    for number, variable in enumerate(variables):
                        group[f"{name}/{number}"] = ops.convert_to_numpy(variable)
                seal(file)
        self._unsaved = 0


class _Replay:
    """Replaces a model's `train_function`: draws batches without training on them.

    After `num_batches` it restores the state that the backend's generator had after
    these batches, which the next batch or epoch may use. At the next batch, or at the
    end of the epoch, it restores the `train_function`.
    """

    # Whether a call trains.
    trains = False

    def __init__(self, model, num_batches, metrics, backend_random):
        self.model = model
        self.train_function = model.train_function
        self.batches_left = num_batches
        self.metrics = metrics
        self.backend_random = backend_random
        self.logs = None
        self._restore_metrics()

    def __call__(self, *arguments):
        model = self.model
        if self.batches_left <= 0:
            self.end()
            return self.train_function(*arguments)
        steps = getattr(model, "steps_per_execution", 1)
        self.batches_left -= steps
        # TensorFlow passes an iterator, JAX a state and an iterator, torch a batch.
        source = arguments[-1]
        if keras.backend.backend() == "torch":
            batch = source[0]
        else:
            batch = next(source)
            for _ in range(steps - 1):
                # The last execution of an epoch may be shorter.
                next(source, None)
        if self.logs is None:
            # TensorFlow creates its metrics with the first batch.
            build_by_batch(model, batch)
            self._restore_metrics()
        if self.batches_left <= 0:
            _set_backend_state(self.backend_random)
        if len(arguments) == 2:
            return self.logs, arguments[0]
        return self.logs

    def end(self):
        self.model.train_function = self.train_function

    def _restore_metrics(self):
        variables = self.model.metrics_variables
        if len(variables) != len(self.metrics):
            return
        for variable, value in zip(variables, self.metrics, strict=True):
            variable.assign(value)
        self.logs = dict(self.model.get_metrics_result())


def _seeds_of(model):
    """Returns the states of the model's own random generators, e.g. of dropout.

    Keras does not save them.
    """
    metrics = {id(variable) for variable in model.metrics_variables}
    known = {id(variable) for variable in model.weights} | metrics
    return [variable for variable in model.variables if id(variable) not in known]


def _read(group, name):
    """Returns the arrays of a saved list, in its order."""
    found = group.get(name, {})
    return [np.asarray(found[str(number)]) for number in range(len(found))]


def _random_state():
    """Returns the states of the global random generators as plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return {
        "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
        "python": random.getstate(),
        "backend": _backend_state(),
    }


def _set_random_state(state):
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.asarray(keys, dtype="uint32"), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    _set_backend_state(state["backend"])


def _backend_state():
    state = random_state()
    return None if state is None else list(state)


def _set_backend_state(state):
    set_random_state(None if state is None else bytes(state))

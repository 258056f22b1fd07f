"""Kills training runs at random moments and checks that they end as if never killed.

Each trial starts a run in a process of its own, with `BackupAndResume` and
`PruningCallback`, ends it with SIGKILL at a random moment, and starts the same script
again. All weights, masks, optimizer states, random states and counts, and the metrics
of the last epoch, must equal those of the uninterrupted run bit for bit.

    python benchmarks/kill_resume.py            20 kills
    python benchmarks/kill_resume.py --smoke    1 kill
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

EPOCHS, BATCHES = 6, 20
# Where the time begins in which a run is killed, in turn: with the compilation of the
# step, which takes most of it, or after the first batch.
MARKS = ["begun", "trained"]
CASES = {
    "snip_momentum": {"criterion": "snip_momentum"},
    "rigl": {"pruning_type": "rigl"},
    "random, accumulating": {"criterion": "random", "accumulate": 3},
    "movement, random growth": {"criterion": "movement", "pruning_type": "set"},
}


def train(folder, case):
    """Trains to the end, from wherever an earlier run was killed."""
    import keras
    import numpy as np

    from keras_pruner import BackupAndResume, PruningCallback

    settings = dict(CASES[case])
    accumulate = settings.pop("accumulate", None)
    keras.utils.set_random_seed(7)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()

    class Shuffled(keras.utils.PyDataset):
        """Digits of noise, in another order in each epoch."""

        def __init__(self):
            super().__init__()
            generator = np.random.default_rng(0)
            self.x = generator.random((BATCHES * 16, 16)).astype("float32")
            self.y = generator.integers(0, 4, BATCHES * 16)
            self.order = np.arange(len(self.x))

        def __len__(self):
            return BATCHES

        def __getitem__(self, index):
            part = self.order[index * 16 : (index + 1) * 16]
            return self.x[part], self.y[part]

        def on_epoch_begin(self):
            self.order = np.random.permutation(len(self.x))

    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(32, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(1e-2, gradient_accumulation_steps=accumulate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    pruning = PruningCallback(target_sparsity=0.8, verbose=False, **settings)
    marks = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: (folder / "begun").touch(),
        on_train_batch_end=lambda batch, logs: (folder / "trained").touch(),
        on_train_end=lambda logs: (folder / "ended").touch(),
    )
    # After the pruning, so that logs have the sparsity; any order will do.
    backup = BackupAndResume(folder / "backup", save_freq=2)
    history = model.fit(
        Shuffled(), epochs=EPOCHS, verbose=0, callbacks=[pruning, backup, marks]
    )
    values = {f"{i} {v.path}": v for i, v in enumerate(model.variables)}
    values |= {f"{i} {v.name}": v for i, v in enumerate(model.optimizer.variables)}
    for pruner in pruning.pruners:
        for path, states in pruner.state_variables.items():
            values |= {f"{path} {name}": state for name, state in states.items()}
            values[f"{path} mask"] = pruner.mask_variables[path]
    values = {k: np.asarray(keras.ops.convert_to_numpy(v)) for k, v in values.items()}
    # A run that was killed after its last epoch has no history.
    values |= {f"log {k}": np.asarray(v[-1]) for k, v in history.history.items()}
    values["step"] = np.asarray(pruning.pruners[0].global_step)
    np.savez(folder / "end.npz", **{k.replace("/", "|"): v for k, v in values.items()})


def start(folder, case):
    command = [sys.executable, __file__, "--train", str(folder), "--case", case]
    return subprocess.Popen(command)


def wait_for(process, path):
    """Waits until a file is there; returns the time."""
    while not path.exists():
        if process.poll() not in (None, 0):
            raise SystemExit("The run failed.")
        time.sleep(0.005)
    return time.monotonic()


def run_to_the_end(folder, case):
    """Returns how long it took from each of `MARKS` to the end, in seconds."""
    process = start(folder, case)
    times = [wait_for(process, folder / mark) for mark in MARKS]
    ended = wait_for(process, folder / "ended")
    if process.wait() != 0:
        raise SystemExit("The run failed.")
    return [ended - time for time in times]


def differences(folder, expected):
    """Returns the names of what is not equal bit for bit."""
    import numpy as np

    with np.load(folder / "end.npz") as ends, np.load(expected / "end.npz") as wanted:
        names = set(ends) ^ set(wanted)
        if not any(name.startswith("log ") for name in ends):
            names = {name for name in names if not name.startswith("log ")}
        common = set(ends) & set(wanted)
        return sorted(names) + sorted(
            name
            for name in common
            if ends[name].dtype != wanted[name].dtype
            or ends[name].tobytes() != wanted[name].tobytes()
        )


def where_it_was(folder):
    """Returns where a killed run will go on, in words."""
    import h5py

    path = folder / "backup" / "run.weights.h5"
    if not path.exists():
        return "the beginning"
    with h5py.File(path) as file:
        run = json.loads(bytes(file["keras_pruner_run/run"][()]))
    return f"epoch {run['epoch']}, batch {run['batches_done']}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="one kill")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(pathlib.Path(arguments.train), arguments.case)
        return
    generator = random.Random(arguments.seed)
    kills = 1 if arguments.smoke else arguments.kills
    equal = 0
    with tempfile.TemporaryDirectory() as top:
        references = {}
        for number in range(kills):
            case = list(CASES)[number % len(CASES)]
            if case not in references:
                expected = pathlib.Path(top, f"expected {len(references)}")
                expected.mkdir()
                references[case] = expected, run_to_the_end(expected, case)
            expected, lengths = references[case]
            # Each case meets each mark.
            turn = (number + number // len(CASES)) % len(MARKS)
            seconds = lengths[turn]
            killed = False
            while not killed:
                folder = pathlib.Path(tempfile.mkdtemp(dir=top))
                process = start(folder, case)
                begun = wait_for(process, folder / MARKS[turn])
                moment = generator.uniform(0, seconds)
                time.sleep(max(0.0, begun + moment - time.monotonic()))
                process.send_signal(signal.SIGKILL)
                # Else it was faster than the uninterrupted run, and had ended.
                killed = process.wait() == -signal.SIGKILL
            place = where_it_was(folder)
            run_to_the_end(folder, case)
            found = differences(folder, expected)
            equal += not found
            print(
                f"{number + 1:2d}. {case:24s} killed {moment:5.2f} of "
                f"{seconds:.2f} s after it had {MARKS[turn]}, goes on at {place}: "
                f"{found or 'equal'}",
                flush=True,
            )
    print(f"{equal} of {kills} killed runs ended bit for bit as the uninterrupted one.")
    sys.exit(equal != kills)


if __name__ == "__main__":
    main()

"""Runs thousands of short cycles of fit, checkpoint and restore, and watches for leaks.

In a cycle a tiny model is fitted, its weights and the whole model are saved in
mid-training, and it is fitted again from what was saved. All cycles share one model and
one `PruningCallback`; with `--new-callbacks` each has its own, which traces the
training step anew, and TensorFlow keeps something of every trace. `--plain` does the
same without pruning, to see what Keras and its backend do alone.

Reported are the resident memory (RSS), the number of Python objects, the number of
traces of the mask update and of the training step, and, over the last tenth, what
Python allocated and still holds (tracemalloc).

    python benchmarks/soak.py                   2,000 cycles
    python benchmarks/soak.py --smoke           6 cycles
"""

import argparse
import gc
import os
import pathlib
import sys
import tempfile
import time
import tracemalloc

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import psutil

from keras_pruner import PruningCallback

SETTINGS = {
    "target_sparsity": 0.8,
    "criterion": "snip_momentum",
    # Masks are updated in the first cycle and in each one later.
    "begin_step": 1,
    "end_step": 10**6,
    "frequency": 2,
    "verbose": False,
}


@keras.saving.register_keras_serializable(package="soak")
class Tap(keras.layers.Layer):
    """Passes its input on, and counts how often Python does so: when tracing."""

    executions = 0

    def call(self, x):
        Tap.executions += 1
        return x


def build():
    model = keras.Sequential(
        [
            keras.Input((16,)),
            Tap(),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(4, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def cycle(model, data, folder, pruning):
    """Fits, saves in mid-training, and fits again from what was saved."""
    weights = str(folder / "half.weights.h5")
    save = keras.callbacks.ModelCheckpoint(weights, save_weights_only=True)
    whole = keras.callbacks.ModelCheckpoint(str(folder / "half.keras"))
    restore = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: model.load_weights(weights)
    )
    for callbacks in ([save, whole], [restore]):
        callbacks = [*pruning, *callbacks]
        model.fit(*data, batch_size=16, verbose=0, callbacks=callbacks)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cycles", type=int, default=2000)
    parser.add_argument("--smoke", action="store_true", help="6 cycles")
    parser.add_argument("--warm-up", type=int, default=100)
    parser.add_argument("--new-callbacks", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--lines", type=int, default=20, help="lines of the table")
    arguments = parser.parse_args()
    cycles = 6 if arguments.smoke else arguments.cycles
    warm_up = 2 if arguments.smoke else min(arguments.warm_up, cycles // 2)
    generator = np.random.default_rng(0)
    x = generator.random((32, 16)).astype("float32")
    data = x, generator.integers(0, 4, 32)
    keras.utils.set_random_seed(0)
    model = build()
    pruning = [] if arguments.plain else [PruningCallback(**SETTINGS)]
    process = psutil.Process()
    every = max(1, (cycles - warm_up) // arguments.lines)
    tenth = cycles * 9 // 10
    points = []
    print("cycle | RSS, MB | Python, MB | objects | updates | steps | s per cycle")
    with tempfile.TemporaryDirectory() as folder:
        begun, updates, old = time.monotonic(), [], 0
        for number in range(1, cycles + 1):
            if arguments.new_callbacks:
                pruning = [PruningCallback(**SETTINGS)]
            cycle(model, data, pathlib.Path(folder), pruning)
            updates.append(pruning[0].pruners[0].updater.trace_count if pruning else 0)
            if number == tenth:
                # It makes a cycle several times slower.
                tracemalloc.start()
            if number < warm_up or (number - warm_up) % every and number != tenth:
                continue
            gc.collect()
            points.append(
                (
                    number,
                    process.memory_info().rss / 2**20,
                    tracemalloc.get_traced_memory()[0] / 2**20,
                    len(gc.get_objects()),
                )
            )
            seconds = (time.monotonic() - begun) / (number - old)
            print(
                "{:5d} | {:7.1f} | {:10.2f} | {:7d}".format(*points[-1])
                + f" | {updates[-1]:7d} | {Tap.executions:5d} | {seconds:.2f}",
                flush=True,
            )
            begun, old = time.monotonic(), number
    numbers, rss, python, objects = np.array(points).T
    # The tracing of Python's memory takes memory of its own.
    traced = numbers >= tenth
    second_half = (numbers >= cycles // 2) & ~traced
    growth = [
        np.polyfit(numbers[where], values[where], 1)[0] * 1000
        for values, where in ((rss, second_half), (python, traced), (objects, traced))
    ]
    print(
        "Growth by 1,000 cycles: RSS {:.2f} MB over the second half, Python {:.3f} MB "
        "and {:.0f} objects over the last tenth.".format(*growth)
    )
    print(
        f"Traces of the update: {updates[-1]}, of the training step: {Tap.executions}. "
        f"Keras {keras.__version__}, {keras.backend.backend()}, "
        f"Python {sys.version.split()[0]}."
    )


if __name__ == "__main__":
    main()

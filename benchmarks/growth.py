"""Measures the memory that a process keeps of each model that it trains and drops.

A search over widths fits models of different widths, each with a new
`PruningCallback`, and drops each. One process does so without pruning and one with it,
at the same time. The result is the slope of the resident memory (RSS) over the models,
without the first quarter.

    python benchmarks/growth.py                  200 models, 16-w-3
    python benchmarks/growth.py --features 784   larger kernels
    python benchmarks/growth.py --smoke          8 models
"""

import argparse
import gc
import json
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def fit_all(options):
    """Fits and drops all models; returns the RSS after each, in MB."""
    import keras
    import numpy as np
    import psutil

    from keras_pruner import PruningCallback

    generator = np.random.default_rng(0)
    x = generator.random((96, options.features)).astype("float32")
    y = generator.integers(0, 3, 96)
    sizes = []
    for number in range(options.models):
        layers = [
            keras.Input((options.features,)),
            keras.layers.Dense(8 + number, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
        model = keras.Sequential(layers)
        jit_compile = options.jit == "yes"
        model.compile(
            "adam", "sparse_categorical_crossentropy", jit_compile=jit_compile
        )
        callbacks = []
        if options.side == "pruned":
            callbacks.append(PruningCallback(pattern=options.pattern, verbose=False))
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
        del model, callbacks
        if number % 4 == 3:
            gc.collect()
        sizes.append(psutil.Process().memory_info().rss / 2**20)
    return sizes


def slope(sizes):
    import numpy as np

    later = sizes[len(sizes) // 4 :]
    return float(np.polyfit(range(len(later)), later, 1)[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--pattern", default="1x1")
    parser.add_argument("--jit", choices=("yes", "no"), default="no")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--side", choices=("plain", "pruned"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.smoke:
        options.models = 8
    if options.side:
        print(json.dumps(fit_all(options)))
        return
    sides = {
        side: subprocess.Popen(
            [sys.executable, *sys.argv, "--side", side],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for side in ("plain", "pruned")
    }
    slopes = {}
    for side, process in sides.items():
        output, _ = process.communicate()
        if process.returncode:
            sys.exit(f"The process of the {side} models failed.")
        slopes[side] = slope(json.loads(output.splitlines()[-1]))
        print(f"{side}: {slopes[side]:.2f} MB a model")
    more = slopes["pruned"] - slopes["plain"]
    print(f"pruning adds {more:.2f} MB to each of {options.models} models")


if __name__ == "__main__":
    main()

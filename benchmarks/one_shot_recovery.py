"""Test accuracy after one-shot pruning with each recovery, on a net with BatchNorm.

A ConvNet with BatchNormalization is trained here on scikit-learn's digits, then pruned
from 512 unlabelled training samples: by magnitude as published (the same sparsity in
each kernel, no correction of the bias), and by the defaults of `prune_one_shot`.

    python benchmarks/one_shot_recovery.py
    python benchmarks/one_shot_recovery.py --smoke

It needs scikit-learn.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from keras_pruner import prune_one_shot
from keras_pruner.demo import load_digits

PUBLISHED = {
    "method": "magnitude",
    "allocation": "uniform",
    "dense_target": False,
    "centre": False,
}
# Name -> settings and sparsities.
METHODS = {"magnitude": (PUBLISHED, [0.7, 0.8]), "admm": ({}, [0.8, 0.9, 0.95])}
FAST = {"name": "distill", "config": {"learning_rate": 3e-3}}
RECOVERIES = {
    "none": None,
    "batch norm": "batch_normalization",
    "distill": "distill",
    "distill, 3e-3": FAST,
    "both": ("batch_normalization", "distill"),
}


def trained(seed, data, epochs):
    keras.utils.set_random_seed(seed)
    blocks = [keras.Input((8, 8, 1))]
    for filters in (16, 32, 64):
        blocks += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    head = [layers.GlobalAveragePooling2D(), layers.Dense(10, activation="softmax")]
    model = keras.Sequential([*blocks, *head])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*data, batch_size=32, epochs=epochs, verbose=0)
    return model


def accuracy(model, data):
    x, y = data
    return 100 * float((model.predict(x, verbose=0).argmax(axis=-1) == y).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--smoke", action="store_true", help="one small run")
    options = parser.parse_args()
    if options.smoke:
        options.methods, options.seeds, options.epochs = ["magnitude"], 1, 1
    x_train, x_test, y_train, y_test = load_digits()
    train, test = (x_train, y_train), (x_test, y_test)
    print(f"Backend {keras.backend.backend()}, Keras {keras.__version__}.")
    print("Test accuracy in %: median of the seeds (lowest - highest); seconds of it.")
    models = [trained(seed, train, options.epochs) for seed in range(options.seeds)]
    print(f"dense {shown([accuracy(model, test) for model in models])}", flush=True)
    for method in options.methods:
        settings, sparsities = METHODS[method]
        for sparsity in sparsities[:1] if options.smoke else sparsities:
            for name, recovery in RECOVERIES.items():
                found, seconds = [], []
                for seed, model in enumerate(models):
                    pruned, report = prune_one_shot(
                        model, x_train, sparsity, seed=seed, recovery=recovery,
                        check=False, verbose=False, **settings,
                    )  # fmt: skip
                    seconds.append(sum(each.seconds for each in report.recoveries))
                    found.append(accuracy(pruned, test))
                print(
                    f"  {method} {sparsity:.0%} {name:14s} {shown(found)}  "
                    f"{np.median(seconds):.1f} s",
                    flush=True,
                )


def shown(values):
    return f"{np.median(values):.1f} ({min(values):.1f} - {max(values):.1f})"


if __name__ == "__main__":
    main()

"""Test accuracy after one-shot pruning of trained networks, without any training.

Each network is trained here on scikit-learn's digits, then pruned by each method at
each sparsity from 512 unlabelled training samples. `sparsegpt` and `wanda` are as
published: with the kernel's own outputs as target, the same sparsity in each kernel,
and no correction of the bias. `admm, uniform` and `admm` have the defaults of
`prune_one_shot`; the latter divides the sparsity by error curves.

    python benchmarks/one_shot.py
    python benchmarks/one_shot.py --seeds 1 --networks mlp --sparsities 0.8
    python benchmarks/one_shot.py --smoke

It needs scikit-learn.
"""

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers

from keras_pruner import prune_one_shot
from keras_pruner.demo import load_digits

PUBLISHED = {"allocation": "uniform", "dense_target": False, "centre": False}
METHODS = {
    "magnitude": PUBLISHED | {"method": "magnitude"},
    "wanda": PUBLISHED | {"method": "wanda"},
    "sparsegpt": PUBLISHED | {"method": "sparsegpt"},
    "admm, uniform": {"allocation": "uniform"},
    "admm": {},
}


def mlp():
    return [
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(64, activation="relu"),
    ]


def convnet():
    return [
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", activation="relu"),
        layers.GlobalAveragePooling2D(),
    ]


def separable():
    block = []
    for filters in (32, 64):
        block += [
            layers.SeparableConv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
        ]
    stem = [layers.Conv2D(16, 3, padding="same", activation="relu")]
    return [*stem, *block, layers.GlobalAveragePooling2D()]


def recurrent():
    return [
        layers.Reshape((8, 8)),
        layers.Bidirectional(layers.LSTM(32, return_sequences=True)),
        layers.GRU(32),
    ]


NETWORKS = {
    "mlp": mlp,
    "convnet": convnet,
    "separable": separable,
    "recurrent": recurrent,
}


def trained(name, seed, data, epochs):
    keras.utils.set_random_seed(seed)
    x, y = data
    head = layers.Dense(10, activation="softmax")
    model = keras.Sequential([keras.Input((8, 8, 1)), *NETWORKS[name](), head])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return model


def accuracy(model, data):
    x, y = data
    return float((model.predict(x, verbose=0).argmax(axis=-1) == y).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.8, 0.9])
    parser.add_argument("--pattern", default="1x1")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--smoke", action="store_true", help="one small run")
    options = parser.parse_args()
    if options.smoke:
        options.networks, options.sparsities = ["mlp"], [0.8]
        options.seeds, options.epochs = 1, 2
    x_train, x_test, y_train, y_test = load_digits()
    train, test = (x_train, y_train), (x_test, y_test)
    print(f"Backend {keras.backend.backend()}, Keras {keras.__version__}.")
    print("Test accuracy in %: median of the seeds (lowest - highest); seconds a call.")
    for name in options.networks:
        models = [
            trained(name, seed, train, options.epochs) for seed in range(options.seeds)
        ]
        dense = [100 * accuracy(model, test) for model in models]
        print(f"{name}: dense {shown(dense)}", flush=True)
        for sparsity in options.sparsities:
            for method, settings in METHODS.items():
                found, seconds = [], []
                for seed, model in enumerate(models):
                    start = time.perf_counter()
                    pruned, _ = prune_one_shot(
                        model, x_train, sparsity, pattern=options.pattern, seed=seed,
                        check=False, verbose=False, **settings,
                    )  # fmt: skip
                    seconds.append(time.perf_counter() - start)
                    found.append(100 * accuracy(pruned, test))
                print(
                    f"  {sparsity:.0%} {method:14s} {shown(found)}  "
                    f"{np.median(seconds):.1f} s",
                    flush=True,
                )


def shown(values):
    return f"{np.median(values):.1f} ({min(values):.1f} - {max(values):.1f})"


if __name__ == "__main__":
    main()

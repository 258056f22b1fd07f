"""Test accuracy of a pruned MLP on scikit-learn's digits, by sparsity and allocation.

The protocol: an MLP 64-256-128-10, Adam 1e-3, batches of 32; 60 epochs dense, then 60
epochs while pruning from 0 over the first 2,000 of 2,700 steps. 1,437 images to train,
360 to test, stratified, `random_state=0`. The same dense weights, per seed, are the
start of every pruned run.

    python benchmarks/digits_accuracy.py
    python benchmarks/digits_accuracy.py --allocations erk --sparsities 0.98 --seeds 5
"""

import argparse
import json
import platform

import keras
import numpy as np
from rich.progress import Progress

from keras_pruner import PruningCallback, __version__
from keras_pruner.demo import compile_classifier, load_digits

# tfmot 0.8.1 under the same protocol, uniform; mean of 5 seeds, in percent.
TFMOT = {0.5: 97.7, 0.8: 98.3, 0.9: 98.1, 0.95: 97.9, 0.98: 91.3}


def build_mlp():
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(256, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )
    compile_classifier(model)
    return model


def measure(options):
    """Returns a dict from (allocation, sparsity) to the accuracies of all seeds."""
    x_train, x_test, y_train, y_test = load_digits()
    x_train, x_test = x_train.reshape(-1, 64), x_test.reshape(-1, 64)
    accuracies = {}
    runs = options.seeds * (1 + len(options.allocations) * len(options.sparsities))
    with Progress() as progress:
        bar = progress.add_task("training", total=runs)
        for seed in range(options.seeds):
            keras.utils.set_random_seed(seed)
            model = build_mlp()
            training = dict(batch_size=32, epochs=options.epochs, verbose=0)
            model.fit(x_train, y_train, **training)
            dense = model.get_weights()
            accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
            accuracies.setdefault(("dense", 0.0), []).append(accuracy)
            progress.advance(bar)
            steps = 45 * options.epochs
            for allocation in options.allocations:
                for sparsity in options.sparsities:
                    keras.utils.set_random_seed(seed)
                    model = build_mlp()
                    model.set_weights(dense)
                    callback = PruningCallback(
                        target_sparsity=sparsity,
                        allocation=allocation,
                        begin_step=0,
                        end_step=2000 * steps // 2700,
                        frequency=options.frequency,
                        verbose=False,
                    )
                    model.fit(x_train, y_train, callbacks=[callback], **training)
                    accuracy = model.evaluate(x_test, y_test, verbose=0)[1]
                    zeros = sum((w == 0).sum() for w in model.get_weights()[::2])
                    weights = sum(w.size for w in model.get_weights()[::2])
                    # Uniform allocation rounds each of the three kernels by itself.
                    if abs(zeros - sparsity * weights) > 3:
                        raise RuntimeError(f"{allocation}: {zeros} of {weights} zeros")
                    accuracies.setdefault((allocation, sparsity), []).append(accuracy)
                    progress.advance(bar)
    return accuracies


def print_table(accuracies, options):
    print(
        f"keras_pruner {__version__}, Keras {keras.__version__} on "
        f"{keras.backend.backend()}, Python {platform.python_version()}; "
        f"{options.seeds} seeds; mean test accuracy in % (lowest - highest)\n"
    )
    dense = 100 * np.array(accuracies["dense", 0.0])
    print(f"dense: {dense.mean():.2f} ({dense.min():.1f} - {dense.max():.1f})\n")
    print("| sparsity | tfmot 0.8.1, uniform |", " | ".join(options.allocations), "|")
    print("|---" * (2 + len(options.allocations)) + "|")
    for sparsity in options.sparsities:
        cells = [f"{sparsity:.0%}", f"{TFMOT.get(sparsity, float('nan')):.1f}"]
        for allocation in options.allocations:
            values = 100 * np.array(accuracies[allocation, sparsity])
            cells.append(
                f"{values.mean():.2f} ({values.min():.1f} - {values.max():.1f})"
            )
        print("|", " | ".join(cells), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--allocations", nargs="+", default=["uniform", "erk"])
    parser.add_argument("--sparsities", nargs="+", type=float, default=list(TFMOT))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--frequency", type=int, default=20)
    parser.add_argument("--json", help="file for the single accuracies")
    options = parser.parse_args()
    accuracies = measure(options)
    print_table(accuracies, options)
    if options.json:
        rows = [
            {"allocation": a, "sparsity": s, "accuracies": v}
            for (a, s), v in accuracies.items()
        ]
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()

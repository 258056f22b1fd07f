"""What the floor of `max_sparsity=None` does, beside `max_sparsity=1.0`.

    python benchmarks/floor.py empty
    python benchmarks/floor.py accuracy --seeds 3

`empty` counts the kernels and the outputs without a weight after one update of models
with their initial weights. `accuracy` trains the models of `data.py`: pruned at once
at their initial weights, and gradually from dense weights.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_pruner.pruners import KerasBasePruner

CAPS = {"no floor": 1.0, "floor": None}
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)


def count_empty(names):
    """Returns a table of kernels and outputs without a weight."""
    table = Table("model", "target", *CAPS, title="kernels / outputs without a weight")
    for name in names:
        keras.utils.set_random_seed(0)
        model = getattr(keras.applications, name)(weights=None)
        before = model.get_weights()
        for sparsity in SPARSITIES:
            cells = []
            for cap in CAPS.values():
                config = {"target_sparsity": sparsity, "max_sparsity": cap}
                pruner = KerasBasePruner(config, model)
                pruner.update_masks()
                cells.append(_empty_in(pruner))
                model.set_weights(before)
            table.add_row(name, f"{sparsity:.0%}", *cells)
    return table


def _empty_in(pruner):
    kept = [
        keras.ops.convert_to_numpy(kernel.layout.to_matrix(pruner.masks[kernel.path]))
        for kernel in pruner.kernels
    ]
    kernels = sum(not mask.any() for mask in kept)
    outputs = sum((~mask.any(axis=0)).sum() for mask in kept)
    total = sum(mask.shape[1] for mask in kept)
    return f"{kernels} of {len(kept)} / {outputs / total:.0%}"


def train(tasks, seeds):
    """Returns a table of test accuracies; the caps take turns."""
    from training import Problem

    problems = {name: Problem(name) for name in tasks}
    runs = [(start, s) for start in ("initial, at once", "dense") for s in SPARSITIES]
    found = {}
    for seed in range(seeds):
        for name, problem in problems.items():
            for start, sparsity in runs:
                for cap in CAPS:
                    result = _train_one(problem, start, seed, sparsity, CAPS[cap])
                    found.setdefault((name, start, sparsity, cap), []).append(result)
    table = Table("data", "starts from", "target", *CAPS, title="test accuracy in %")
    for name in tasks:
        for start, sparsity in runs:
            cells = [_spread(found[name, start, sparsity, cap]) for cap in CAPS]
            table.add_row(name, start, f"{sparsity:.0%}", *cells)
    return table


def _train_one(problem, start, seed, sparsity, cap):
    settings = {"max_sparsity": cap}
    if start == "dense":
        model, epochs = problem.dense_model(seed), problem.epochs
    else:
        model, epochs = problem.initial_model(seed), 2 * problem.epochs
        settings |= {"schedule": "constant", "end_step": 0}
    result = problem.prune(model, seed, sparsity, epochs=epochs, **settings)
    return 100 * result.accuracy


def _spread(values):
    return f"{np.mean(values):.1f} ({min(values):.1f} - {max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["empty", "accuracy"])
    parser.add_argument("--models", nargs="+", default=["MobileNetV2", "DenseNet121"])
    parser.add_argument("--data", nargs="+", default=["digits", "mnist"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    if options.what == "empty":
        table = count_empty(options.models)
    else:
        table = train(options.data, options.seeds)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

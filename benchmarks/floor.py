"""Compares the floor of `max_sparsity=None` with `max_sparsity=1.0`, which has none.

    python benchmarks/floor.py empty
    python benchmarks/floor.py accuracy --seeds 3

`empty` counts the kernels and the outputs without a weight if the default ranks the
initial weights of a model. `accuracy` trains the models of `data.py`: pruned at once
at their initial weights, and gradually from dense weights.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from keras_pruner import PruningConfig, find_kernels
from keras_pruner.masks import PruningPlan

CAPS = {"no floor": 1.0, "floor": None}
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)


def count_empty(names):
    """Returns a table of kernels and outputs without a weight."""
    table = Table("model", "target", *CAPS, title="kernels / outputs without a weight")
    for name in names:
        keras.utils.set_random_seed(0)
        kernels = find_kernels(getattr(keras.applications, name)(weights=None)).kernels
        scores = [_scores_of(kernel) for kernel in kernels]
        for sparsity in SPARSITIES:
            cells = []
            for cap in CAPS.values():
                config = PruningConfig(
                    target_sparsity=sparsity, allocation="global_l2", max_sparsity=cap
                )
                demand = PruningPlan(config, kernels).demand(sparsity)
                cells.append(_empty_in(scores, demand))
            table.add_row(name, f"{sparsity:.0%}", *cells)
    return table


def _scores_of(kernel):
    matrix = keras.ops.convert_to_numpy(kernel.layout.to_matrix(kernel.variable))
    return np.abs(matrix) / np.linalg.norm(matrix)


def _empty_in(scores, demand):
    """Ranks with NumPy, which compiles nothing."""
    ordered = [np.sort(score.ravel()) for score in scores]

    def counts(threshold):
        below = [np.searchsorted(o, threshold, side="right") for o in ordered]
        return list(map(min, below, demand.upper))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        is_enough = sum(counts(middle)) >= demand.target
        low, high = (low, middle) if is_enough else (middle, high)
    kernels = outputs = 0
    for score, order, count in zip(scores, ordered, counts(high), strict=True):
        pruned = score <= (order[count - 1] if count else -1)
        kernels += pruned.all()
        outputs += pruned.all(axis=0).sum()
    total = sum(score.shape[1] for score in scores)
    return f"{kernels} of {len(scores)} / {outputs / total:.0%}"


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

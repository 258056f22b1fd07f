"""What `prune_one_shot` needs: how many samples, and seconds a layer by its size.

    python benchmarks/one_shot_costs.py samples
    python benchmarks/one_shot_costs.py layers --sizes 256 512 1024 2048
    python benchmarks/one_shot_costs.py samples layers --smoke

`samples` prunes networks of `one_shot.py` with more and more unlabelled samples. K is
the longest row of a kernel. A dense layer has one row a sample, a convolution one for
each position of its output. `layers` times each method on one dense kernel (K, K) at
80 %, with the statistics known, all methods in turns.
"""

import argparse
import os
import pathlib
import tempfile
from functools import partial

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from keras import ops
from one_shot_networks import TRAINED
from one_shot_runs import network
from one_shot_tables import quality
from timing import interleave

from keras_pruner import find_kernels, prune_one_shot
from keras_pruner.backend import FunctionCache
from keras_pruner.kernels import dense_layout
from keras_pruner.oneshot import METHODS
from keras_pruner.oneshot.problem import KernelProblem
from keras_pruner.oneshot.statistics import Moments

NUMBERS = (16, 32, 64, 128, 256, 512, 1024, 1257)
LAYER_METHODS = ("magnitude", "wanda", "dsnot", "sparsegpt", "admm", "alps")


def measure_samples(options):
    """Prints the accuracy of each network by the number of samples."""
    with tempfile.TemporaryDirectory() as folder:
        for name in options.networks:
            net = network(name, pathlib.Path(folder), 1 if options.smoke else None)
            seeds = range(options.seeds)
            dense = [net.score(net.dense(s), s) | {"sparsity": 0.0} for s in seeds]
            rows = max(k.layout.rows for k in find_kernels(net.dense(0)).kernels)
            print(f"\n{name}, K at most {rows}, dense {quality(dense)}\n")
            head = " | ".join(f"{sparsity:.0%}" for sparsity in options.sparsities)
            print(f"| samples | {head} |")
            print("|---" * (1 + len(options.sparsities)) + "|", flush=True)
            for number in options.numbers:
                cells = [
                    quality([run(net, seed, number, sparsity) for seed in seeds])
                    for sparsity in options.sparsities
                ]
                print(f"| {number} | " + " | ".join(cells) + " |", flush=True)


def run(net, seed, number, sparsity):
    """Returns the score after pruning with a number of samples, as a row."""
    pruned, _ = prune_one_shot(
        net.dense(seed), net.calibration(seed, number), sparsity, num_samples=number,
        seed=seed, check=False, verbose=False,
    )  # fmt: skip
    return net.score(pruned, seed) | {"sparsity": sparsity}


def measure_layers(options):
    """Prints the median seconds of each method by the size of a kernel."""
    print("\n| K = N | " + " | ".join(LAYER_METHODS) + " |")
    print("|---" * (1 + len(LAYER_METHODS)) + "|", flush=True)
    for size in options.sizes:
        asked = problem(size)
        contestants = {name: partial(solve, name, asked) for name in LAYER_METHODS}
        seconds = interleave(contestants, options.rounds)
        cells = (f"{np.median(values):.3g}" for values in seconds.values())
        print(f"| {size} | " + " | ".join(cells) + " |", flush=True)


def solve(method, asked):
    """Solves a problem, and waits for the result."""
    ops.convert_to_numpy(METHODS.get(method).solve(asked).weights)


def problem(size):
    """Returns the problem of a kernel (size, size) whose inputs are correlated."""
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(size, size)) / np.sqrt(size)
    rows = np.maximum(generator.normal(size=(4 * size, size)) @ mixing, 0)
    moments = Moments([range(size)])
    moments.add(rows[None].astype("float32"))
    weights = generator.normal(size=(size, size)).astype("float32")
    count = int(0.8 * size * size)
    return KernelProblem(
        weights, dense_layout((size, size)), [moments], count, dense_target=False,
        call=FunctionCache(),
    )  # fmt: skip


TASKS = {"samples": measure_samples, "layers": measure_layers}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", choices=TASKS)
    parser.add_argument(
        "--networks", nargs="+", default=["mlp", "convnet"], choices=TRAINED
    )
    parser.add_argument("--numbers", nargs="+", type=int, default=NUMBERS)
    parser.add_argument("--sparsities", nargs="+", type=float, default=(0.8, 0.9))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", nargs="+", type=int, default=(256, 512, 1024, 2048))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="a short run, for CI")
    options = parser.parse_args()
    if options.smoke:
        options.networks, options.numbers, options.seeds = ["mlp"], [32], 1
        options.sizes, options.rounds = [64], 1
    for task in options.tasks:
        TASKS[task](options)


if __name__ == "__main__":
    main()

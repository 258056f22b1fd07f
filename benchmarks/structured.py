"""Accuracy of networks whose channels are cut, without labels and in training.

The networks are those of `one_shot_networks.py`, trained on scikit-learn's digits. Each
is cut to shares of its FLOPs. Accuracy is that on the test data, in %.

    python benchmarks/structured.py
    python benchmarks/structured.py --networks resnet --shares 0.5 --seeds 1

Columns:

- norms: `prune_structured` without data,
- data: `prune_structured` from 512 unlabelled samples,
- distilled: the same, with `recovery="distill"`,
- trained: "data", trained on with labels for `--epochs`,
- from scratch: the architecture of "data", trained from initial weights with labels: as
  long as the dense network, and `--epochs` more,
- in fit: the whole network, trained on with labels for `--epochs` with the pattern
  "channel_groups", then `shrink`,
- dense: the whole network,
- longer: the same, trained on with labels for `--epochs`.
"""

import argparse
import os
import pathlib
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from one_shot_runs import Trained

from keras_pruner import PruningCallback, count_flops, prune_structured, shrink

NETWORKS = ("mlp", "convnet", "resnet", "separable", "transformer", "recurrent")
COLUMNS = (
    "norms", "data", "distilled", "trained", "from scratch", "in fit", "dense", "longer"
)  # fmt: skip


def run(network, seed, share, epochs, columns):
    """Returns a dict of the accuracy in each column that is asked for."""
    dense, samples = network.dense(seed), network.calibration(seed)
    found = {"dense": accuracy(network, dense, seed)}

    def cut(**settings):
        return prune_structured(dense, flops=share, verbose=False, **settings)

    if "norms" in columns:
        found["norms"] = accuracy(network, cut()[0], seed)
    if "distilled" in columns:
        smaller, _ = cut(data=samples, recovery="distill")
        found["distilled"] = accuracy(network, smaller, seed)
    if {"data", "trained", "from scratch"} & set(columns):
        smaller, report = cut(data=samples)
        found["data"] = accuracy(network, smaller, seed)
        fresh = keras.models.clone_model(smaller)
        show_costs(network, seed, report)
    if "trained" in columns:
        network.train(smaller, seed, epochs)
        found["trained"] = accuracy(network, smaller, seed)
    if "from scratch" in columns:
        network.train(fresh, seed, network.task.epochs + epochs)
        found["from scratch"] = accuracy(network, fresh, seed)
    if "in fit" in columns:
        found["in fit"] = accuracy(
            network, cut_in_fit(network, seed, share, epochs), seed
        )
    if "longer" in columns:
        network.train(dense, seed, epochs)
        found["longer"] = accuracy(network, dense, seed)
    return {column: found[column] for column in columns}


def accuracy(network, model, seed):
    return 100 * network.score(model, seed)["accuracy"]


def cut_in_fit(network, seed, share, epochs):
    """Returns the network after it lost channels step by step in `fit`."""
    model = network.dense(seed)
    pattern = {"name": "channel_groups", "config": {"cost": "flops"}}
    pruning = PruningCallback(target_sparsity=1 - share, pattern=pattern, verbose=False)
    network.train(model, seed, epochs, [pruning])
    smaller, _ = shrink(model, network.calibration(seed)[:32])
    left = count_flops(smaller).flops / count_flops(model).flops
    print(f"{network.name}, seed {seed}, in fit: {left:.3f} of the FLOPs", flush=True)
    return smaller


def show_costs(network, seed, report):
    before, after = report.costs["flops"]
    parameters = report.costs["parameters"]
    print(
        f"{network.name}, seed {seed}: {after / before:.3f} of the FLOPs, "
        f"{parameters[1] / parameters[0]:.3f} of the parameters, "
        f"{report.seconds:.1f} s",
        flush=True,
    )


def table(results, columns):
    """Prints the median, the lowest and the highest accuracy of all seeds."""
    print("| network | FLOPs | " + " | ".join(columns) + " |")
    print("|---|---" + "|---" * len(columns) + "|")
    for (name, share), runs in results.items():
        cells = []
        for column in columns:
            values = [run[column] for run in runs]
            low, high = min(values), max(values)
            spread = f" ({low:.1f} - {high:.1f})" if len(values) > 1 else ""
            cells.append(f"{statistics.median(values):.1f}{spread}")
        print(f"| {name} | {share:g} | {' | '.join(cells)} |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.25, 0.1])
    parser.add_argument("--columns", nargs="+", default=COLUMNS, choices=COLUMNS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="a short run, for CI")
    arguments = parser.parse_args()
    names, shares, seeds = arguments.networks, arguments.shares, arguments.seeds
    if arguments.smoke:
        names, shares, seeds = ["mlp"], [0.5], 1
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            network = Trained(
                name, pathlib.Path(folder), 3 if arguments.smoke else None
            )
            for share in shares:
                epochs = 2 if arguments.smoke else arguments.epochs
                results[name, share] = [
                    run(network, seed, share, epochs, arguments.columns)
                    for seed in range(seeds)
                ]
    table(results, arguments.columns)


if __name__ == "__main__":
    main()

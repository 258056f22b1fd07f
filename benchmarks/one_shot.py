"""Quality of one-shot pruned networks, beside pruning in training.

Networks that are trained here are in `one_shot_networks.py`, those that come with their
weights in `one_shot_shipped.py`, and methods in `one_shot_methods.py`. A run prunes one
network of one seed by one method to one sparsity, from 512 unlabelled samples.

    python benchmarks/one_shot.py --json results.jsonl
    python benchmarks/one_shot.py --networks mlp --sparsities 0.8 --recovery
    python benchmarks/one_shot.py --sections "Single weights" --methods admm sparsegpt
    python benchmarks/one_shot.py --json results.jsonl --table

Each run is a line of the file. Those in it are not run again, so a stopped benchmark
goes on. For the rows of tensorflow-model-optimization give a Python that has it and
tf-keras by `--tfmot-python`. It needs scikit-learn, and faker for names and text; the
packages mtcnn, lz4 and deepcut are optional, `pip install --no-deps` is enough.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import one_shot_tables
from one_shot_methods import (
    ALL_SPARSITIES,
    METHODS,
    PATTERNS,
    RECOVERIES,
    SECTIONS,
    TFMOT,
    cell_of,
    cells_of,
    dense_cells,
)
from one_shot_networks import TRAINED
from one_shot_runs import EPOCHS, network
from one_shot_shipped import SHIPPED, Missing
from tfmot_runs import tfmot_runs

import keras_pruner

SMOKE = {
    "networks": ["mlp"],
    "sections": ["Single weights", "Patterns", "Further"],
    "methods": ["sparsegpt", "admm", "one-shot, locked"],
    "patterns": ["1x1", "2:4"],
    "sparsities": [0.5, 0.8, 0.98],
    "seeds": 1,
    "epochs": 5,
}


def versions():
    """Returns a dict from packages to versions."""
    found = {"keras_pruner": keras_pruner.__version__, "Keras": keras.__version__}
    for name in (keras.backend.backend(), "scikit-learn", "faker", "mtcnn", "deepcut"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Results:
    """Keeps rows, and appends them to a file if there is one.

    Args:
        path: `pathlib.Path` or `None`.
    """

    def __init__(self, path):
        self._path, self.rows = path, []
        if path and path.exists():
            head, *lines = path.read_text().splitlines()
            own = versions()
            if any(
                own.get(name, each) != each for name, each in json.loads(head).items()
            ):
                raise SystemExit(f"{path} is of {head}, not {json.dumps(own)}")
            self.rows = [json.loads(line) for line in lines]
        elif path:
            self._append(versions())
        self._done = {(row["network"], cell_of(row)) for row in self.rows}

    def has(self, network, cell):
        """Returns whether there is a row of a run."""
        return (network, cell) in self._done

    def add(self, network, cell, found):
        """Adds a row, and returns it."""
        found = {key: found.get(key) for key in one_shot_tables.FOUND}
        row = {"network": network} | dataclasses.asdict(cell) | found
        self.rows.append(row)
        self._done.add((network, cell))
        self._append(row)
        return row

    def _append(self, line):
        if self._path:
            with open(self._path, "a") as file:
                file.write(json.dumps(line) + "\n")


class Benchmark:
    """Makes the runs that are asked for and not yet in the results.

    Args:
        options: As `parse` returns them.
        folder: `pathlib.Path` of a folder for dense weights.

    Attributes:
        results: `Results`.
        notes: List of sentences on what was skipped or failed.
        has_failed: Whether a run of this package failed.
    """

    def __init__(self, options, folder):
        self.options, self._folder = options, folder
        self.results, self.notes = Results(options.json), []
        self.has_failed = False

    def run(self, name):
        """Makes the runs of a network."""
        try:
            net = network(name, self._folder, self.options.epochs)
        except Missing as error:
            self._note(f"{name}: skipped, because {error}")
            return
        for cell in dense_cells(self.options):
            if not self.results.has(name, cell):
                self._add(name, cell, net.score(net.dense(cell.seed), cell.seed))
        cells = [
            cell
            for cell in cells_of(self.options, net.is_trained, net.normalizes)
            if not self.results.has(name, cell)
        ]
        tfmot_cells = [cell for cell in cells if cell.method == TFMOT]
        for cell in cells:
            if cell in tfmot_cells:
                continue
            try:
                self._add(name, cell, net.run(cell))
            except Exception as error:
                # The other runs are still worth their hours.
                self._note(f"{name}, {cell}: {type(error).__name__}: {error}")
                self.has_failed = True
            keras.backend.clear_session()
        if tfmot_cells:
            self._run_tfmot(net, tfmot_cells)

    def _run_tfmot(self, net, cells):
        if not self.options.tfmot_python:
            self._note(f"{net.name}: tfmot skipped, because there is no --tfmot-python")
            return
        names = ("x_train", "x_test", "y_train", "y_test")
        data = {name: getattr(net, name) for name in names}
        dense = {cell.seed: net.dense(cell.seed).get_weights() for cell in cells}
        runs = {(cell.seed, cell.sparsity): cell for cell in cells}
        try:
            for row in tfmot_runs(
                self.options.tfmot_python, net.name, data, dense, list(runs), EPOCHS
            ):
                row["zeros"] = net.zeros_of(row.pop("nonzeros"))
                self._add(net.name, runs[row["seed"], row["sparsity"]], row)
        except RuntimeError as error:
            self._note(f"{net.name}, tfmot: {error}")

    def _add(self, name, cell, found):
        row = self.results.add(name, cell, found)
        print(name, *dataclasses.astuple(cell), one_shot_tables.quality([row]),
              file=sys.stderr, flush=True)  # fmt: skip

    def _note(self, sentence):
        self.notes.append(sentence)
        print(sentence, file=sys.stderr, flush=True)


def parse():
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    networks = [*TRAINED, *SHIPPED]
    parser.add_argument("--networks", nargs="+", default=networks, choices=networks)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS)
    parser.add_argument("--methods", nargs="+", choices=METHODS)
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS)
    parser.add_argument("--sparsities", nargs="+", type=float, choices=ALL_SPARSITIES)
    parser.add_argument("--recovery", nargs="*", choices=RECOVERIES, help="or none")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--epochs", type=int, help="of dense training")
    parser.add_argument("--json", type=pathlib.Path, help="file of the results")
    parser.add_argument("--tfmot-python", help="Python with tfmot and tf-keras")
    parser.add_argument("--table", action="store_true", help="print, and run nothing")
    parser.add_argument("--smoke", action="store_true", help="a short run, for CI")
    options = parser.parse_args()
    if options.smoke:
        for key, value in SMOKE.items():
            setattr(options, key, value)
    return options


def main():
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        if options.json:
            folder = f"{options.json}.weights"
            os.makedirs(folder, exist_ok=True)
        benchmark = Benchmark(options, pathlib.Path(folder))
        for name in options.networks:
            if not options.table:
                benchmark.run(name)
    one_shot_tables.print_tables(benchmark.results.rows, versions())
    one_shot_tables.print_goals(benchmark.results.rows)
    if benchmark.notes:
        print("\nNot run:\n", *(f"- {note}" for note in benchmark.notes), sep="\n")
    sys.exit(benchmark.has_failed)


if __name__ == "__main__":
    main()

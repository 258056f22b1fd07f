"""Every `keras.applications` model and KerasHub backbone: does pruning work with it?

Each is built with random weights for small inputs, pruned to 80 % by `PruningCallback`
in a `fit` of one step, saved in the midst of it, loaded, and stripped; and a copy is
made by `wrap` where its layers can be copied. Each model has a process of its own,
or shares it with a few.
KerasHub is left out where it is not installed: `pip install keras-hub`.

    python benchmarks/models.py --json models.json
    python benchmarks/models.py --only 'ResNet|Bert'
    python benchmarks/models.py --smoke
"""

import argparse
import contextlib
import gc
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import catalogue
import keras
import numpy as np
from keras import ops

import keras_pruner
from keras_pruner import PruningCallback, find_kernels, strip, wrap

TARGET = 0.8
# What a line with a row begins with, among whatever else a process prints.
MARK = "row: "
STEPS = ("finds", "prunes", "trains", "saves", "strips", "wraps")
SMOKE = ("MobileNet", "BertBackbone", "LlamaBackbone")


def random_inputs(model, batch=2, length=8):
    """Returns random inputs of the structure that a model takes."""
    generator = np.random.default_rng(0)

    def values(tensor):
        # A sound needs a few thousand samples.
        length_of = 2048 if tensor.shape[-1] == 1 else length
        sizes = [length_of if size is None else size for size in tensor.shape[1:]]
        shape = (batch, *sizes)
        if tensor.dtype == "bool" or "mask" in tensor.name:
            return np.ones(shape, "bool" if tensor.dtype == "bool" else "int32")
        if "int" in tensor.dtype:
            top = 2 if "segment" in tensor.name else length
            return generator.integers(0, top, shape).astype("int32")
        return generator.random(shape, dtype="float32")

    return keras.tree.map_structure(values, model.input)


def outputs_of(model, inputs):
    return keras.tree.map_structure(ops.convert_to_numpy, model(inputs, training=False))


def worst_difference(first, second):
    """Returns the largest difference of outputs, relative to the largest output."""
    pairs = zip(keras.tree.flatten(first), keras.tree.flatten(second), strict=True)
    return max(
        float(np.max(np.abs(a - b), initial=0) / max(1, np.max(np.abs(a), initial=0)))
        for a, b in ((np.float64(a), np.float64(b)) for a, b in pairs)
    )


def check(condition, message):
    if not condition:
        raise RuntimeError(message)


def shares(model, search):
    """Returns the share of weights in matrix-like kernels that a search reached.

    Matrix-like are all trainable weights with two or more axes longer than one, and no
    biases. They are found without the package's rules.

    Args:
        model: Keras model.
        search: `KernelSearch` with embeddings asked for.

    Returns:
        Tuple of the share without tables of embeddings and the share with them.
    """
    tables = {
        id(variable)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
        for variable in layer.variables
    }
    found = {id(kernel.variable) for kernel in search.kernels}
    counts = {True: [0, 0], False: [0, 0]}
    for variable in model.trainable_variables:
        matrix_like = sum(size > 1 for size in variable.shape) > 1
        reached = id(variable) in found
        if reached or (matrix_like and "bias" not in variable.name):
            size = math.prod(variable.shape)
            counts[id(variable) in tables][0] += size * reached
            counts[id(variable) in tables][1] += size
    (reached, total), (reached_tables, total_tables) = counts[False], counts[True]
    return reached / total, (reached + reached_tables) / (total + total_tables)


class SaveInside(keras.callbacks.Callback):
    """Saves the model while it is pruned, after the only step."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_batch_end(self, batch, logs=None):
        self.model.save(self.path)


def run(name, build, folder):
    """Puts one model through everything.

    Returns:
        Dict of what was measured; `"passed"` lists the steps that worked, and
        `"failure"` says why others did not. Each kind of copy is tried, whatever
        came of the others; the steps before them must have worked.
    """
    row = {"name": name, "passed": [], "failure": None, "differences": {}}
    start = time.perf_counter()
    path = os.path.join(folder, f"{name}.keras")
    with failures_in(row):
        model, inputs = prune(build, path, row)
        result = outputs_of(model, inputs)
        for step in COPIES:
            with failures_in(row):
                compare(step, model, path, inputs, result, row)
            gc.collect()
    if "trains" in row["passed"] and "saves" not in row["passed"]:
        row["dense_difference"] = dense_difference(build, path)
    row["seconds"] = time.perf_counter() - start
    return row


@contextlib.contextmanager
def failures_in(row):
    """Writes an exception into the row, and goes on after the block."""
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        failure = f"{type(error).__name__}: {error}"[:400]
        row["failure"] = "; ".join(filter(None, (row["failure"], failure)))


def prune(build, path, row):
    """Builds a model, prunes it in `fit`, and saves it to `path` in the midst of it.

    Returns:
        Tuple of the pruned model and inputs for it.
    """
    keras.utils.set_random_seed(0)
    model = build()
    row["parameters"] = model.count_params()
    search = find_kernels(model, embeddings=True)
    row["kernels"] = len(find_kernels(model).kernels)
    row["share"], row["share_with_embeddings"] = shares(model, search)
    check(row["share"] >= 0.95, f"only {row['share']:.1%} of the weights are reached")
    row["passed"].append("finds")

    inputs, targets = compile_for_a_step(model)
    pruning = PruningCallback(
        target_sparsity=TARGET, begin_step=1, end_step=1, verbose=False
    )
    # Copies: on TensorFlow the arrays may be the variables themselves.
    before = [np.array(ops.convert_to_numpy(v)) for v in model.trainable_variables]
    model.fit(
        inputs, targets, batch_size=1, verbose=0, callbacks=[pruning, SaveInside(path)]
    )
    (pruner,) = pruning.pruners
    zeros = sum(
        int(np.sum(ops.convert_to_numpy(kernel.variable) == 0))
        for kernel in pruner.kernels
    )
    expected = round(TARGET * pruner.num_weights)
    check(zeros >= expected, f"{zeros} zeros of {expected}")
    check(pruner.num_pruned == expected, f"{pruner.num_pruned} pruned of {expected}")
    row["passed"].append("prunes")
    moved = any(
        np.any((new != old) & (new != 0))
        for old, new in zip(
            before, map(ops.convert_to_numpy, model.trainable_variables), strict=True
        )
    )
    check(moved, "no weight was trained")
    row["passed"].append("trains")

    return model, inputs


def compile_for_a_step(model):
    """Compiles a model; returns inputs and targets for it."""
    inputs = random_inputs(model)
    # Equal targets would have no gradient where a softmax is near to even.
    generator = np.random.default_rng(1)
    targets = keras.tree.map_structure(
        lambda output: generator.random(output.shape, "float32"),
        outputs_of(model, inputs),
    )
    losses = keras.tree.map_structure(lambda output: "mse", targets)
    model.compile("sgd", losses, jit_compile=False)
    return inputs, targets


def dense_difference(build, path):
    """Returns how much the outputs of a model that is never pruned change by saving."""
    keras.utils.set_random_seed(0)
    model = build()
    inputs, targets = compile_for_a_step(model)
    model.fit(inputs, targets, batch_size=1, verbose=0)
    model.save(path)
    loaded = outputs_of(keras.models.load_model(path), inputs)
    return worst_difference(loaded, outputs_of(model, inputs))


def reloaded(model, path):
    """Yields the model as it was saved while pruned."""
    yield keras.models.load_model(path)


def stripped(model, path):
    plain = strip(model)
    check(type(plain) is type(model), f"stripped to a {type(plain).__name__}")
    yield plain


def wrapped(model, path):
    """Yields a wrapped copy, and what stripping makes of that."""
    copy = wrap(model)
    yield copy
    yield strip(copy)


# Step -> function that yields copies of a pruned model, and the share of the largest
# output by which theirs may differ.
COPIES = {
    "saves": (reloaded, 1e-5),
    "strips": (stripped, 1e-6),
    "wraps": (wrapped, 1e-5),
}


def compare(step, model, path, inputs, result, row):
    """Compares the outputs of each copy that a step makes with those of the model."""
    make_copies, limit = COPIES[step]
    differences = row["differences"][step] = []
    for copy in make_copies(model, path):
        differences.append(worst_difference(outputs_of(copy, inputs), result))
        check(differences[-1] < limit, f"{step}: {differences[-1]:.1e}")
    row["passed"].append(step)


def everything():
    """Returns the builders of all models, by name."""
    return catalogue.applications() | catalogue.backbones()


def run_apart(names, limit):
    """Runs models in a process of their own, and yields their rows as they come."""
    command = [sys.executable, __file__, "--rows", *names]
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        timer = threading.Timer(limit * len(names), child.kill)
        timer.start()
        done = set()
        for line in child.stdout:
            if line.startswith(MARK):
                row = json.loads(line.removeprefix(MARK))
                done.add(row["name"])
                yield row
        code = child.wait()
        timer.cancel()
        log.seek(0)
        last = (log.read().strip() or "nothing said").splitlines()[-1]
    failure = f"the process ended with {code}: {last}"[:400]
    for name in names:
        if name not in done:
            yield {"name": name, "passed": [], "failure": failure}


def versions():
    """Says what the rows were made with."""
    names = [f"keras_pruner {keras_pruner.__version__}", f"Keras {keras.__version__}"]
    backend = keras.backend.backend()
    names.append(f"{backend} {importlib.metadata.version(backend)}")
    if "keras_hub" in sys.modules:
        names.append(f"KerasHub {importlib.metadata.version('keras-hub')}")
    return ", ".join([*names, f"Python {platform.python_version()}"])


def works(row):
    """Whether all worked that needs no copy of each layer by itself."""
    return set(STEPS) - set(row["passed"]) <= {"wraps"}


def print_table(rows):
    """Prints the rows as a markdown table, and what failed below it."""
    titles = {
        "finds": "finds kernels",
        "prunes": "prunes to 80 %",
        "trains": "one step",
        "saves": "saves, reloads",
        "strips": "strips",
        "wraps": "wraps",
    }
    header = ["model", "parameters", "kernels", "reached", "with embeddings"]
    header += titles.values()
    print("|", " | ".join(header), "|")
    print("|---" * len(header) + "|")
    for row in rows:
        cells = [row["name"], f"{row['parameters']:,}" if "kernels" in row else "-"]
        cells.append(str(row.get("kernels", "-")))
        for key in ("share", "share_with_embeddings"):
            cells.append(f"{row[key]:.1%}" if key in row else "-")
        cells += ["yes" if step in row["passed"] else "no" for step in STEPS]
        print("|", " | ".join(cells), "|")
    good = [row for row in rows if works(row)]
    wrapped = [row for row in rows if "wraps" in row["passed"]]
    print(f"\n{len(good)} of {len(rows)} models work; {len(wrapped)} can be wrapped.")
    for row in rows:
        if row["failure"]:
            print(f"\n- {row['name']}: {' '.join(row['failure'].split())}")
        if row.get("dense_difference", 0) > COPIES["saves"][1]:
            changed = row["dense_difference"]
            print(f"  Saved without pruning, its outputs change by {changed:.1e}, too.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=".", help="regex that a name must match")
    parser.add_argument("--smoke", action="store_true", help="a few small models")
    parser.add_argument("--json", help="file of rows; those in it are not run again")
    parser.add_argument("--limit", type=float, default=1200, help="seconds a model")
    parser.add_argument("--together", type=int, default=1, help="models a process")
    parser.add_argument("--rows", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    builders = everything()
    if options.rows:
        with tempfile.TemporaryDirectory() as folder:
            for name in options.rows:
                row = run(name, builders[name], folder)
                print(MARK + json.dumps(row), flush=True)
                keras.backend.clear_session()
        return
    names = [name for name in builders if re.search(options.only, name)]
    if options.smoke:
        names = [name for name in SMOKE if name in builders]
    results = {"versions": versions(), "rows": {}}
    path = pathlib.Path(options.json) if options.json else None
    if path and path.exists():
        results = json.loads(path.read_text())
        if results["versions"] != versions():
            parser.error(f"{path} is of {results['versions']}, not {versions()}")
    missing = [name for name in names if name not in results["rows"]]
    for number in range(0, len(missing), options.together):
        chunk = missing[number : number + options.together]
        for row in run_apart(chunk, options.limit):
            results["rows"][row["name"]] = row
            print(row["name"], row["passed"], file=sys.stderr, flush=True)
            if path:
                path.write_text(json.dumps(results, indent=1))
    rows = [results["rows"][name] for name in names]
    print(f"{results['versions']}\n")
    print_table(rows)
    if not all(map(works, rows)):
        sys.exit(1)


if __name__ == "__main__":
    main()

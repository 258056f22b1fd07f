"""Exports pruned models, and times the files of dense and pruned models in turns.

    python benchmarks/export.py engines --models mlp --patterns 1x4 --sparsities 0.9
    python benchmarks/export.py shipped --networks mtcnn_rnet

`engines` prunes models by magnitude, each kernel by as much, and prints a line for each
model, pattern, sparsity, engine and batch size: bytes of the file, the share of the
bytes of the dense model's file in the same format, the time of a call as a share of the
dense model's (median and quartiles over the rounds), and the largest difference of the
file's outputs from the pruned model's, as a share of the largest output.

`shipped` takes networks with their trained weights; see `one_shot_shipped.py`. Each is
inspected, pruned in one shot (80 % of the weights, or channels down to half the FLOPs),
shrunk, and exported to each format. Its score is the share of right answers, or of the
answers of the dense network where there are no labels.
"""

import argparse
import os
import tempfile

import keras
import numpy as np
from keras import layers
from one_shot_shipped import SHIPPED, Missing

from keras_pruner import (
    EXPORTERS,
    ChannelGraph,
    export,
    find_kernels,
    measure,
    prune_one_shot,
    prune_structured,
    shrink,
)

_FORMATS = ("litert", "onnx", "openvino", "saved_model", "keras")
# The engine of `measure` that runs files of a format.
_ENGINES = {"litert": "litert", "onnx": "onnxruntime", "openvino": "openvino"}


def mlp():
    """Returns three dense layers of 2,048 units."""
    return _chain((2048,), [layers.Dense(2048, activation="relu") for _ in range(3)])


def small():
    """Returns an MLP of 512, 1,024, 1,024 and 16 units."""
    widths = (layers.Dense(1024, activation="relu") for _ in range(2))
    return _chain((512,), [*widths, layers.Dense(16)])


def conv():
    """Returns a ConvNet for 32 x 32 images."""
    parts = []
    for filters in (32, 64, 128):
        parts += [layers.Conv2D(filters, 3, padding="same", activation="relu")]
        parts += [layers.MaxPooling2D()]
    dense = [layers.Dense(256, activation="relu"), layers.Dense(16)]
    return _chain((32, 32, 4), [*parts, layers.Flatten(), *dense])


def _chain(shape, parts):
    return keras.Sequential([keras.Input(shape), *parts])


MODELS = {"mlp": mlp, "small": small, "conv": conv}


def samples_of(model, number=64):
    shape = (number, *model.input_shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def pruned_by_magnitude(model, pattern, sparsity):
    settings = {"pattern": pattern, "allocation": "uniform", "verbose": False}
    pruned, _ = prune_one_shot(
        model, samples_of(model), sparsity, method="magnitude", **settings
    )
    return pruned


def print_row(cells):
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def print_head(names):
    print_row(names)
    print("|" + "---|" * len(names), flush=True)


def runnable(formats):
    """Returns those of some formats that can be exported here; prints the others."""
    found = []
    for name in formats:
        problem = EXPORTERS.get(name).problem()
        if problem is None:
            found.append(name)
        else:
            print(f"{name}: {problem}")
    return found


def exported(model, name, samples, **options):
    """Returns the `ExportReport` of a file that is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"model{EXPORTERS.get(name).suffix}")
        return export(model, path, name, sample_inputs=samples, strip=False, **options)


def ratio(dense, pruned, name, samples, batch_size, rounds):
    """Returns the time of a call as a share of the dense model's, as text."""
    found = measure(
        dense,
        pruned,
        data=samples,
        engines=_ENGINES[name],
        batch_size=batch_size,
        rounds=rounds,
    )
    (row,) = found.rows()
    if row["reason"] is not None:
        return row["reason"], "-"
    low, high = row["ratio_quartiles"]
    text = f"{row['ratio']:.3f} ({low:.3f} - {high:.3f})"
    return text, f"{row['cpu_ratio']:.3f}"


def engines(arguments):
    formats = runnable(arguments.formats)
    print_head(
        "model pattern sparsity format bytes dense_bytes share batch time "
        "CPU_time difference".replace("_", "\u00a0").split(" ")
    )
    for model_name in arguments.models:
        keras.utils.set_random_seed(0)
        dense = MODELS[model_name]()
        samples = samples_of(dense, 8)
        before = {name: exported(dense, name, samples) for name in formats}
        for pattern in arguments.patterns:
            for sparsity in arguments.sparsities:
                pruned = pruned_by_magnitude(dense, pattern, sparsity)
                for name in formats:
                    report = exported(pruned, name, samples)
                    first = (model_name, pattern, f"{sparsity:.0%}", name)
                    whole = before[name].bytes_after
                    sizes = (f"{report.bytes_after:,}", f"{whole:,}")
                    share = f"{report.bytes_after / whole:.3f}"
                    for batch in arguments.batch if name in _ENGINES else [None]:
                        times = ("-", "-")
                        if batch is not None:
                            times = ratio(
                                dense, pruned, name, samples, batch, arguments.rounds
                            )
                        last = f"{report.relative_difference:.1e}"
                        print_row([*first, *sizes, share, batch or "-", *times, last])


def score_of(model, inputs, labels, dense):
    """Returns a share: of right answers, or of the dense network's without labels."""
    outputs = model.predict(inputs, verbose=0)
    last = outputs[-1] if isinstance(outputs, list) else outputs
    if labels is not None:
        return float(np.mean((last[:, 0] > 0.5) == labels))
    answers = dense.predict(inputs, verbose=0)[-1].argmax(axis=1)
    return float(np.mean(last.argmax(axis=1) == answers))


def zeros_of(dense, inputs, samples, share, allocation):
    """Returns a network with zeros, and what `shrink` leaves of it."""
    pruned, report = prune_one_shot(
        dense, inputs, share, allocation=allocation, verbose=False
    )
    smaller, shrunk = shrink(pruned, samples)
    return pruned, smaller, [report.headline, shrunk.headline, shrunk.verification]


def cut_of(dense, inputs, samples, share, _allocation):
    """Returns a network without some channels, and what `shrink` leaves of it."""
    cut, report = prune_structured(dense, flops=1 - share, data=inputs, verbose=False)
    smaller, shrunk = shrink(cut, samples)
    return cut, smaller, [report.headline, shrunk.headline, shrunk.verification]


ROUTES = {"zeros": zeros_of, "channels": cut_of}


def shipped(arguments):
    formats = runnable(arguments.formats)
    for name in arguments.networks:
        build, load = SHIPPED[name]
        try:
            dense = build()
            calibration, test, labels = load(dense, 0)
        except Missing as missing:
            print(f"{name}: {missing}")
            continue
        samples = keras.tree.map_structure(lambda x: x[:8], calibration)
        if isinstance(samples, tuple):
            samples, test = list(samples), list(test)
        kernels, graph = find_kernels(dense).kernels, ChannelGraph(dense, samples)
        whole = exported(dense, "keras", samples, compression="stored").bytes_after
        print(
            f"\n{name}: {dense.count_params():,} parameters, {len(kernels)} kernels, "
            f"{len(graph.groups)} groups of channels; {whole:,} bytes of .keras"
        )
        for route in arguments.routes:
            share = {"zeros": 0.8, "channels": 0.5}[route]
            pruned, smaller, lines = ROUTES[route](
                dense, calibration, samples, share, arguments.allocation
            )
            print(f"\n{route}, {share:.0%}:", *lines, sep="\n")
            models = {"dense": dense, "pruned": pruned, "shrunk": smaller}
            scores = [
                f"{key} {score_of(model, test, labels, dense):.1%}"
                for key, model in models.items()
            ]
            print(f"score: {', '.join(scores)}\n")
            shipped_files(dense, smaller, samples, formats, whole, arguments)


def shipped_files(dense, smaller, samples, formats, whole, arguments):
    """Prints a line for each file of a smaller network."""
    print_head("format bytes share batch time CPU_time difference".split(" "))
    for format in formats:
        try:
            found = exported(smaller, format, samples)
        except ValueError as error:
            print_row([format, error, *["-"] * 5])
            continue
        sizes = (f"{found.bytes_after:,}", f"{found.bytes_after / whole:.3f}")
        for batch in arguments.batch if format in _ENGINES else [None]:
            times = ("-", "-")
            if batch is not None:
                settings = (samples, batch, arguments.rounds)
                times = ratio(dense, smaller, format, *settings)
            last = f"{found.relative_difference:.1e}"
            print_row([format, *sizes, batch or "-", *times, last])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("engines", help="models x patterns x sparsities x files")
    one.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    one.add_argument("--patterns", nargs="+", default=["1x4", "4x1", "1x1"])
    one.add_argument("--sparsities", type=float, nargs="+", default=[0.9])
    one.set_defaults(run=engines)
    two = commands.add_parser("shipped", help="networks with trained weights")
    two.add_argument("--networks", nargs="+", default=list(SHIPPED), choices=SHIPPED)
    two.add_argument("--routes", nargs="+", default=list(ROUTES), choices=ROUTES)
    two.add_argument("--allocation", help="of `prune_one_shot`")
    two.set_defaults(run=shipped)
    for command in (one, two):
        command.add_argument("--formats", nargs="+", default=_FORMATS)
        command.add_argument("--batch", type=int, nargs="+", default=[1])
        command.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()

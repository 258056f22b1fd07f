"""Cuts channels out of random graphs of layers, and looks for one that is not exact.

    KERAS_BACKEND=jax python benchmarks/random_graphs.py 1000
    python benchmarks/random_graphs.py 1000 --first 500 --every 10

The graphs are those of `tests/slimming/test_random_models.py`: convolutions of all
kinds, normalizations, gates, splits, joins, recurrent layers and attention. A random
share of the channels of each group is cut out. The smaller model must compute what the
model with zeros in their place does, and have as many parameters as the graph says.
Every n-th model with zeros goes through `shrink` too, which must find at least these.

On JAX the classes of channels are also compared with those that rules for the
primitives of the model's jaxpr find (`tests/channels/jaxpr_labels.py`). Each class must
be one of these, or several: rules of layers let both directions of Bidirectional, and
keys and values, lose units together, and leave no positions out that were repeated. The
rule for a mean of squares knows zeros, which no primitive shows.

It prints each seed that fails, and at last a summary.
"""

import argparse
import gc
import math
import pathlib
import sys
import time

import keras
import numpy as np

TESTS = pathlib.Path(__file__).parent.parent / "tests"
sys.path += [str(TESTS / name) for name in ("", "channels", "slimming")]

from models_to_cut import removed_half, with_zeros  # noqa: E402
from test_random_models import RandomModel  # noqa: E402

from keras_pruner import shrink  # noqa: E402
from keras_pruner.backend import all_layers  # noqa: E402
from keras_pruner.channels import ChannelGraph  # noqa: E402
from keras_pruner.slimming import cut, verify  # noqa: E402
from keras_pruner.slimming.cutting.part import Part  # noqa: E402

_COARSER = (
    keras.layers.Bidirectional,
    keras.layers.MultiHeadAttention,
    keras.layers.UpSampling2D,
)


def compare_classes(model, graph):
    """Raises an error if the jaxpr of a model has other classes than its graph."""
    from jaxpr_labels import classes_by_jaxpr, classes_of

    if any(isinstance(x, keras.layers.RMSNormalization) for x in all_layers(model)):
        return
    inputs = np.zeros((1, *model.input_shape[1:]), model.inputs[0].dtype)
    ours, theirs = classes_of(graph), classes_by_jaxpr(model, inputs)
    wrong = [
        each
        for each in ours - theirs
        if frozenset().union(*(fine for fine in theirs if fine <= each)) != each
    ]
    if not any(isinstance(layer, _COARSER) for layer in all_layers(model)):
        wrong += theirs - ours
    if wrong:
        raise ValueError(f"{len(wrong)} classes differ, e.g. {sorted(wrong[0])[:4]}")


def cut_one(seed, shrinks):
    """Cuts a random model; returns the relative difference, or raises an error."""
    model = RandomModel(seed).model
    graph = ChannelGraph(model)
    if keras.backend.backend() == "jax":
        compare_classes(model, graph)
    share = np.random.default_rng(seed).uniform(0.1, 0.9)
    kept = graph.kept(removed_half(graph, seed, share))
    smaller = cut(model, graph, kept)
    zeros, part = with_zeros(model, kept), Part(kept)
    result = verify(model, smaller, values=zeros)
    sizes = [math.prod(part.shape_of(v)) for v in model.variables if "float" in v.dtype]
    made = sum(math.prod(v.shape) for v in smaller.variables if "float" in v.dtype)
    if made != sum(sizes):
        raise ValueError(f"{made} parameters are left instead of {sum(sizes)}")
    if shrinks:
        for variable, value in zeros:
            variable.assign(value)
        _, report = shrink(model)
        if report.parameters_after > made:
            raise ValueError(f"`shrink` leaves {report.parameters_after}, not {made}")
    precise = result.in_float64
    return result.relative_difference if precise is None else precise


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int, help="how many graphs")
    parser.add_argument("--first", type=int, default=0, help="seed of the first")
    parser.add_argument("--every", type=int, default=10, help="of these one is shrunk")
    arguments = parser.parse_args()
    start, worst, failed = time.process_time(), 0.0, []
    seeds = range(arguments.first, arguments.first + arguments.number)
    for number, seed in enumerate(seeds, 1):
        try:
            worst = max(worst, cut_one(seed, seed % arguments.every == 0))
        except Exception as error:
            failed.append(seed)
            print(f"seed {seed}: {' '.join(str(error).split())}", flush=True)
        if number % 25 == 0:
            print(f"{number} graphs, {time.process_time() - start:.0f} s", flush=True)
            keras.backend.clear_session()
            gc.collect()
    print(
        f"{len(seeds)} graphs on {keras.backend.backend()}: {len(failed)} failed; the "
        f"largest relative difference of the others is {worst:.1e}."
    )


if __name__ == "__main__":
    main()

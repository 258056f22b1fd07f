"""Cuts half of every group of channels out of models, and checks the result.

    python benchmarks/slimming.py MobileNetV2 BertBackbone
    python benchmarks/slimming.py applications
    python benchmarks/slimming.py hub

`hub` are the backbones of KerasHub, with small sizes. Biases are random, and
BatchNormalization has the statistics of random images, so that outputs depend on every
channel and on the inputs. The models have no softmax, which would hide differences.
Groups that a model cannot be made smaller by stay whole, and are listed below the
table with the reason. `cuttable` is the share of the parameters in variables that a
group lies on. `varies` tells how far outputs vary over inputs. Each smaller model is
compared with the model in which the channels are zero, and with the model itself
(`uncut`), from which it must differ. Then it is saved and loaded; `weights` means that
its config has old sizes, so that only its weights can be.
"""

import argparse
import gc
import inspect
import math
import os
import tempfile
import time
from itertools import compress

import keras
import numpy as np
from catalogue import backbones
from keras import ops

from keras_pruner.backend import all_layers, trainables_in
from keras_pruner.channels import ChannelGraph
from keras_pruner.comparison import compare_models, outputs_of, runnable_inputs
from keras_pruner.reporting import count_flops
from keras_pruner.slimming import cut, refused_groups, verify

_HEAD = (
    "model", "parameters", "cuttable", "left", "FLOPs", "left", "differs", "float64",
    "uncut", "varies", "seconds", "file", "groups", "whole",
)  # fmt: skip


def applications():
    """Returns a dict from the names of the models of `keras.applications`."""
    modules = [keras.applications, *vars(keras.applications).values()]
    return {
        name: function
        for module in filter(inspect.ismodule, modules)
        for name, function in sorted(vars(module).items())
        if inspect.isfunction(function) and name[0].isupper()
    }


def build(name, size):
    """Returns a small model with random biases and statistics, and its inputs."""
    keras.utils.set_random_seed(0)
    if name in applications():
        model, inputs = build_application(name, size)
    else:
        model = backbones()[name]()
        inputs = inputs_of(model)
    generator = np.random.default_rng(0)
    layers = all_layers(model)
    for layer in layers:
        # The state of this layer is computed from its variables when it is built.
        if isinstance(layer, keras.layers.Normalization):
            continue
        for variable in trainables_in(layer):
            value = ops.convert_to_numpy(variable)
            if value.ndim == 1:
                variable.assign(value + generator.normal(0, 0.2, value.shape))
    norms = [x for x in layers if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        model(inputs, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model, inputs


def build_application(name, size):
    is_fixed = name in ("NASNetLarge", "NASNetMobile")
    small = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
    size = 32 if is_fixed else max(size, small.get(name, 0))
    kwargs = {"weights": None, "classes": 10, "input_shape": (size, size, 3)}
    kwargs["classifier_activation"] = None
    if "MobileNetV3" in name or "EfficientNetV2" in name or "ConvNeXt" in name:
        kwargs["include_preprocessing"] = True
    images = np.random.default_rng(1).uniform(0, 255, (4, size, size, 3))
    return applications()[name](**kwargs), images.astype("float32")


def inputs_of(model, batch=4, length=8, samples=16384):
    """Returns random inputs of a backbone: images, sounds, tokens and their masks."""
    generator = np.random.default_rng(1)

    def one(name, tensor):
        rank = len(tensor.shape)
        open_size = samples if "encoder_input_values" in name else length
        if "padding_mask" in name and "encoder_padding_mask" in model.input:
            is_sound = "encoder_input_values" in model.input
            open_size = samples if is_sound and "encoder" in name else length
        shape = [batch] + [open_size if s is None else s for s in tensor.shape[1:]]
        if "mask" in name:
            array = np.ones(shape)
            if rank == 2:
                array[0, -1] = 0
        elif "float" not in tensor.dtype:
            array = generator.integers(0, 2 if "segment" in name else 40, shape)
        else:
            array = generator.normal(size=shape)
        return ops.convert_to_tensor(array, dtype=tensor.dtype)

    inputs = model.input
    if isinstance(inputs, dict):
        return {name: one(name, tensor) for name, tensor in inputs.items()}
    return one(model.inputs[0].name, inputs)


def zeroed(model, kept):
    """Returns pairs of a variable and its value with zeros in place of what goes."""
    pairs = []
    for variable in model.trainable_variables:
        indices = kept.indices(variable)
        if all(one is None for one in indices):
            continue
        value = ops.convert_to_numpy(variable).copy()
        for axis, one in enumerate(indices):
            if one is not None:
                gone = np.setdiff1d(np.arange(value.shape[axis]), one)
                np.moveaxis(value, axis, 0)[gone] = 0
        pairs.append((variable, value))
    return pairs


def half_of(groups, share=0.5):
    """Returns a random half of the channels of each group."""
    generator = np.random.default_rng(0)
    return {
        group.name: generator.choice(group.size, int(group.size * share), replace=False)
        for group in groups
        if int(group.size * share)
    }


def share_of(graph, groups):
    """Returns the share of the parameters in variables on which the groups lie."""
    touched = {id(m.variable): m.variable for g in groups for m in g.members}
    sizes = [math.prod(v.shape) for v in graph.variables.values()]
    return sum(math.prod(v.shape) for v in touched.values()) / sum(sizes)


def saved_and_loaded(model, inputs):
    """Returns whether a model computes the same after it is saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "smaller.keras")
        try:
            model.save(path)
            loaded = keras.models.load_model(path)
        except Exception:
            # A config has the old sizes. Then the weights must load into the model.
            return _weights_loaded(model, os.path.join(folder, "smaller.weights.h5"))
        difference = compare_models(model, loaded, inputs).difference
    return "equal" if difference == 0 else f"differs by {difference:.1e}"


def _weights_loaded(model, path):
    """Returns "weights" if all weights come back from a file."""
    before = model.get_weights()
    model.save_weights(path)
    model.set_weights([np.zeros_like(value) for value in before])
    model.load_weights(path)
    pairs = zip(before, model.get_weights(), strict=True)
    return "weights" if all(np.array_equal(*pair) for pair in pairs) else "lost"


def row_of(name, size, uniform=False):
    """Cuts a model by half; returns the cells of its row, and why groups stay."""
    start = time.perf_counter()
    model, inputs = build(name, size)
    graph = ChannelGraph(model, inputs)
    refused = refused_groups(model, graph, graph.groups, uniform)
    groups = [group for group in graph.groups if group.name not in refused]
    if not groups:
        reasons = [*refused.values(), *(pin.reason for pin in graph.pins)]
        raise ValueError(f"no channel can be cut: {reasons[0]}")
    kept = graph.kept(half_of(groups))
    smaller = cut(model, graph, kept, uniform=uniform)
    result = verify(model, smaller, inputs, zeroed(model, kept))
    arguments, expected, _ = runnable_inputs(model, inputs)
    made = outputs_of(smaller, arguments)
    floats = [array.dtype.kind == "f" for array in made]
    made, expected = (list(compress(x, floats)) for x in (made, expected))
    pairs = list(zip(expected, made, strict=True))
    uncut = max(np.abs(x - y).max() / np.abs(x).max() for x, y in pairs)
    varies = min(np.abs(y - y.mean(axis=0)).max() / np.abs(y).max() for y in made)
    flops = [count_flops(one, inputs).flops for one in (model, smaller)]
    cells = (
        name,
        f"{model.count_params():,}",
        f"{share_of(graph, groups):.0%}",
        f"{smaller.count_params() / model.count_params():.1%}",
        f"{flops[0] / 1e6:.3g} M",
        f"{flops[1] / flops[0]:.1%}",
        f"{result.relative_difference:.1e}",
        "-" if result.in_float64 is None else f"{result.in_float64:.1e}",
        f"{uncut:.1e}",
        f"{varies:.1e}",
        f"{time.perf_counter() - start:.0f}",
        saved_and_loaded(smaller, inputs),
        f"{len(graph.groups)}",
        f"{len(refused)}",
    )
    return cells, refused


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="names, `applications` or `hub`")
    parser.add_argument("--size", type=int, default=64, help="height of the images")
    parser.add_argument(
        "--uniform", action="store_true", help="from the own configs of models"
    )
    arguments = parser.parse_args()
    lists = {"applications": sorted(applications()), "hub": list(backbones())}
    names = [name for one in arguments.models for name in lists.get(one, [one])]
    print("| " + " | ".join(_HEAD) + " |\n" + "|---" * len(_HEAD) + "|", flush=True)
    whole = {}
    for name in names:
        try:
            cells, whole[name] = row_of(name, arguments.size, arguments.uniform)
        except Exception as error:
            text = " ".join(str(error).split())
            cells = (name, f"refused: {text}", *[""] * (len(_HEAD) - 2))
        print("| " + " | ".join(cells) + " |", flush=True)
        keras.backend.clear_session()
        gc.collect()
    for name, reasons in whole.items():
        for group, reason in reasons.items():
            print(f"{name}: {group}: {' '.join(reason.split())}")


if __name__ == "__main__":
    main()

"""Prunes under `keras.distribution` and prints as JSON what came out.

JAX takes the number of its devices before it starts, so `test_devices.py` runs this in
a process of its own, with `--xla_force_host_platform_device_count=4` in `XLA_FLAGS`.
"""

import json
import zlib

import jax
import keras
import numpy as np

from keras_pruner import KerasBasePruner, PruningCallback
from keras_pruner.masks import variable_of

# Small enough to train to the last bit alike; and larger than a sample of their scores.
SMALL, LARGE = (16, 8, 12), (256, 512, 260)
SCHEDULE = {"begin_step": 1, "end_step": 3, "frequency": 1}
# In `fit`; its memory has another shape than the kernel.
TRAINED = {"channels": {"criterion": "block_mask", "pattern": "channelx1"}}
# In `fit`, with masks of one bit, which are not divided.
PACKED = {"mask_bits": 1}
# Once, from the weights: settings, and whether these are as large as each other, so
# that ties are cut.
UPDATED = {
    "joint": ({}, False),
    "ties": ({"allocation": "uniform"}, True),
    "blocks": ({"pattern": "4x4"}, False),
}


def distributions():
    """No distribution; copies; and kernels that are divided by columns and by rows."""
    devices = keras.distribution.list_devices()
    mesh = keras.distribution.DeviceMesh((2, 2), ["batch", "model"], devices)
    layout_map = keras.distribution.LayoutMap(mesh)
    # They match the names of masks and states, too, also of those of other shapes.
    layout_map[".*by_columns.kernel.*"] = (None, "model")
    layout_map[".*by_rows.kernel.*"] = ("model", None)
    return {
        "none": None,
        "data": keras.distribution.DataParallel(devices=devices),
        "model": keras.distribution.ModelParallel(
            layout_map=layout_map, batch_dim_name="batch"
        ),
    }


def build_model(sizes, tied=False):
    keras.utils.set_random_seed(0)
    features, hidden, wide = sizes
    model = keras.Sequential(
        [
            keras.layers.Input((features,)),
            keras.layers.Dense(hidden, activation="relu", name="by_columns"),
            keras.layers.Dense(wide, activation="relu", name="by_rows"),
            keras.layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    for layer in model.layers if tied else ():
        layer.kernel.assign(0.125 * np.sign(layer.kernel))
    return model


def train(settings):
    generator = np.random.default_rng(0)
    x = generator.random((32, SMALL[0])).astype("float32")
    y = generator.integers(0, 3, 32)
    model = build_model(SMALL)
    model.compile("adam", "sparse_categorical_crossentropy")
    settings = {"target_sparsity": 0.75} | SCHEDULE | settings
    callback = PruningCallback(settings, verbose=False)
    model.fit(x, y, 8, verbose=0, shuffle=False, callbacks=[callback])
    return result_of(callback.pruners[0])


def refusal(settings):
    """The message of a pruner that is refused."""
    try:
        KerasBasePruner(settings, build_model(SMALL))
    except ValueError as error:
        return str(error)
    return "not refused"


def update(settings, tied):
    model = build_model(LARGE, tied)
    pruner = KerasBasePruner({"target_sparsity": 0.75} | settings, model)
    pruner.update_masks()
    return result_of(pruner)


def result_of(pruner):
    masks = pruner.mask_variables
    variables = {
        f"{kernel.path}/{name}": variable
        for kernel in pruner.kernels
        for name, variable in {
            "kernel": kernel.variable,
            "mask": masks[kernel.path],
            **pruner.state_variables[kernel.path],
        }.items()
    }
    variables = {name: variable_of(v) for name, v in variables.items()}
    return {
        "masks": {path: digest(mask) for path, mask in masks.items()},
        "pruned": pruner.num_pruned,
        "zeros": sum(int(np.sum(np.asarray(k.variable) == 0)) for k in pruner.kernels),
        "layouts": {name: axes(variable) for name, variable in variables.items()},
    }


def digest(mask):
    """What tells a mask from another: a checksum of its bits."""
    return zlib.crc32(np.packbits(np.asarray(mask)).tobytes())


def axes(variable):
    """Over which axes of the mesh a variable is divided."""
    return list(getattr(variable.value.sharding, "spec", ()))


if __name__ == "__main__":
    found = {"devices": jax.device_count()}
    for name, distribution in distributions().items():
        keras.distribution.set_distribution(distribution)
        for case, settings in TRAINED.items():
            found[f"{case}/{name}"] = train(settings)
        if name == "model":
            refused = refusal(PACKED)
        else:
            found[f"packed/{name}"] = train(PACKED)
        for case, arguments in UPDATED.items() if name != "data" else ():
            found[f"{case}/{name}"] = update(*arguments)
    print(json.dumps(found | {"refused": refused}))

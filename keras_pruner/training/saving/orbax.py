"""Checks the files of `keras.callbacks.OrbaxCheckpoint` before values are assigned.

Keras finds variables in such a folder by their paths, and skips those that it does not
find. So a model whose layers have other names would keep its new weights, without a
warning.
"""

import json
import os

import numpy as np

# A run can continue without these.
_OPTIONAL = "metrics_variables"


def is_orbax(filepath):
    """Returns whether a path is a folder of steps, as Orbax writes it."""
    folder = str(filepath)
    return os.path.isdir(folder) and any(
        name.isdigit() and os.path.isdir(os.path.join(folder, name))
        for name in os.listdir(folder)
    )


def check_tree(model, filepath):
    """Raises an error if the latest step in a folder does not fit a model.

    Args:
        model: Built and compiled Keras model.
        filepath: Folder of steps.

    Raises:
        ValueError: If a variable is missing, superfluous or has another shape; the
            message names the first.
    """
    found = _orbax().pytree_metadata(_latest(filepath), checkpointable_name="pytree")
    saved = _flat(found.metadata)
    here = _flat(model.get_state_tree(value_format="numpy_array"))
    for path, shape in here.items():
        if path not in saved:
            raise _misfit(filepath, f"it has no '{path}'")
        if saved[path] != shape:
            raise _misfit(
                filepath, f"'{path}' has shape {saved[path]} in it, and {shape} here"
            )
    extra = next((path for path in saved if path not in here), None)
    if extra is not None:
        raise _misfit(filepath, f"it has '{extra}', which is not kept here")


def optimizer_config(filepath):
    """Returns the config of the optimizer that the latest step was saved with.

    Returns:
        Dict; empty if the model was not compiled or has no config.
    """
    found = _orbax().load_checkpointables(_latest(filepath), {"model_config": None})
    config = json.loads(found["model_config"]["config"])
    optimizer = (config.get("compile_config") or {}).get("optimizer")
    return optimizer["config"] if isinstance(optimizer, dict) else {}


def _orbax():
    from orbax import checkpoint

    # The interface that Keras uses.
    return checkpoint.v1


def _latest(filepath):
    steps = [int(name) for name in os.listdir(filepath) if name.isdigit()]
    return os.path.join(filepath, str(max(steps)))


def _flat(tree, prefix=""):
    """Returns a dict from path to shape. A scalar may be a number without a shape."""
    shapes = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict):
            if path != _OPTIONAL:
                shapes |= _flat(value, f"{path}/")
        else:
            shapes[path] = tuple(getattr(value, "shape", np.shape(value)) or ())
    return shapes


def _misfit(filepath, reason):
    return ValueError(
        f"The checkpoint '{filepath}' does not fit the model: {reason}. Orbax finds "
        "variables by their paths: make the model as it was made when it was saved, "
        "with names for its layers, and prune it by the same config. Nothing was "
        "assigned."
    )

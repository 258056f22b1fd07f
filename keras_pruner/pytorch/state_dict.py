"""Saves and loads pruners of torch modules as plain tensors, without code."""

import keras
import numpy as np
from keras import ops

from keras_pruner.masks import (
    check_provenance,
    check_variables,
    read_state,
    write_state,
)

_OWNER = "this module and pruning config"

_COUNTS = ("global_step", "updated_at")


def state_of(pruners):
    """Returns the state of several `KerasBasePruner`s.

    Args:
        pruners: List of the pruners.

    Returns:
        Dict from names to CPU tensors; see `write_state`.
    """
    store = {}
    masks = {name: mask for name, (mask, _) in _masks(pruners).items()}
    known = _counts(pruners) | _states(pruners)
    arrays = {name: array for name, (array, _) in known.items()}
    write_state(store, {"meanings": _meanings(pruners)}, masks, arrays)
    return {name: _as_tensor(array) for name, array in store.items()}


def load_state(pruners, state, optimizer=None):
    """Loads the values of `state_of`; checks all of them before it assigns any.

    Args:
        pruners: List of `KerasBasePruner`s.
        state: Dict.
        optimizer: `OptimizerSlots` of the optimizer in use, or `None`.

    Raises:
        ValueError: If the state is damaged, or of other kernels, another pattern,
            criterion or pruner; the message names the first difference.
        TypeError: If the state is no dict.
    """
    if not isinstance(state, dict):
        raise TypeError(
            f"A state is a dict, as `state_dict` returns it. Received: {state!r}"
        )
    store = {name: ops.convert_to_numpy(value) for name, value in state.items()}
    description, masks, arrays = read_state(store, _OWNER)
    check_variables(masks, _masks(pruners), _OWNER)
    check_provenance(
        {path: {"path": path} | made for path, made in _meanings(pruners).items()},
        description["meanings"],
        _OWNER,
        "Use the same config.",
    )

    check_variables(arrays, _counts(pruners) | _states(pruners), _OWNER)
    for known, values in (_masks(pruners), masks), (_states(pruners), arrays):
        for name, (variable, _) in known.items():
            variable.assign(values[name])
    for number, pruner in enumerate(pruners):
        counts = [int(arrays[f"{key}_{number}"]) for key in _COUNTS]
        _set_counts(pruner, *counts, optimizer)
        pruner.refresh()
        pruner.apply_masks()


def _masks(pruners):
    """Returns a dict from the name of a mask to its variable and its description."""
    return {
        f"mask_{number}_{path}": (mask, f"mask of kernel '{path}'")
        for number, pruner in enumerate(pruners)
        for path, mask in pruner.mask_variables.items()
    }


def _counts(pruners):
    """Returns a dict from the name of a count to its value and its description."""
    return {
        f"{key}_{number}": (np.int64(getattr(pruner, key)), f"{key} of pruner {number}")
        for number, pruner in enumerate(pruners)
        for key in _COUNTS
    }


def _states(pruners):
    """Returns a dict from the name of a state to its variable and its description."""
    found = {}
    for number, pruner in enumerate(pruners):
        for path, states in pruner.state_variables.items():
            for key, state in states.items():
                words = f"state '{key}' of kernel '{path}'"
                found[f"state_{number}_{path}_{key}"] = state, words
        for index, (_, states) in enumerate(pruner.extra_states()):
            for key, state in states.items():
                words = f"state '{key}' of parameter {index} without a mask"
                found[f"state_{number}_{index}_{key}"] = state, words
    return found


def _meanings(pruners):
    """Returns a dict from a kernel's path to the settings that made its mask."""
    return {
        path: rule.provenance()
        for pruner in pruners
        for path, rule in pruner.rules.items()
    }


def _set_counts(pruner, global_step, updated_at, optimizer):
    with keras.device("cpu"):
        counts = [
            keras.Variable(value, dtype="int64", trainable=False, name="count")
            for value in (global_step, updated_at)
        ]
    # While bound for a moment, the pruner copies the counts.
    pruner.bind(*counts, optimizer)
    pruner.bind(None, None, optimizer)


def _as_tensor(array):
    import torch

    if str(array.dtype) == "bfloat16":
        # NumPy has no bfloat16 of its own, so torch cannot read the array.
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))

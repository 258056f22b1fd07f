"""Saves and restores pruners outside of `fit`, as plain arrays."""

import contextlib
import io
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from keras import ops

from keras_pruner.backend import checkpointed_base
from keras_pruner.masks import (
    check_provenance,
    check_variables,
    read_state,
    write_state,
)

_OWNER = "this model and pruning config"
_COUNTS = ("global_step", "updated_at")


if TYPE_CHECKING:
    Base = object
else:
    Base = checkpointed_base()


class SavedPruner(Base):
    """Lets a pruner of a custom training loop be saved and resumed exactly.

    The state holds masks, criterion states, dense weights, counts and the plan of open
    steps. Save it together with the model and the optimizer. On TensorFlow a
    `tf.train.Checkpoint` saves the pruner like a variable.

    A state is checked whole before any of it is assigned.

    Attributes:
        pruners: List of the `KerasBasePruner`s whose states are saved.
    """

    pruners: Any

    def beside_training(self) -> AbstractContextManager[Any]:
        """Returns the context in which the pruner computes."""
        return contextlib.nullcontext()

    def state_dict(self) -> dict[str, Any]:
        """Returns masks, states and counts, to save beside model and optimizer.

        Returns:
            Dict from names to NumPy arrays, of dtypes that `np.savez`, HDF5 and Orbax
            write. Masks have one bit a weight.
        """
        with self.beside_training():
            state = state_of(self.pruners)
        return {name: _as_plain(array) for name, array in state.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the values that `state_dict` returned, and applies the masks.

        Call it after those of model and optimizer are loaded.

        Args:
            state: Dict, or what `np.load` returns.

        Raises:
            ValueError: If the values are damaged, or do not fit the model or the
                config; the message names the first mismatch. Nothing changes then.
            TypeError: If `state` is no dict.
        """
        with self.beside_training():
            load_state(self.pruners, state)

    def save_own_variables(self, store: Any) -> None:
        """Writes the values of `state_dict` into a store, e.g. a group of an HDF5 file.

        Args:
            store: Dict-like object.
        """
        for name, array in SavedPruner.state_dict(self).items():
            store[name] = array

    def load_own_variables(self, store: Any) -> None:
        """Loads the values that `save_own_variables` wrote; see `load_state_dict`."""
        with self.beside_training():
            load_state(self.pruners, store)

    def serialize(self) -> bytes:
        """Returns the state as bytes, e.g. for `tf.train.Checkpoint`."""
        buffer = io.BytesIO()
        np.savez(buffer, **SavedPruner.state_dict(self))
        return buffer.getvalue()

    def deserialize(self, string_value: bytes) -> None:
        """Loads the bytes that `serialize` returned; see `load_state_dict`."""
        try:
            with np.load(io.BytesIO(string_value), allow_pickle=False) as arrays:
                state = dict(arrays)
        except Exception as error:
            # A damaged archive raises errors of many types.
            raise ValueError(
                f"The pruning state that is saved for {_OWNER} is damaged: {error}. "
                "Use an older one."
            ) from error
        self.load_own_variables(state)


def state_of(pruners):
    """Returns the state of several `KerasBasePruner`s.

    Args:
        pruners: List of the pruners.

    Returns:
        Dict from names to NumPy arrays; see `masks.write_state`.
    """
    store = {}
    masks = {name: mask for name, (mask, _) in _masks(pruners).items()}
    known = _counts(pruners) | _states(pruners)
    arrays = {name: array for name, (array, _) in known.items()}
    description = {
        "meanings": _provenance(pruners),
        "pinned": [pruner.updater.pinned for pruner in pruners],
        "planned": [pruner.planned for pruner in pruners],
    }
    write_state(store, description, masks, arrays)
    return store


def load_state(pruners, state):
    """Loads the values of `state_of`; checks all of them before it assigns any.

    Args:
        pruners: List of `KerasBasePruner`s.
        state: Dict-like object.

    Raises:
        ValueError: If the state is damaged, or of other kernels, another pattern,
            criterion or pruner; the message names the first difference.
        TypeError: If the state is no dict.
    """
    if not hasattr(state, "keys"):
        raise TypeError(
            f"A state is a dict, as `state_dict` returns it. Received: {state!r}"
        )
    description, masks, arrays = read_state(state, _OWNER)
    check_variables(masks, _masks(pruners), _OWNER)
    check_provenance(
        {path: {"path": path} | made for path, made in _provenance(pruners).items()},
        description["meanings"],
        _OWNER,
        "Use the same config.",
    )
    check_variables(arrays, _counts(pruners) | _states(pruners), _OWNER)
    counts = [
        [int(arrays[f"{key}_{number}"]) for key in _COUNTS]
        for number in range(len(pruners))
    ]
    # States of earlier versions have no plan.
    unknown = [None] * len(pruners)
    plans = description.get("planned", unknown)
    for pruner, plan, (step, _) in zip(pruners, plans, counts, strict=True):
        if pruner.has_open_steps and plan and step < (plan[0] or 0):
            pruner.schedule_steps(*plan)
    for name, (mask, _) in _masks(pruners).items():
        mask.assign(masks[name])
    for name, (variable, _) in _states(pruners).items():
        variable.assign(_as_dtype(arrays[name], str(variable.dtype)))
    pinned = description.get("pinned", unknown)
    for pruner, groups, numbers in zip(pruners, pinned, counts, strict=True):
        pruner.updater.pinned = groups
        pruner.restore_counts(*numbers)
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


def _provenance(pruners):
    """Returns a dict from a kernel's path to the settings that made its mask."""
    return {
        path: rule.provenance()
        for pruner in pruners
        for path, rule in pruner.rules.items()
    }


def _as_plain(array):
    """Views an array of bfloat16, which few files know, as its bits."""
    return array.view("uint16") if str(array.dtype) == "bfloat16" else array


def _as_dtype(array, dtype):
    """Views bits as the bfloat16 that they were."""
    if dtype == "bfloat16" and array.dtype == np.uint16:
        return array.view(ops.convert_to_numpy(ops.zeros((1,), dtype)).dtype)
    return array

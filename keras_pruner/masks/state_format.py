"""Writes masks and pruning state to a file, and checks them when it reads them.

A state is a set of named arrays and one JSON header, kept as bytes, that describes
them. A reader therefore knows the content before it changes anything. Masks take one
bit per weight. A checksum covers arrays and header.
"""

import json
import zlib

import numpy as np
from keras import ops

_HEADER = "header"

_FORMAT = 1


def write_state(store, description, masks, arrays):
    """Writes a state.

    Args:
        store: Dict-like Keras store.
        description: Dict of plain values.
        masks: Dict from a name to a bool variable or `PackedMask`.
        arrays: Dict from a name to a variable.
    """
    written = {}
    for name, mask in masks.items():
        written[name] = np.packbits(ops.convert_to_numpy(mask), axis=None)
    for name, array in arrays.items():
        written[name] = np.asarray(ops.convert_to_numpy(array))
    header = {
        "format": _FORMAT,
        "masks": {name: list(mask.shape) for name, mask in masks.items()},
        "arrays": {
            name: [list(array.shape), str(array.dtype)]
            for name, array in written.items()
            if name not in masks
        },
        "description": description,
    }
    header["checksum"] = _checksum(header, written)
    for name, array in written.items():
        store[name] = array
    text = json.dumps(header).encode()
    store[_HEADER] = np.frombuffer(text, dtype="uint8")


def read_state(store, owner):
    """Reads a whole state and checks that it is intact.

    Args:
        store: Dict-like Keras store.
        owner: Name of the state's owner, for messages.

    Returns:
        Tuple of the description, a dict of bool arrays of masks, and a dict of arrays.

    Raises:
        ValueError: If the store has no state, a damaged one, or another format.
    """
    names = set(store.keys())
    if _HEADER not in names:
        raise ValueError(
            f"The saved state of {owner} is no pruning state: it has the entries "
            f"{', '.join(sorted(names)) or 'none'}. It was saved without pruning, or "
            "by another version. Load the weights into a model that is not being "
            "pruned, or start the run again."
        )
    damaged = ValueError(
        f"The pruning state that is saved for {owner} is damaged. Use an older file."
    )
    try:
        header = json.loads(bytes(np.asarray(store[_HEADER], "uint8")))
        checksum = header.pop("checksum")
        version = header["format"]
        wanted = {**header["masks"], **header["arrays"]}
        arrays = {name: np.asarray(store[name]) for name in wanted}
        intact = _checksum(header, arrays) == checksum
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise damaged from error
    if not intact:
        raise damaged
    if version != _FORMAT:
        raise ValueError(
            f"The pruning state that is saved for {owner} has the format {version}, "
            f"but this version of keras_pruner reads format {_FORMAT}."
        )
    masks = {}
    for name, shape in header["masks"].items():
        bits = arrays.pop(name)
        size = int(np.prod(shape, dtype=np.int64))
        if bits.dtype != np.uint8 or bits.size != -(-size // 8):
            raise damaged
        masks[name] = np.unpackbits(bits, count=size).astype(bool).reshape(shape)
    return header["description"], masks, arrays


def check_provenance(here, saved, owner, advice):
    """Raises if a saved mask was made by other settings than the masks here.

    Args:
        here: Dict from a key to the provenance of a mask: a dict of settings, and
            `"path"` of the kernel.
        saved: The same of the saved masks. A setting that is missing counts as equal.
        owner: Owner of the state in messages.
        advice: Last sentences of the message.

    Raises:
        ValueError: Naming the first difference.
    """
    for key, made in here.items():
        for setting, value in made.items():
            there = saved.get(key, {}).get(setting, value)
            if there != value and setting != "path":
                raise ValueError(
                    f"The checkpoint does not fit {owner}: kernel '{made['path']}' was "
                    f"pruned with {setting}={there!r}, and is with {setting}={value!r} "
                    f"now. {advice} Nothing of the pruning state was assigned."
                )


def _checksum(header, arrays):
    value = zlib.crc32(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        value = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), value)
    return value


def check_variables(arrays, variables, owner):
    """Raises an error if saved arrays do not fit their variables.

    Args:
        arrays: Dict from a name to an array.
        variables: Dict from a name to a pair of a variable and its description.
        owner: Name of the variables' owner, for messages.

    Raises:
        ValueError: If an array is missing, is unexpected, or has another shape.
    """
    for name, (variable, words) in variables.items():
        if name not in arrays:
            raise ValueError(
                f"The checkpoint does not fit {owner}: it has no {words}. Nothing of "
                "the pruning state was assigned."
            )
        shapes = tuple(arrays[name].shape), tuple(variable.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The checkpoint does not fit {owner}: the {words} has shape "
                f"{shapes[0]} in it, and {shapes[1]} here. Nothing of the pruning "
                "state was assigned."
            )
    extra = next((name for name in arrays if name not in variables), None)
    if extra is not None:
        raise ValueError(
            f"The checkpoint does not fit {owner}: it has '{extra}', which is not "
            "kept here. Nothing of the pruning state was assigned."
        )

"""Divides the classes of indices into groups of channels."""

from typing import NamedTuple

import keras
import numpy as np

from keras_pruner.channels.groups import ChannelGroup, Member


class Slot(NamedTuple):
    """One axis of one variable.

    Args:
        path: Path of the variable.
        variable: `keras.Variable`.
        layer: Layer that owns it.
        axis: Axis of the variable.
        ids: Array with the id of each index.
    """

    path: str
    variable: keras.Variable
    layer: keras.layers.Layer
    axis: int
    ids: np.ndarray


def find_groups(resolved, slots, divided, heads):
    """Divides the classes by the axes of variables on which they lie.

    Args:
        resolved: `ResolvedClasses`.
        slots: List of `Slot`s.
        divided: List of arrays of ids. Indices in different ones are in different
            groups.
        heads: List of arrays of ids of attention heads.

    Returns:
        Tuple of `ChannelGroup`s; a dict from the name of a group to an array with the
        atom of each of its channels; and a set of atoms that are the only channel of
        their group, so they must stay.
    """
    # Three columns of all memberships, sorted: atom, number of the axis, index.
    atoms, places, indices = _memberships(
        resolved, [*(slot.ids for slot in slots), *divided]
    )
    # A run is an atom on one axis: a row of equal atoms and equal axes.
    is_new = np.diff(atoms, prepend=-1) != 0
    runs = np.flatnonzero(is_new | (np.diff(places, prepend=-1) != 0))
    first = np.flatnonzero(is_new[runs])
    stop = np.append(first, len(runs))[1:]
    own, places = atoms[runs[first]], places[runs]
    parts = np.split(indices, runs[1:])
    # Indices of two axes that are merged are no alternatives to each other.
    origins = np.where(resolved.is_joint(own), resolved.origins_of(own), 0)
    alike = {}
    for begin, end, atom, origin in zip(
        first.tolist(),
        stop.tolist(),
        own.tolist(),
        origins.tolist(),
        strict=True,
    ):
        key = places[begin:end].tobytes(), origin
        alike.setdefault(key, []).append((begin, atom))
    heads = np.concatenate([np.empty(0, np.int64), *heads])
    heads = set(resolved.atoms_of(heads)[1].tolist())
    found, alone = [], set()
    for (key, _), channels in alike.items():
        touched = np.frombuffer(key, np.int64)
        touched = touched[touched < len(slots)].tolist()
        if len(touched) > 1 and len(channels) == 1:
            alone.add(channels[0][1])
        elif len(touched) > 1:
            # In the order of their first indices on the first axis.
            channels.sort(key=lambda channel: parts[channel[0]][0])
            members = tuple(
                Member(
                    *slots[place][:4], tuple(parts[begin + i] for begin, _ in channels)
                )
                for i, place in enumerate(touched)
            )
            of_group = np.array([atom for _, atom in channels])
            place = touched[0], parts[channels[0][0]].tolist()
            found.append((place, members, of_group))
    groups, by_name, numbers = [], {}, {}
    for _, members, of_group in sorted(found, key=lambda item: item[0]):
        name = _producer(members)
        numbers[name] = numbers.get(name, 0) + 1
        name = name if numbers[name] == 1 else f"{name}#{numbers[name]}"
        kind = "heads" if heads.issuperset(of_group.tolist()) else "channels"
        groups.append(ChannelGroup(name, kind, members))
        by_name[name] = of_group
    return tuple(groups), by_name, alone


def _memberships(resolved, axes):
    columns = [[np.empty(0, np.int64)] for _ in range(3)]
    for number, ids in enumerate(axes):
        indices, atoms = resolved.atoms_of(ids)
        for column, values in zip(
            columns, (atoms, np.full(len(atoms), number), indices), strict=True
        ):
            column.append(values)
    atoms, places, indices = map(np.concatenate, columns)
    order = np.lexsort((indices, places, atoms))
    return atoms[order], places[order], indices[order]


def _producer(members):
    """Returns the name of the first layer that computes the channels of a group."""
    for member in members:
        if member.variable.name == "kernel" and member.axis > 0:
            return _name_of(member)
    return _name_of(members[0])


def _name_of(member):
    return member.path.rpartition("/")[0] or member.layer.name

"""Chooses the groups of channels that may be cut."""

import dataclasses

from keras_pruner.config import PruningConfig
from keras_pruner.kernels import find_all_kernels, select_kernels
from keras_pruner.slimming.structured.curves import KernelRows, score_kernels


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
    """The groups of a model that may be cut, and those that may not.

    Args:
        groups: Dict from the name of a group to its `ChannelGroup`.
        rows: Dict from the name to the list of `KernelRows` of its kernels.
        skipped: Dict from the name of another group to the reason.
        kernels: List of all `Kernel`s of the model that are not frozen.
    """

    groups: dict
    rows: dict
    skipped: dict
    kernels: list


def find_candidates(model, graph, include, exclude):
    """Chooses the groups of channels that may be cut.

    Args:
        model: Keras model.
        graph: Its `ChannelGraph`.
        include: Selectors of kernels, or `None`: groups that such a kernel computes.
        exclude: Selectors of kernels, or `None`: no group with such a kernel.

    Returns:
        `Candidates`.

    Raises:
        ValueError: If a selector matches no kernel.
    """
    kernels = _kernels_of(model, {})
    included = _ids(_kernels_of(model, {"include": include}) if include else kernels)
    left = _ids(_kernels_of(model, {"exclude": exclude}) if exclude else kernels)
    excluded = _ids(kernels) - left
    known = {id(kernel.variable): kernel for kernel in kernels}
    every = find_all_kernels(model)
    frozen = _ids([*every.kernels, *every.skipped_kernels], lambda k: not _is_free(k))
    ruleless = {
        id(kernel.variable): f"'{skipped.path}': {skipped.reason}"
        for kernel, skipped in zip(every.skipped_kernels, every.skipped, strict=True)
        if kernel.layout is None
    }
    found = Candidates({}, {}, {}, kernels)
    for group in graph.groups:
        rows = [
            KernelRows(known[id(member.variable)], member)
            for member in group.members
            if id(member.variable) in known
        ]
        variables = [(id(m.variable), m.path) for m in group.members]
        reason = None
        if path := next((p for v, p in variables if v in frozen), None):
            reason = f"'{path}' is frozen: its layer has trainable=False"
        elif path := next((p for v, p in variables if v in excluded), None):
            reason = f"'{path}' is excluded by `exclude`"
        elif not (any(r.is_consumer for r in rows) or score_kernels(rows)):
            unknown = (ruleless[v] for v, _ in variables if v in ruleless)
            reason = next(unknown, "no kernel reads the channels by its rows")
        elif include and not any(
            id(r.kernel.variable) in included for r in rows if not r.is_consumer
        ):
            reason = "not computed by a layer that `include` selects"
        if reason is None:
            found.groups[group.name], found.rows[group.name] = group, rows
        else:
            found.skipped[group.name] = reason
    return found


def _kernels_of(model, settings):
    selections = select_kernels(model, PruningConfig(**settings))
    return [kernel for selection in selections for kernel in selection.kernels]


def _ids(kernels, condition=lambda kernel: True):
    return {id(kernel.variable) for kernel in kernels if condition(kernel)}


def _is_free(kernel):
    return kernel.variable.trainable

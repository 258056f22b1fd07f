"""Divides a model's kernels over configs, and builds a pruner for each config."""

import dataclasses

from keras_pruner.collect import collect_kernels
from keras_pruner.config import as_config
from keras_pruner.pruners.base import PRUNERS


def partition_kernels(config, modules):
    """Divides the kernels between a config and its local configs.

    A local config takes the kernels that it selects; the rest stay with the main one.

    Args:
        config: `PruningConfig`, dict, or `None` for the defaults.
        modules: As for `KerasBasePruner`.

    Returns:
        List of pairs of a config without local configs and the kernels it selects,
        the main one first. The main one is left out if the local ones take all.

    Raises:
        ValueError: If two local configs select the same kernel, or a selector selects
            nothing.
    """
    config = as_config(config)
    claimed, parts = {}, []
    for number, local in enumerate(config.local_configs):
        kernels, _ = collect_kernels(modules, local)
        for kernel in kernels:
            other = claimed.setdefault(id(kernel.variable), number)
            if other != number:
                raise ValueError(
                    f"Local configs {other} and {number} both select '{kernel.path}'. "
                    "Each kernel belongs to one config: exclude it from one of them."
                )
        parts.append((local, kernels))
    main = dataclasses.replace(config, local_configs=())
    kernels, _ = collect_kernels(modules, main)
    rest = [kernel for kernel in kernels if id(kernel.variable) not in claimed]
    if claimed and not rest:
        return parts
    if claimed:
        main = dataclasses.replace(
            main, exclude=(*main.exclude, lambda k: id(k.variable) in claimed)
        )
    return [(main, rest), *parts]


def create_pruners(config, modules):
    """Returns one pruner for the config and one for each of its local configs.

    Args:
        config: `PruningConfig`, dict, or `None` for the defaults.
        modules: As for `KerasBasePruner`.

    Returns:
        List of pruners of the registered `pruning_type`, the main one first.

    Raises:
        ValueError: As `partition_kernels` and `KerasBasePruner`; or if the
            `pruning_type` is unknown.
    """
    parts = [part for part, _ in partition_kernels(config, modules)]
    for part in parts:
        if part.pruning_type not in PRUNERS:
            raise PRUNERS.unknown(part.pruning_type)
        if len(parts) > 1 and PRUNERS[part.pruning_type].takes_whole_model:
            raise ValueError(
                f"Pruner '{part.pruning_type}' acts on the whole model and cannot "
                "share it with other configs. Leave out `local_configs`."
            )
    return [PRUNERS[part.pruning_type](part, modules) for part in parts]

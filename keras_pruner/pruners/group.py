"""Divides a model's kernels over configs, and builds a pruner for each config."""

from keras_pruner.config import as_config
from keras_pruner.kernels import partition_kernels
from keras_pruner.pruners.base import PRUNERS


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
    parts = [part for part, _ in partition_kernels(as_config(config), modules)]
    for part in parts:
        if part.pruning_type not in PRUNERS:
            raise PRUNERS.unknown(part.pruning_type)
        if len(parts) > 1 and PRUNERS[part.pruning_type].takes_whole_model:
            raise ValueError(
                f"Pruner '{part.pruning_type}' acts on the whole model and cannot "
                "share it with other configs. Leave out `local_configs`."
            )
    return [PRUNERS[part.pruning_type](part, modules) for part in parts]

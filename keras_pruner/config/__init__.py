"""Says what to prune, how far and when, and checks it."""

from keras_pruner.config.arguments import as_config, merged_config, takes_settings
from keras_pruner.config.forms import SAMPLED_ALLOCATIONS
from keras_pruner.config.pruner_type import PRUNERS, PrunerType, register_pruner
from keras_pruner.config.pruning_config import DEFAULT_TARGET_SPARSITY, PruningConfig
from keras_pruner.config.settings import Settings, rename_keys

__all__ = [
    "DEFAULT_TARGET_SPARSITY",
    "PRUNERS",
    "PrunerType",
    "PruningConfig",
    "SAMPLED_ALLOCATIONS",
    "Settings",
    "as_config",
    "merged_config",
    "register_pruner",
    "rename_keys",
    "takes_settings",
]

"""Says what to prune, how far and when, and checks it."""

from keras_pruner.config.arguments import (
    AnyConfig,
    as_config,
    merged_config,
    takes_settings,
)
from keras_pruner.config.forms import SAMPLED_ALLOCATIONS, refuse_overlaps
from keras_pruner.config.pruner_type import PRUNERS, PrunerType, register_pruner
from keras_pruner.config.pruning_config import DEFAULT_TARGET_SPARSITY, PruningConfig
from keras_pruner.config.settings import (
    LayerSettings,
    OneShotSettings,
    Settings,
    rename_keys,
)

__all__ = [
    "AnyConfig",
    "DEFAULT_TARGET_SPARSITY",
    "LayerSettings",
    "OneShotSettings",
    "PRUNERS",
    "PrunerType",
    "PruningConfig",
    "SAMPLED_ALLOCATIONS",
    "Settings",
    "as_config",
    "merged_config",
    "refuse_overlaps",
    "register_pruner",
    "rename_keys",
    "takes_settings",
]

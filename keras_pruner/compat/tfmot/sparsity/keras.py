"""The public names of `tfmot.sparsity.keras`."""

from keras_pruner.compat.tfmot.prunable_layer import PrunableLayer
from keras_pruner.compat.tfmot.prune import (
    prune_low_magnitude,
    prune_scope,
    strip_pruning,
)
from keras_pruner.compat.tfmot.pruning_callbacks import (
    PruningSummaries,
    UpdatePruningStep,
)
from keras_pruner.compat.tfmot.pruning_policy import (
    PruneForLatencyOnXNNPack,
    PruningPolicy,
)
from keras_pruner.compat.tfmot.pruning_schedule import (
    ConstantSparsity,
    PolynomialDecay,
    PruningSchedule,
)
from keras_pruner.compat.tfmot.pruning_wrapper import PruneLowMagnitude

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruneLowMagnitude",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]

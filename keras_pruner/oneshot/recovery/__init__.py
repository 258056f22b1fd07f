"""Repairs a pruned model from unlabelled samples, one recovery a file."""

from keras_pruner.oneshot.recovery.base import (
    RECOVERIES,
    DenseModel,
    Recovery,
    recoveries_of,
    register_recovery,
)
from keras_pruner.oneshot.recovery.batch_normalization import (
    BatchNormalizationRecovery,
    BatchNormalizationReport,
    reestimate_batch_normalization,
)
from keras_pruner.oneshot.recovery.distill import (
    Distillation,
    DistillationReport,
    distill,
)
from keras_pruner.oneshot.recovery.unchanged_if_failed import (
    put_back,
    unchanged_if_failed,
)

__all__ = [
    "BatchNormalizationRecovery",
    "BatchNormalizationReport",
    "DenseModel",
    "Distillation",
    "DistillationReport",
    "RECOVERIES",
    "Recovery",
    "distill",
    "put_back",
    "recoveries_of",
    "reestimate_batch_normalization",
    "register_recovery",
    "unchanged_if_failed",
]

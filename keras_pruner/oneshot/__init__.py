"""Makes masks from a few batches of data, without training."""

from keras_pruner.oneshot.at_init import prune_at_init
from keras_pruner.oneshot.inputs import KernelInputs, register_kernel_inputs
from keras_pruner.oneshot.methods import (
    METHODS,
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.one_shot_report import OneShotReport, OneShotRow
from keras_pruner.oneshot.problem import KernelProblem
from keras_pruner.oneshot.prune_one_shot import prune_one_shot
from keras_pruner.oneshot.recovery import (
    RECOVERIES,
    BatchNormalizationRecovery,
    BatchNormalizationReport,
    Distillation,
    DistillationReport,
    Recovery,
    distill,
    reestimate_batch_normalization,
    register_recovery,
)

__all__ = [
    "BatchNormalizationRecovery",
    "BatchNormalizationReport",
    "Distillation",
    "DistillationReport",
    "KernelInputs",
    "KernelProblem",
    "METHODS",
    "OneShotMethod",
    "OneShotReport",
    "OneShotRow",
    "RECOVERIES",
    "Recovery",
    "Solution",
    "distill",
    "prune_at_init",
    "prune_one_shot",
    "reestimate_batch_normalization",
    "register_kernel_inputs",
    "register_one_shot_method",
    "register_recovery",
]

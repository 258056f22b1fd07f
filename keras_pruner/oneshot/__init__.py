"""Makes masks from a few batches of data, without training."""

from keras_pruner.oneshot.at_init import prune_at_init
from keras_pruner.oneshot.division import lower_hull
from keras_pruner.oneshot.inputs import KernelInputs, register_kernel_inputs
from keras_pruner.oneshot.methods import (
    METHODS,
    OneShotMethod,
    Solution,
    Wanda,
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
    put_back,
    recoveries_of,
    reestimate_batch_normalization,
    register_recovery,
)
from keras_pruner.oneshot.samples import collect_samples
from keras_pruner.oneshot.stages import StageByStage

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
    "StageByStage",
    "Wanda",
    "collect_samples",
    "distill",
    "lower_hull",
    "prune_at_init",
    "prune_one_shot",
    "put_back",
    "recoveries_of",
    "reestimate_batch_normalization",
    "register_kernel_inputs",
    "register_one_shot_method",
    "register_recovery",
]

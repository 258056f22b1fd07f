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

__all__ = [
    "KernelInputs",
    "KernelProblem",
    "METHODS",
    "OneShotMethod",
    "OneShotReport",
    "OneShotRow",
    "Solution",
    "prune_at_init",
    "prune_one_shot",
    "register_kernel_inputs",
    "register_one_shot_method",
]

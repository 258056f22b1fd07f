"""Allocations divide a global sparsity over the kernels, one file each."""

from keras_pruner.components.allocations.base import (
    ALLOCATIONS,
    Allocation,
    KernelPlan,
    register_allocation,
)
from keras_pruner.components.allocations.custom import Custom
from keras_pruner.components.allocations.erk import ERK
from keras_pruner.components.allocations.global_ranking import Global, GlobalL2
from keras_pruner.components.allocations.per_output import PerOutput
from keras_pruner.components.allocations.uniform import Uniform

__all__ = [
    "ALLOCATIONS",
    "ERK",
    "Allocation",
    "Custom",
    "Global",
    "GlobalL2",
    "KernelPlan",
    "PerOutput",
    "Uniform",
    "register_allocation",
]

"""Holds the parts of a pruner: criteria, patterns, allocations and so on."""

from keras_pruner.components.allocations import (
    ALLOCATIONS,
    ERK,
    Allocation,
    Custom,
    Global,
    GlobalL2,
    KernelPlan,
    Uniform,
    register_allocation,
)
from keras_pruner.components.criteria import (
    CRITERIA,
    Criterion,
    GradientCriterion,
    register_criterion,
)
from keras_pruner.components.patterns import PATTERNS, Pattern, register_pattern
from keras_pruner.components.regularizers import (
    REGULARIZERS,
    Regularizer,
    register_regularizer,
)
from keras_pruner.components.schedules import SCHEDULES, Schedule, register_schedule

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "CRITERIA",
    "Criterion",
    "Custom",
    "ERK",
    "Global",
    "GlobalL2",
    "GradientCriterion",
    "KernelPlan",
    "PATTERNS",
    "Pattern",
    "REGULARIZERS",
    "Regularizer",
    "SCHEDULES",
    "Schedule",
    "Uniform",
    "register_allocation",
    "register_criterion",
    "register_pattern",
    "register_regularizer",
    "register_schedule",
]

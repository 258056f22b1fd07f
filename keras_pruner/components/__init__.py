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
from keras_pruner.components.capabilities import (
    CAPABILITIES,
    Capability,
    EngineCapability,
    capability_of,
    hardware_here,
    register_capability,
)
from keras_pruner.components.criteria import (
    CRITERIA,
    Criterion,
    GradientCriterion,
    register_criterion,
)
from keras_pruner.components.patterns import (
    PATTERNS,
    Block,
    KnownNorms,
    Pattern,
    register_pattern,
)
from keras_pruner.components.regularizers import (
    REGULARIZERS,
    Regularizer,
    register_regularizer,
)
from keras_pruner.components.schedules import (
    SCHEDULES,
    Polynomial,
    Schedule,
    register_schedule,
)

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "Block",
    "CAPABILITIES",
    "CRITERIA",
    "Capability",
    "Criterion",
    "Custom",
    "ERK",
    "EngineCapability",
    "Global",
    "GlobalL2",
    "GradientCriterion",
    "KernelPlan",
    "KnownNorms",
    "PATTERNS",
    "Pattern",
    "Polynomial",
    "REGULARIZERS",
    "Regularizer",
    "SCHEDULES",
    "Schedule",
    "Uniform",
    "capability_of",
    "hardware_here",
    "register_allocation",
    "register_capability",
    "register_criterion",
    "register_pattern",
    "register_regularizer",
    "register_schedule",
]

"""Criteria score weights, one file each."""

from keras_pruner.components.criteria.base import (
    CRITERIA,
    Criterion,
    GradientCriterion,
    register_criterion,
)
from keras_pruner.components.criteria.block_mask import BlockMask
from keras_pruner.components.criteria.fisher import Fisher, SecondMoment
from keras_pruner.components.criteria.gradient import Gradient
from keras_pruner.components.criteria.grasp import Grasp
from keras_pruner.components.criteria.lamp import Lamp
from keras_pruner.components.criteria.magnitude import Magnitude
from keras_pruner.components.criteria.movement import Movement
from keras_pruner.components.criteria.random import Random
from keras_pruner.components.criteria.retrain_free import RetrainFree
from keras_pruner.components.criteria.snip import Snip, SnipMomentum
from keras_pruner.components.criteria.synflow import SynFlow
from keras_pruner.components.criteria.taylor import Taylor

__all__ = [
    "CRITERIA",
    "BlockMask",
    "Criterion",
    "Fisher",
    "Gradient",
    "GradientCriterion",
    "Grasp",
    "Lamp",
    "Magnitude",
    "Movement",
    "Random",
    "RetrainFree",
    "SecondMoment",
    "Snip",
    "SnipMomentum",
    "SynFlow",
    "Taylor",
    "register_criterion",
]

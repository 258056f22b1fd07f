"""Criteria: how weights are scored. One file each."""

from keras_pruner.criteria.base import (
    CRITERIA,
    Criterion,
    GradientCriterion,
    register_criterion,
)
from keras_pruner.criteria.block_mask import BlockMask
from keras_pruner.criteria.fisher import Fisher
from keras_pruner.criteria.gradient import Gradient
from keras_pruner.criteria.grasp import Grasp
from keras_pruner.criteria.lamp import Lamp
from keras_pruner.criteria.magnitude import Magnitude
from keras_pruner.criteria.movement import Movement
from keras_pruner.criteria.random import Random
from keras_pruner.criteria.retrain_free import RetrainFree
from keras_pruner.criteria.snip import Snip, SnipMomentum
from keras_pruner.criteria.synflow import SynFlow
from keras_pruner.criteria.taylor import Taylor

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
    "Snip",
    "SnipMomentum",
    "SynFlow",
    "Taylor",
    "register_criterion",
]

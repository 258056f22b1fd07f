"""Criteria: how the weights of a kernel are scored. One file each."""

from keras_pruner.criteria.base import CRITERIA, Criterion, register_criterion
from keras_pruner.criteria.magnitude import Magnitude
from keras_pruner.criteria.random import Random

__all__ = ["CRITERIA", "Criterion", "Magnitude", "Random", "register_criterion"]

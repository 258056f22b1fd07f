"""Solves the sparse least-squares problem of one kernel, one method a file."""

from keras_pruner.oneshot.methods.admm import ADMM
from keras_pruner.oneshot.methods.alps import ALPS
from keras_pruner.oneshot.methods.base import (
    METHODS,
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.methods.dsnot import DSnoT
from keras_pruner.oneshot.methods.magnitude import Magnitude
from keras_pruner.oneshot.methods.refit import masked
from keras_pruner.oneshot.methods.sparsegpt import SparseGPT
from keras_pruner.oneshot.methods.wanda import Wanda, input_scores

__all__ = [
    "ADMM",
    "ALPS",
    "DSnoT",
    "METHODS",
    "Magnitude",
    "OneShotMethod",
    "Solution",
    "SparseGPT",
    "Wanda",
    "input_scores",
    "masked",
    "register_one_shot_method",
]

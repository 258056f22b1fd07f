"""Regularizers draw weights towards zero, one file each."""

from keras_pruner.components.regularizers.base import (
    REGULARIZERS,
    Regularizer,
    register_regularizer,
)
from keras_pruner.components.regularizers.group_lasso import GroupLasso
from keras_pruner.components.regularizers.l1 import L1, GrowingL1
from keras_pruner.components.regularizers.l2 import L2, GrowingL2

__all__ = [
    "L1",
    "L2",
    "REGULARIZERS",
    "GroupLasso",
    "GrowingL1",
    "GrowingL2",
    "Regularizer",
    "register_regularizer",
]

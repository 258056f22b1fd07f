"""Pruners: compose the maths and own the state. One file each."""

from keras_pruner.pruners.base import PRUNERS, BasePruner, register_pruner
from keras_pruner.pruners.basic import BasicPruner
from keras_pruner.pruners.create import create_pruners
from keras_pruner.pruners.keras_base import KerasBasePruner

__all__ = [
    "PRUNERS",
    "BasePruner",
    "BasicPruner",
    "KerasBasePruner",
    "create_pruners",
    "register_pruner",
]

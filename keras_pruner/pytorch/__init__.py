"""Prunes torch modules without Keras layers. Only functions import torch."""

from keras_pruner.pytorch.forward import required_arguments
from keras_pruner.pytorch.layouts import module_kind, overridden_class
from keras_pruner.pytorch.one_shot import ModuleCalls, OneShotModule, one_shot_module
from keras_pruner.pytorch.pruner import PytorchBasePruner
from keras_pruner.pytorch.strip import check_module, is_torch_module, strip_module
from keras_pruner.pytorch.tensors import as_array

__all__ = [
    "ModuleCalls",
    "OneShotModule",
    "PytorchBasePruner",
    "as_array",
    "check_module",
    "is_torch_module",
    "module_kind",
    "one_shot_module",
    "overridden_class",
    "required_arguments",
    "strip_module",
]

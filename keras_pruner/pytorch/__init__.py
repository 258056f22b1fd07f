"""Prunes torch modules without Keras layers. Only functions import torch."""

from keras_pruner.pytorch.pruner import PytorchBasePruner
from keras_pruner.pytorch.strip import check_module, is_torch_module, strip_module

__all__ = ["PytorchBasePruner", "check_module", "is_torch_module", "strip_module"]

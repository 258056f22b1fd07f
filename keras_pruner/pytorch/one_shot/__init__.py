"""Lets `prune_one_shot` run a torch module and see the calls of its parts."""

from keras_pruner.pytorch.one_shot.module_calls import ModuleCalls
from keras_pruner.pytorch.one_shot.one_shot_module import OneShotModule, one_shot_module

__all__ = ["ModuleCalls", "OneShotModule", "one_shot_module"]

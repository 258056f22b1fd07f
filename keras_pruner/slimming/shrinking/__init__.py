"""Finds the channels of a model that change nothing."""

from keras_pruner.slimming.shrinking.removable import (
    ONE_STAYS,
    Removable,
    find_removable,
)

__all__ = ["ONE_STAYS", "Removable", "find_removable"]

"""Chooses channels to remove, and repairs what reads them."""

from keras_pruner.slimming.structured.plan import ChannelPlan
from keras_pruner.slimming.structured.prune_structured import prune_structured
from keras_pruner.slimming.structured.structured_report import (
    GroupRow,
    StructuredReport,
)
from keras_pruner.slimming.structured.suggest import Suggestion, suggest

__all__ = [
    "ChannelPlan",
    "GroupRow",
    "StructuredReport",
    "Suggestion",
    "prune_structured",
    "suggest",
]

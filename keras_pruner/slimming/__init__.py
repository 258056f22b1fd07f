"""Makes plain and smaller models of pruned ones."""

from keras_pruner.slimming.cutting import cut, refused_groups, register_cutter
from keras_pruner.slimming.quantize import quantize
from keras_pruner.slimming.quantize_report import QuantizeReport, QuantizeRow
from keras_pruner.slimming.shrink import shrink
from keras_pruner.slimming.shrink_report import ShrinkReport, ShrinkRow
from keras_pruner.slimming.strip import strip
from keras_pruner.slimming.structured import (
    ChannelPlan,
    GroupRow,
    StructuredReport,
    Suggestion,
    prune_structured,
    suggest,
)
from keras_pruner.slimming.verify import Verification, verify

__all__ = [
    "ChannelPlan",
    "GroupRow",
    "QuantizeReport",
    "QuantizeRow",
    "ShrinkReport",
    "ShrinkRow",
    "StructuredReport",
    "Suggestion",
    "Verification",
    "cut",
    "prune_structured",
    "quantize",
    "refused_groups",
    "register_cutter",
    "shrink",
    "strip",
    "suggest",
    "verify",
]

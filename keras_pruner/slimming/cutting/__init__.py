"""Makes smaller layers and models from the channels that stay."""

from keras_pruner.slimming.cutting import families  # noqa: F401  They register.
from keras_pruner.slimming.cutting.cut import cut
from keras_pruner.slimming.cutting.cuttable import alike, refused_groups
from keras_pruner.slimming.cutting.edit import shortened
from keras_pruner.slimming.cutting.own_config import note_on_saving
from keras_pruner.slimming.cutting.registry import (
    has_unknown_layers,
    register_cutter,
    runs_own_code,
)

__all__ = [
    "alike",
    "cut",
    "has_unknown_layers",
    "note_on_saving",
    "refused_groups",
    "register_cutter",
    "runs_own_code",
    "shortened",
]

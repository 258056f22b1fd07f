"""Patterns define the groups of weights that are pruned together, one file each."""

from keras_pruner.components.patterns.base import PATTERNS, Pattern, register_pattern
from keras_pruner.components.patterns.unstructured import Unstructured

from keras_pruner.components.patterns.block import Block  # isort: skip  (asked after "1x1")
from keras_pruner.components.patterns.axis import AxisGroups
from keras_pruner.components.patterns.channel import InputChannel, OutputChannel
from keras_pruner.components.patterns.channel_groups import ChannelGroups
from keras_pruner.components.patterns.channel_slices import ChannelSlices
from keras_pruner.components.patterns.heads import Heads
from keras_pruner.components.patterns.known_norms import KnownNorms
from keras_pruner.components.patterns.n_of_m import NOfM

__all__ = [
    "PATTERNS",
    "AxisGroups",
    "Block",
    "ChannelGroups",
    "ChannelSlices",
    "Heads",
    "InputChannel",
    "KnownNorms",
    "NOfM",
    "OutputChannel",
    "Pattern",
    "Unstructured",
    "register_pattern",
]

"""Finds the channels, units and heads of a model that must be removed together."""

from keras_pruner.channels.graph import ChannelGraph
from keras_pruner.channels.groups import ChannelGroup, Member, Pin
from keras_pruner.channels.kept import Kept
from keras_pruner.channels.labels import Labels
from keras_pruner.channels.mean_square import MeanSquare, mean_square_of
from keras_pruner.channels.records import Call, Contraction
from keras_pruner.channels.rules import register_channel_rule

__all__ = [
    "Call",
    "ChannelGraph",
    "ChannelGroup",
    "Contraction",
    "Kept",
    "Labels",
    "MeanSquare",
    "Member",
    "Pin",
    "mean_square_of",
    "register_channel_rule",
]

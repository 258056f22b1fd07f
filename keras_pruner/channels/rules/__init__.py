"""Rules for layers and operations: which indices their tensors share."""

from keras_pruner.channels.rules import (  # noqa: F401
    contractions,
    convolutions,
    elementwise,
    indexing,
    joining,
    normalization,
    pooling,
    preprocessing,
    recurrent,
    reductions,
    shapes,
)
from keras_pruner.channels.rules.registry import register_channel_rule

__all__ = ["register_channel_rule"]

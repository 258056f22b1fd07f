"""Says how the configs of layers and operations hold their sizes."""

from keras_pruner.slimming.cutting.families import (  # noqa: F401
    attention,
    convolutions,
    dense,
    normalizations,
    recurrent,
    shapes,
)

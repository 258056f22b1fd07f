"""Cutters of convolutions."""

import numpy as np
from keras import layers

from keras_pruner.kernels import own_variables
from keras_pruner.slimming.cutting.registry import register_cutter


@register_cutter((layers.Conv1D, layers.Conv2D, layers.Conv3D))
def _cut_conv(layer, part):
    changes = {"filters": part.shapes(layer)["kernel"][-1]}
    if layer.groups > 1:
        (kernel,) = [v for v in own_variables(layer) if v.name == "kernel"]
        changes["groups"] = groups_left(
            part.indices(kernel)[-1], layer.filters, layer.groups
        )
    return changes


def groups_left(kept, size, groups):
    """Returns how many of some groups of adjacent channels are left.

    Args:
        kept: Array of the channels that stay, or `None` for all.
        size: Number of channels before.
        groups: Number of groups before.

    Example:

    >>> groups_left([0, 2, 3], 6, 3)
    2
    """
    if kept is None:
        return groups
    return len(np.unique(np.asarray(kept) // (size // groups)))


@register_cutter(
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
)
def _cut_transposed(layer, part):
    return {"filters": part.shapes(layer)["kernel"][-2]}


@register_cutter((layers.DepthwiseConv1D, layers.DepthwiseConv2D))
def _cut_depthwise(layer, part):
    return {"depth_multiplier": part.shapes(layer)["kernel"][-1]}


@register_cutter((layers.SeparableConv1D, layers.SeparableConv2D))
def _cut_separable(layer, part):
    shapes = part.shapes(layer)
    return {
        "filters": shapes["pointwise_kernel"][-1],
        "depth_multiplier": shapes["depthwise_kernel"][-1],
    }


@register_cutter((layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D))
def _cut_conv_lstm(layer, part):
    return {"filters": part.shapes(layer.cell)["recurrent_kernel"][-2]}

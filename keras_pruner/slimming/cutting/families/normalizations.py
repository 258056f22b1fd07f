"""Cutters of normalizations."""

import math

from keras import layers

from keras_pruner.channels import mean_square_of
from keras_pruner.kernels import own_variables
from keras_pruner.slimming.cutting.families.convolutions import groups_left
from keras_pruner.slimming.cutting.registry import register_cutter


@register_cutter((layers.BatchNormalization, layers.LayerNormalization, layers.PReLU))
def _cut_by_inputs(layer, part):
    # They take the number of channels from their inputs.
    return {}


@register_cutter(layers.GroupNormalization)
def _cut_group_normalization(layer, part):
    if layer.groups == -1:
        return {}
    kept = [part.indices(v)[0] for v in own_variables(layer)]
    size = [v.shape[0] for v in own_variables(layer)]
    if not kept:
        tensors = part.tensors_of(layer)
        if tensors is None:
            return {}
        shape, indices = tensors[0][0]
        size, kept = [shape[layer.axis]], [indices[layer.axis]]
    # Instances are normalized channel by channel, also under this name.
    return {"groups": groups_left(kept[0], size[0], layer.groups)}


@register_cutter(mean_square_of)
def _cut_mean_square(layer, part):
    """Lets the mean be over fewer squares; those that are left out were zero."""
    found = mean_square_of(layer)
    old, new = math.prod(found.scale.shape), math.prod(part.shape_of(found.scale))
    if old == new:
        return {}
    part.scale(found.scale, math.sqrt(old / new), found.offset)
    changes = {found.epsilon: getattr(layer, found.epsilon) * old / new}
    # Some classes are told the number of channels.
    names = [k for k in ("dim", "head_dim") if getattr(layer, k, None) == old]
    return changes | dict.fromkeys(names, new)

"""Cutters of attention layers."""

import math

from keras import layers

from keras_pruner.backend import sublayers_of
from keras_pruner.kernels import own_variables
from keras_pruner.slimming.cutting.registry import register_cutter


def _kernels(layer, part):
    """Returns a dict from the names of an attention's parts to their kernel shapes."""
    parts = {inner.name: inner for inner in sublayers_of(layer)}
    names = ("query", "key", "value", "attention_output")
    return {name: part.shapes(parts[name])["kernel"] for name in names}


def _keep_scores(layer, part, old):
    """Scales queries, because scores are divided by the root of their size."""
    (query,) = [inner for inner in sublayers_of(layer) if inner.name == "query"]
    new = part.shapes(query)["kernel"][-1]
    if new != old:
        for variable in own_variables(query):
            part.scale(variable, math.sqrt(new / old))


@register_cutter(layers.MultiHeadAttention)
def _cut_attention(layer, part):
    kernels = _kernels(layer, part)
    _keep_scores(layer, part, layer.key_dim)
    heads, key_dim = kernels["query"][-2:]
    changes = {
        "num_heads": heads,
        "key_dim": key_dim,
        "value_dim": kernels["value"][-1],
    }
    outputs, inputs = kernels["attention_output"][2:], kernels["query"][:-2]
    # By default an attention has as many outputs as its query.
    if layer.get_config()["output_shape"] is not None or outputs != inputs:
        changes["output_shape"] = list(outputs)
    return changes


@register_cutter(layers.GroupQueryAttention)
def _cut_group_query_attention(layer, part):
    kernels = _kernels(layer, part)
    _keep_scores(layer, part, layer.head_dim)
    return {
        "head_dim": kernels["query"][-1],
        "num_query_heads": kernels["query"][-2],
        "num_key_value_heads": kernels["key"][-2],
    }

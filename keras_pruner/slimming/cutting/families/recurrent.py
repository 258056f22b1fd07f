"""Cutters of recurrent layers. Wrappers of layers hold these in their configs."""

from keras import layers

from keras_pruner.slimming.cutting.registry import register_cutter


@register_cutter((layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell))
def _cut_cell(layer, part):
    return {"units": part.shapes(layer)["recurrent_kernel"][0]}


@register_cutter((layers.SimpleRNN, layers.GRU, layers.LSTM))
def _cut_recurrent(layer, part):
    return _cut_cell(layer.cell, part)

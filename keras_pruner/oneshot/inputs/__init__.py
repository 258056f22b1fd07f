"""Tells what multiplies each kernel while a model runs on data."""

from keras_pruner.oneshot.inputs import recurrent as recurrent  # Its rules.
from keras_pruner.oneshot.inputs import torch_modules as torch_modules
from keras_pruner.oneshot.inputs.collect import CallOrder, InputCollector
from keras_pruner.oneshot.inputs.convolutions import conv_inputs
from keras_pruner.oneshot.inputs.dense import einsum_inputs
from keras_pruner.oneshot.inputs.rows import KernelInputs, Rows, dense_inputs
from keras_pruner.oneshot.inputs.rules import register_kernel_inputs
from keras_pruner.oneshot.inputs.watch import Watch, forward_of, watch_calls

__all__ = [
    "CallOrder",
    "InputCollector",
    "KernelInputs",
    "Rows",
    "Watch",
    "conv_inputs",
    "dense_inputs",
    "einsum_inputs",
    "forward_of",
    "register_kernel_inputs",
    "watch_calls",
]

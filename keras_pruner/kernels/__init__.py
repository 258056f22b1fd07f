"""Finds the prunable variables of a model as matrices, and selects among them."""

from keras_pruner.kernels.filters import check_regex, check_selector, matches_path
from keras_pruner.kernels.find import (
    check_built,
    find_all_kernels,
    find_kernels,
    find_wrapped,
    masks_of,
)
from keras_pruner.kernels.kernel import (
    NOT_A_MATRIX,
    Coupling,
    Kernel,
    KernelSearch,
    ScoredKernel,
    Skipped,
)
from keras_pruner.kernels.layouts import (
    KernelLayout,
    conv_layout,
    conv_transpose_layout,
    dense_layout,
    depthwise_layout,
    einsum_layout,
    stacked_layout,
)
from keras_pruner.kernels.quantized import integers_of, is_quantized, refuse_quantized
from keras_pruner.kernels.rules import (
    own_variables,
    register_kernel_rule,
    registered_layouts,
)
from keras_pruner.kernels.select import Selection, select_in_model, select_kernels

__all__ = [
    "Coupling",
    "Kernel",
    "KernelLayout",
    "KernelSearch",
    "NOT_A_MATRIX",
    "ScoredKernel",
    "Selection",
    "Skipped",
    "check_built",
    "check_regex",
    "check_selector",
    "conv_layout",
    "conv_transpose_layout",
    "dense_layout",
    "depthwise_layout",
    "einsum_layout",
    "find_all_kernels",
    "find_kernels",
    "find_wrapped",
    "integers_of",
    "is_quantized",
    "masks_of",
    "matches_path",
    "own_variables",
    "refuse_quantized",
    "register_kernel_rule",
    "registered_layouts",
    "select_in_model",
    "select_kernels",
    "stacked_layout",
]

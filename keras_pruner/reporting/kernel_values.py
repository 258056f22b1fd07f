"""Reads the weights that a layer computes with, also if they are packed."""

import numpy as np
from keras import ops

from keras_pruner.kernels import integers_of


def masked_value(variable, masks):
    """Returns a variable as an array, after its wrapper's mask is applied.

    Args:
        variable: `keras.Variable`.
        masks: Dict from the id of a variable to its mask; see `masks_of`.
    """
    values = ops.convert_to_numpy(variable)
    mask = masks.get(id(variable))
    return values if mask is None else np.where(ops.convert_to_numpy(mask), values, 0)


def weights_of(kernel, masks):
    """Returns an array that is zero where the weight of a kernel is zero, or `None`.

    Masked weights are zero. Quantized weights are integers, one an element, from which
    the zero point is subtracted. LoRA adds `lora_alpha / lora_rank * A @ B`.

    Args:
        kernel: `Kernel`.
        masks: Dict from the id of a variable to its mask.

    Returns:
        Array of the shape of the layer's kernel. `None` if the layer packs its weights
        in a way that this function does not know.
    """
    layer, variable = kernel.layer, kernel.variable
    values = masked_value(variable, masks)
    mode = getattr(layer, "quantization_mode", None)
    if mode is not None and np.issubdtype(values.dtype, np.integer):
        integers = integers_of(layer, variable.name, values)
        values = None if integers is None else integers.weights
    factor = getattr(layer, f"lora_{variable.name}_a", None)
    if values is None or factor is None:
        return values
    other = getattr(layer, f"lora_{variable.name}_b")
    alpha = getattr(layer, "lora_alpha", None)
    scale = (layer.lora_rank if alpha is None else alpha) / layer.lora_rank
    product = scale * ops.convert_to_numpy(ops.matmul(factor, other))
    # The scale of integers is not that of the product.
    return values + product if mode is None else np.logical_or(values, product)

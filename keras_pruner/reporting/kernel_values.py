"""Reads the weights that a layer computes with, also if they are packed."""

import math

import numpy as np
from keras import layers, ops, quantizers

# Modes that store weights of 4 bits, or integers around a zero point.
_PACKED_MODES = ("int4", "gptq", "awq")


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
    if mode in _PACKED_MODES and np.issubdtype(values.dtype, np.integer):
        values = _unpacked(layer, variable.name, values, mode)
    factor = getattr(layer, f"lora_{variable.name}_a", None)
    if values is None or factor is None:
        return values
    other = getattr(layer, f"lora_{variable.name}_b")
    alpha = getattr(layer, "lora_alpha", None)
    scale = (layer.lora_rank if alpha is None else alpha) / layer.lora_rank
    product = scale * ops.convert_to_numpy(ops.matmul(factor, other))
    # The scale of integers is not that of the product.
    return values + product if mode is None else np.logical_or(values, product)


def _unpacked(layer, name, stored, mode):
    """Returns stored integers, minus their zero points, in the kernel's shape."""
    shape = _full_shape(layer, name)
    if shape is None or not getattr(layer, f"is_{mode}_calibrated", True):
        return None
    # Rows are inputs and columns outputs, except in `stored` of GPTQ and AWQ.
    is_transposed = mode != "int4"
    axis = 0 if is_transposed or name == "reverse_embeddings" else 1
    num_packed = math.prod(shape) // stored.shape[1 - axis]
    if mode == "gptq" and stored.shape[axis] == num_packed:
        # GPTQ packs 4 bits only. A single one of them is stored as itself.
        values = stored.astype("int32")
    elif stored.ndim == 2 and stored.shape[axis] == (num_packed + 1) // 2:
        dtype = str(stored.dtype)
        packed = ops.convert_to_tensor(stored)
        values = quantizers.unpack_int4(packed, num_packed, axis=axis, dtype=dtype)
        values = ops.convert_to_numpy(values).astype("int32")
    else:
        return None
    zero = getattr(layer, f"{name}_zero", None)
    if zero is not None:
        along = 1 if is_transposed or name == "embeddings" else 0
        group = ops.convert_to_numpy(layer.g_idx).astype("int32")
        values = values - np.take(ops.convert_to_numpy(zero), group, axis=along)
    return (values.T if is_transposed else values).reshape(shape)


def _full_shape(layer, name):
    """Returns the shape that a packed kernel has unpacked, or `None`."""
    if isinstance(layer, layers.Embedding):
        shape = layer.input_dim, layer.output_dim
        return shape[::-1] if name == "reverse_embeddings" else shape
    if isinstance(layer, layers.Dense) and layer.input_spec.axes:
        return layer.input_spec.axes[-1], layer.units
    return getattr(layer, "original_kernel_shape", None)

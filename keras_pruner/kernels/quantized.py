"""Reads and writes the integers of quantized kernels, also if they are packed."""

import dataclasses
import math

import numpy as np
from keras import layers, ops, quantizers

# Modes that store weights of 4 bits, or integers around a zero point.
_PACKED_MODES = ("int4", "gptq", "awq")


@dataclasses.dataclass(frozen=True)
class Integers:
    """The integers of a quantized kernel, one an element.

    Args:
        values: Int32 array: the stored integers.
        zero: The integer that stands for the weight 0, as an array that broadcasts
            against `values`.
        shape: Shape of the layer's kernel.
        dtype: Name of the type in which they are stored.
        packed_axis: Axis of `values` along which two share a byte, or `None`.
        is_transposed: Whether rows of `values` are outputs.
    """

    values: np.ndarray
    zero: np.ndarray
    shape: tuple
    dtype: str
    packed_axis: int | None = None
    is_transposed: bool = False

    @property
    def weights(self):
        """Int32 array of the kernel's shape that is zero where a weight is zero."""
        weights = self.values - self.zero
        return (weights.T if self.is_transposed else weights).reshape(self.shape)

    def stored(self, is_zero):
        """Returns the array to store if more weights are zero.

        Args:
            is_zero: Bool array of the kernel's shape.
        """
        if self.is_transposed:
            is_zero = is_zero.reshape(self.values.shape[::-1]).T
        is_zero = is_zero.reshape(self.values.shape)
        values = np.where(is_zero, self.zero, self.values).astype(self.dtype)
        if self.packed_axis is None:
            return values
        values = ops.convert_to_tensor(values)
        packed = quantizers.pack_int4(values, axis=self.packed_axis, dtype=self.dtype)
        return ops.convert_to_numpy(packed[0])


def integers_of(layer, name, stored):
    """Returns the `Integers` of a quantized kernel.

    Args:
        layer: Quantized Keras layer.
        name: Name of the kernel's variable.
        stored: Its value, an array of integers.

    Returns:
        `Integers`, or `None` if the layer is not calibrated yet, or packs its weights
        in a way that this function does not know.
    """
    mode, dtype = layer.quantization_mode, str(stored.dtype)
    if mode not in _PACKED_MODES:
        return Integers(stored.astype("int32"), np.int32(0), stored.shape, dtype)
    shape = _full_shape(layer, name)
    if shape is None or not getattr(layer, f"is_{mode}_calibrated", True):
        return None
    # Rows are inputs and columns outputs, except in `stored` of GPTQ and AWQ.
    is_transposed = mode != "int4"
    axis, length = _packed_axis(stored.shape, shape, is_transposed)
    if mode == "gptq" and stored.shape[0] == length:
        # GPTQ packs 4 bits only. A single one of them is stored as itself.
        values, axis = stored.astype("int32"), None
    elif axis is not None:
        packed = ops.convert_to_tensor(stored)
        values = quantizers.unpack_int4(packed, length, axis=axis, dtype=dtype)
        values = ops.convert_to_numpy(values).astype("int32")
    else:
        return None
    point, zero = getattr(layer, f"{name}_zero", None), np.int32(0)
    if point is not None:
        along = 1 if is_transposed or name == "embeddings" else 0
        group = ops.convert_to_numpy(layer.g_idx).astype("int32")
        point = ops.convert_to_numpy(point).astype("int32")
        zero = np.take(point, group, axis=along)
    return Integers(values, zero, shape, dtype, axis, is_transposed)


def is_quantized(layer):
    """Whether a layer is quantized, in whatever mode."""
    return getattr(layer, "quantization_mode", None) is not None


def refuse_quantized(kernels, function):
    """Raises an error if layers of kernels are quantized, e.g. to float8.

    Args:
        kernels: Iterable of `Kernel`s.
        function: Name of the function or class that cannot prune them.
    """
    for kernel in kernels:
        mode = getattr(kernel.layer, "quantization_mode", None)
        if mode is not None:
            raise ValueError(
                f"`{function}` does not take layer '{kernel.layer.name}', which is "
                f"quantized ({mode}): prune before `quantize`. A float8 layer can also "
                "be pruned while it trains, by PruningCallback without wrapper layers."
            )


def _packed_axis(stored, shape, is_transposed):
    """Returns the axis along which pairs are packed, or `None`, and its full length.

    Args:
        stored: Shape of the packed integers.
        shape: Shape of the kernel.
        is_transposed: Whether `stored` has the outputs first.
    """
    if is_transposed:
        length = math.prod(shape) // stored[1]
        return (0 if stored[0] == (length + 1) // 2 else None), length
    if len(stored) != len(shape) == 3:
        # A kernel of three axes, stored as a matrix with packed columns.
        length = math.prod(shape) // stored[0]
        return (1 if stored[1] == (length + 1) // 2 else None), length
    for axis in reversed(range(len(shape))):
        packed = (*shape[:axis], (shape[axis] + 1) // 2, *shape[axis + 1 :])
        if stored == packed:
            return axis, shape[axis]
    return None, None


def _full_shape(layer, name):
    """Returns the shape that a packed kernel has unpacked, or `None`."""
    if isinstance(layer, layers.Embedding):
        shape = layer.input_dim, layer.output_dim
        return shape[::-1] if name == "reverse_embeddings" else shape
    if isinstance(layer, layers.Dense) and layer.input_spec.axes:
        return layer.input_spec.axes[-1], layer.units
    known = getattr(layer, "original_kernel_shape", None)
    if known is None and getattr(layer, "lora_enabled", False):
        factors = [getattr(layer, f"lora_{name}_{end}", None) for end in "ab"]
        if all(factor is not None for factor in factors):
            return *factors[0].shape[:-1], factors[1].shape[-1]
    # Keras 3.12 tells only the unpacked kernel.
    return known or getattr(getattr(layer, name, None), "shape", None)

import re
from typing import Any, Self

import keras
from keras import ops

from keras_pruner.backend import reduce_blocks
from keras_pruner.checks import check_in_range
from keras_pruner.components.patterns.base import Pattern, register_pattern
from keras_pruner.kernels import KernelLayout
from keras_pruner.types import Tensor


@register_pattern("{n}x{m}")
class Block(Pattern):
    """Prunes whole blocks of `outputs` by `inputs` of the kernel's matrix.

    A block of `"4x1"` is four outputs that share one input. The matrix (K, N) has
    K / inputs by N / outputs blocks. A kernel that does not divide stays dense.

    Args:
        outputs: Block size along the output axis N, >= 1.
        inputs: Block size along the reduction axis K, >= 1.

    References:
        The documentation of Intel Neural Compressor defines `NxM` so.
    """

    keeps_outputs = True

    def __init__(self, outputs: int, inputs: int) -> None:
        what = "of a block pattern 'NxM'"
        self.outputs = check_in_range(outputs, f"N {what}", 1, integer=True)
        self.inputs = check_in_range(inputs, f"M {what}", 1, integer=True)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        # More digits fit no kernel.
        match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
        # "1x1" is a pattern of its own, which is registered before this one.
        return cls(int(match[1]), int(match[2])) if match else None

    def reason_to_skip(self, layout: KernelLayout) -> str | None:
        if layout.outputs % self.outputs:
            return (
                f"pattern '{self}' needs an output axis divisible by {self.outputs}, "
                f"but it has {layout.outputs} outputs"
            )
        if layout.outputs // layout.groups % self.outputs:
            return (
                f"pattern '{self}' needs {self.outputs} outputs that share inputs, "
                f"but {layout.groups} groups of the convolution have "
                f"{layout.outputs // layout.groups} each"
            )
        if layout.rows % self.inputs:
            return (
                f"pattern '{self}' needs a reduction axis divisible by {self.inputs}, "
                f"but it has size {layout.rows}"
            )
        return None

    @property
    def rows_of_group(self) -> int | None:
        return self.inputs

    def num_groups(self, layout: KernelLayout) -> int:
        return layout.size // (self.outputs * self.inputs)

    def group_size(self, layout: KernelLayout) -> int:
        return self.outputs * self.inputs

    def group_scores(
        self, scores: Tensor, layout: KernelLayout, reduction: str
    ) -> Tensor:
        matrix = ops.reshape(scores, (layout.rows, layout.outputs))
        return reduce_blocks(matrix, self.inputs, self.outputs, reduction)

    def spread(self, values: Tensor, layout: KernelLayout) -> Tensor:
        columns = _repeat_columns(values, self.outputs)
        return ops.repeat(columns, self.inputs, axis=0)

    def get_config(self) -> dict[str, Any]:
        return {"outputs": self.outputs, "inputs": self.inputs}

    def __str__(self) -> str:
        return f"{self.outputs}x{self.inputs}"


def _repeat_columns(matrix, times):
    """Repeats each entry along its row: (rows, n) -> (rows, n * times)."""
    is_bool = keras.backend.standardize_dtype(matrix.dtype) == "bool"
    if times % 4 or not is_bool or keras.backend.backend() == "torch":
        return ops.repeat(matrix, times, axis=1)
    # XLA repeats the four bytes of an integer faster than four bools. torch has no XLA,
    # and views bytes of contiguous tensors only.
    words = ops.repeat(ops.cast(matrix, "int32"), times // 4, axis=1)
    return ops.view(words * 0x01010101, "uint8") != 0

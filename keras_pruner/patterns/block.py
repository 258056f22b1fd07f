import re

from keras import ops

from keras_pruner.patterns.base import Pattern, register_pattern
from keras_pruner.reductions import reduce_groups


@register_pattern("{n}x{m}")
class Block(Pattern):
    """Blocks of `outputs` by `inputs` of the kernel's matrix, pruned whole.

    `"4x1"` is four outputs that share one input. The matrix (K, N) is cut into
    K / inputs by N / outputs blocks; a kernel that does not divide stays dense.

    Args:
        outputs: Block size along the output axis N, >= 1.
        inputs: Block size along the reduction axis K, >= 1.

    References:
        Intel Neural Compressor's documented meaning of `NxM`.
    """

    def __init__(self, outputs, inputs):
        if not all(isinstance(n, int) and n >= 1 for n in (outputs, inputs)):
            raise ValueError(
                "A block pattern 'NxM' needs N >= 1 outputs and M >= 1 inputs. "
                f"Received: '{outputs}x{inputs}'"
            )
        self.outputs = outputs
        self.inputs = inputs

    @classmethod
    def parse(cls, text):
        match = re.fullmatch(r"(\d+)x(\d+)", text)
        # "1x1" is a pattern of its own, registered before this one.
        return cls(int(match[1]), int(match[2])) if match else None

    def reason_to_skip(self, layout):
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

    def num_groups(self, layout):
        return layout.size // (self.outputs * self.inputs)

    def group_size(self, layout):
        return self.outputs * self.inputs

    def group_scores(self, scores, layout, reduction):
        # (K / inputs, inputs, N / outputs, outputs)
        blocks = ops.reshape(
            scores,
            (
                layout.rows // self.inputs,
                self.inputs,
                layout.outputs // self.outputs,
                self.outputs,
            ),
        )
        return reduce_groups(blocks, (1, 3), reduction)

    def spread(self, values, layout):
        rows = ops.repeat(values, self.inputs, axis=0)
        return ops.repeat(rows, self.outputs, axis=1)

    def get_config(self):
        return {"outputs": self.outputs, "inputs": self.inputs}

    def __str__(self):
        return f"{self.outputs}x{self.inputs}"

import re
from typing import Any, Self

from keras import ops

from keras_pruner.backend import ordered_sum, reduce_groups, rounded_square
from keras_pruner.checks import check_in_range
from keras_pruner.components.patterns.base import Pattern, register_pattern
from keras_pruner.kernels import KernelLayout
from keras_pruner.types import Tensor


@register_pattern("{n}:{m}")
class NOfM(Pattern):
    """Prunes `n` of every `m` consecutive weights along the reduction axis.

    In a convolution the `m` weights are consecutive input channels at one window
    position. A group's score reduces its `n` lowest scores, because these are lost
    when it is pruned. Under a schedule the groups with the lowest scores become n:m
    first; at sparsity n/m all groups are.

    Args:
        n: Weights PRUNED in a group, 1 <= n < m.
        m: Weights in a group.

    References:
        [Learning N:M fine-grained sparse networks, Zhou et al., 2021](https://arxiv.org/abs/2102.04010)
    """

    chooses_weights = True
    keeps_outputs = True

    def __init__(self, n: int, m: int) -> None:
        self.n = check_in_range(n, "n of a pattern 'n:m'", integer=True)
        self.m = check_in_range(m, "m of a pattern 'n:m'", integer=True)
        if not 1 <= self.n < self.m:
            raise ValueError(
                "An 'n:m' pattern prunes n of every m weights, so 1 <= n < m. "
                f"Received: '{n}:{m}'"
            )

    @property
    def rows_of_group(self) -> int | None:
        return self.m

    @property
    def max_sparsity(self) -> float:
        return self.n / self.m

    @classmethod
    def parse(cls, text: str) -> Self | None:
        # More digits fit no kernel.
        match = re.fullmatch(r"([0-9]{1,9}):([0-9]{1,9})", text)
        return cls(int(match[1]), int(match[2])) if match else None

    def reason_to_skip(self, layout: KernelLayout) -> str | None:
        if layout.inputs % self.m:
            return (
                f"pattern '{self}' needs an input axis divisible by {self.m}, "
                f"but each output sees {layout.inputs} inputs"
            )
        return None

    def num_groups(self, layout: KernelLayout) -> int:
        return layout.size // self.m

    def group_size(self, layout: KernelLayout) -> int:
        return self.n

    def _ranked(self, scores, layout):
        """Returns scores as (K / m, m, N), and a mask of each group's n lowest."""
        grouped = ops.reshape(scores, (layout.rows // self.m, self.m, layout.outputs))
        position = ops.reshape(ops.arange(self.m, dtype="int32"), (1, self.m, 1))
        rank = ops.zeros_like(grouped, dtype="int32")
        for other in range(self.m):
            rival = grouped[:, other : other + 1]
            # Equal scores rank by position, so a group has exactly n lowest.
            wins = ops.where(position > other, rival <= grouped, rival < grouped)
            rank = rank + ops.cast(wins, "int32")
        return grouped, rank < self.n

    def group_scores(
        self, scores: Tensor, layout: KernelLayout, reduction: str
    ) -> Tensor:
        grouped, lowest = self._ranked(scores, layout)
        lost = ops.where(lowest, grouped, ops.zeros_like(grouped))
        if reduction == "max":
            lost = ops.where(lowest, grouped, ops.full_like(grouped, -float("inf")))
            return ops.max(lost, axis=1)
        if reduction == "l2":
            return ops.sqrt(ordered_sum(rounded_square(lost), 1))
        total = ordered_sum(lost, 1)
        return total * (1.0 / self.n) if reduction == "mean" else total

    def spread(self, values: Tensor, layout: KernelLayout) -> Tensor:
        return ops.repeat(values, self.m, axis=0)

    def group_norms(self, weight: Tensor, layout: KernelLayout) -> Tensor:
        # The norm includes all m weights, not only the n lowest.
        grouped = ops.reshape(
            ops.cast(weight, "float32"), (layout.rows // self.m, self.m, layout.outputs)
        )
        return reduce_groups(grouped, (1,), "l2")

    def expand(self, pruned: Tensor, scores: Tensor, layout: KernelLayout) -> Tensor:
        _, lowest = self._ranked(scores, layout)
        dropped = ops.logical_and(ops.expand_dims(pruned, 1), lowest)
        return ops.reshape(ops.logical_not(dropped), (layout.rows, layout.outputs))

    def get_config(self) -> dict[str, Any]:
        return {"n": self.n, "m": self.m}

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

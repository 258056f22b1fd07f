from typing import Any

from keras_pruner.components.allocations.base import register_allocation
from keras_pruner.components.allocations.uniform import Uniform


@register_allocation("per_output")
class PerOutput(Uniform):
    """Prunes every output of every kernel to the same sparsity.

    Groups are ranked within each output, that is, within each column of the kernel's
    matrix. A kernel loses as many groups as under `Uniform`; the first columns lose one
    more group if the count does not divide.

    References:
        [A simple and effective pruning approach for large language models, Sun et al.,
        2023](https://arxiv.org/abs/2306.11695)
    """

    ranks_within_outputs = True

    def check(self, config: Any) -> None:
        if not config.pattern.keeps_outputs:
            raise ValueError(
                "Allocation 'per_output' ranks groups within each output, but the "
                f"groups of pattern '{config.pattern}' span outputs, or are outputs. "
                "Use pattern '1x1', blocks or 'n:m', or another allocation."
            )

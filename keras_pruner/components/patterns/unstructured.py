from keras_pruner.components.patterns.base import Pattern, register_pattern
from keras_pruner.kernels import KernelLayout
from keras_pruner.types import Tensor


@register_pattern("1x1")
class Unstructured(Pattern):
    """Prunes single weights: every weight is a group of its own."""

    chooses_weights = True
    is_unstructured = True
    keeps_outputs = True
    rows_of_group = 1

    def num_groups(self, layout: KernelLayout) -> int:
        return layout.size

    def group_size(self, layout: KernelLayout) -> int:
        return 1

    def group_scores(
        self, scores: Tensor, layout: KernelLayout, reduction: str
    ) -> Tensor:
        return scores

    def spread(self, values: Tensor, layout: KernelLayout) -> Tensor:
        return values

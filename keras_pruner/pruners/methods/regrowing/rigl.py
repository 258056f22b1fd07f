import math
from typing import Any

from keras import ops

from keras_pruner.config import register_pruner
from keras_pruner.pruners.methods.regrowing.dynamic import DynamicPruner
from keras_pruner.pruners.training_rule import StateSpec, TrainingRule
from keras_pruner.types import Tensor


class _RememberGradient(TrainingRule):
    """Keeps the magnitude of the latest gradient, also of pruned weights."""

    observes_gradients = True

    def states(self):
        dtype = "bfloat16" if self.config.low_memory_usage else "float32"
        shape = tuple(self.kernel.variable.shape)
        return super().states() | {"gradient": StateSpec(shape, dtype)}

    def accumulate(self, state, weight, gradient):
        latest = ops.cast(ops.abs(gradient), state["gradient"].dtype)
        return super().accumulate(state, weight, gradient) | {"gradient": latest}


@register_pruner("rigl")
class RigL(DynamicPruner):
    """Drops the smallest weights, and grows where the gradient is largest.

    Each update drops the active weights of the lowest score in each kernel. Their share
    is `drop_fraction / 2 * (1 + cos(pi * t / T))` at t steps after the first update;
    the last is at t = T. It grows as many where the gradient of the latest step is
    largest. With a schedule that grows, such as `"polynomial"`, it prunes gradually and
    regrows.

    Options:
        drop_fraction: Share to drop at first, in [0, 1]. Defaults to 0.3.

    References:
        [Rigging the lottery, Evci et al., 2020](https://arxiv.org/abs/1911.11134);
        with a growing sparsity [GraNet, Liu et al.,
        2021](https://arxiv.org/abs/2106.10404)
    """

    rule_class = _RememberGradient
    states_in_update = ("gradient",)

    def drop_fraction(self, step: int) -> float:
        length = max(1, self.scheduler.last_update - self.scheduler.begin)
        progress = min(1.0, step / length)
        return self.options["drop_fraction"] / 2 * (1 + math.cos(math.pi * progress))

    def growth_scores(self, kernel: Any, states: Any, extra: Any) -> Tensor:
        layout = kernel.layout
        gradient = ops.cast(states["gradient"], "float32")
        return kernel.pattern.group_scores(
            layout.to_matrix(gradient), layout, self.config.group_reduction
        )

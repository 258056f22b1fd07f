from typing import Any

from keras_pruner.components.patterns.base import Pattern
from keras_pruner.components.regularizers.base import Regularizer, register_regularizer
from keras_pruner.kernels import Kernel
from keras_pruner.types import Tensor


@register_regularizer("l2")
class L2(Regularizer):
    """Decays weights, the proximal step of `amount / 2 * w^2`.

    `w <- w / (1 + amount)`
    """

    def shrink(
        self, weight: Tensor, amount: Any, kernel: Kernel, pattern: Pattern
    ) -> Tensor:
        return weight / (1 + amount)


@register_regularizer("growing_l2")
class GrowingL2(L2):
    """Decays the weights that the target will prune, by a growing amount.

    `w <- w / (1 + p * amount)`

    It acts on the weights that the criterion would prune now at the final sparsity.
    `p` in [0, 1] is the progress of the schedule at the latest update.

    References:
        [Neural pruning via growing regularization, Wang et al.,
        2021](https://arxiv.org/abs/2012.09243)
    """

    grows = True

from typing import Any

from keras import ops

from keras_pruner.components.patterns.base import Pattern
from keras_pruner.components.regularizers.base import Regularizer, register_regularizer
from keras_pruner.kernels import Kernel
from keras_pruner.types import Tensor


@register_regularizer("l1")
class L1(Regularizer):
    """Applies a soft threshold, the proximal step of `amount * |w|`.

    `w <- sign(w) * max(0, |w| - amount)`

    Example:

    >>> weight = ops.convert_to_tensor([[0.5, -2.0, 0.0, 1.0], [3.0, 0.25, 1.0, -1.0]])
    >>> weight = L1().shrink(weight, 0.5, kernel=None, pattern=None)
    >>> ops.convert_to_numpy(weight).tolist()
    [[0.0, -1.5, 0.0, 0.5], [2.5, 0.0, 0.5, -0.5]]
    """

    def shrink(
        self, weight: Tensor, amount: Any, kernel: Kernel, pattern: Pattern
    ) -> Tensor:
        return ops.sign(weight) * ops.maximum(ops.abs(weight) - amount, 0)


@register_regularizer("growing_l1")
class GrowingL1(L1):
    """Applies a growing soft threshold to the weights that the target will prune.

    `w <- sign(w) * max(0, |w| - p * amount)`

    It acts on the weights that the criterion would prune now at the final sparsity.
    `p` in [0, 1] is the progress of the schedule at the latest update.

    References:
        [Neural pruning via growing regularization, Wang et al.,
        2021](https://arxiv.org/abs/2012.09243)
    """

    grows = True

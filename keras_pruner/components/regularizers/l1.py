from keras import ops

from keras_pruner.components.regularizers.base import Regularizer, register_regularizer


@register_regularizer("l1")
class L1(Regularizer):
    """Applies a soft threshold, the proximal step of `amount * |w|`.

    `w <- sign(w) * max(0, |w| - amount)`
    """

    def shrink(self, weight, amount, kernel, pattern):
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

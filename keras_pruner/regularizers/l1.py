from keras import ops

from keras_pruner.regularizers.base import Regularizer, register_regularizer


@register_regularizer("l1")
class L1(Regularizer):
    """Soft threshold, the proximal step of `amount * |w|`.

    `w <- sign(w) * max(0, |w| - amount)`
    """

    def shrink(self, weight, amount, kernel, pattern):
        return ops.sign(weight) * ops.maximum(ops.abs(weight) - amount, 0)

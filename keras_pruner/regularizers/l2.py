from keras_pruner.regularizers.base import Regularizer, register_regularizer


@register_regularizer("l2")
class L2(Regularizer):
    """Decay, the proximal step of `amount / 2 * w^2`.

    `w <- w / (1 + amount)`
    """

    def shrink(self, weight, amount, kernel, pattern):
        return weight / (1 + amount)

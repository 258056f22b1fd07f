from typing import Any

from keras import ops

from keras_pruner.components.patterns.base import Pattern
from keras_pruner.components.regularizers.base import Regularizer, register_regularizer
from keras_pruner.kernels import Kernel
from keras_pruner.types import Tensor


@register_regularizer("group_lasso")
class GroupLasso(Regularizer):
    """Draws whole groups of the pattern to zero together.

    `w_g <- w_g * max(0, 1 - amount / ||w_g||_2)`

    This is the proximal step of `amount * sum over groups of ||w_g||_2`, where `w_g`
    are the weights of a group. If the pattern couples kernels, as `"mha"` and
    `"channel_groups"` do, these are its weights in all of them. Weights in groups of
    two kinds, as in a row and a column, shrink by both factors.

    Example:

    The columns have the norms 5, 1, 2 and 10, and each norm shrinks by 2.5:

    >>> layer = keras.layers.Dense(4, use_bias=False)
    >>> layer.build((None, 2))
    >>> (kernel,) = find_kernels(layer).kernels
    >>> weight = ops.convert_to_tensor([[3.0, 1.0, 0.0, 6.0], [4.0, 0.0, 2.0, 8.0]])
    >>> weight = GroupLasso().shrink(weight, 2.5, kernel, PATTERNS.get("1xchannel"))
    >>> ops.convert_to_numpy(weight).tolist()
    [[1.5, 0.0, 0.0, 4.5], [2.0, 0.0, 0.0, 6.0]]

    References:
        [Yuan & Lin, 2006](https://doi.org/10.1111/j.1467-9868.2005.00532.x)
    """

    draws_groups = True

    def shrink(
        self, weight: Tensor, amount: Any, kernel: Kernel, pattern: Pattern
    ) -> Tensor:
        norm = pattern.group_norms(weight, kernel.layout)
        amount = ops.cast(amount, norm.dtype)
        factor = ops.maximum(1 - amount / ops.maximum(norm, 1e-12), 0)
        return weight * ops.cast(pattern.spread(factor, kernel.layout), weight.dtype)

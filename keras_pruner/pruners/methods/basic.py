from keras_pruner.pruners.base import register_pruner
from keras_pruner.pruners.keras_base import KerasBasePruner


@register_pruner("basic")
class BasicPruner(KerasBasePruner):
    """Prunes gradually: at every update the masks are made anew from the weights.

    References:
        [To prune, or not to prune, Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

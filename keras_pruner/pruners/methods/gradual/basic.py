from keras_pruner.config import register_pruner
from keras_pruner.pruners.keras_base import KerasBasePruner


@register_pruner("basic")
class BasicPruner(KerasBasePruner):
    """Prunes gradually: every update makes new masks from the weights.

    If the config leaves the criterion open, it follows the target; see
    `PrunerType.criterion_for`.

    References:
        [To prune, or not to prune, Zhu & Gupta, 2017](https://arxiv.org/abs/1710.01878)
    """

from collections.abc import Mapping
from typing import Any

from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.pruners.keras_base import KerasBasePruner


@register_pruner("block_mask")
class BlockMaskPruner(KerasBasePruner):
    """Prunes gradually by the gradients of masks that each multiply a whole group.

    It needs a pattern of blocks, channels or heads, and the criterion of the same name.

    References:
        Intel Neural Compressor's block mask pruner.
    """

    takes_overlaps = False
    default_criterion = "block_mask"

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        if config.pattern.chooses_weights:
            raise ValueError(
                "Pruner 'block_mask' has one mask for a whole group, but pattern "
                f"'{config.pattern}' chooses single weights. Use a pattern such as "
                "'4x1', '1xchannel' or 'mha', or pruning_type 'basic'."
            )
        if config.criterion.name != "block_mask":
            raise ValueError(
                "Pruner 'block_mask' scores by its masks' gradients: leave `criterion` "
                f"open. Received: criterion='{config.criterion.name}'"
            )

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.backend import salt_of, uniform_hash
from keras_pruner.checks import check_option
from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.pruners.methods.regrowing.dynamic import DynamicPruner
from keras_pruner.types import Tensor


@register_pruner("set")
class SET(DynamicPruner):
    """Drops the smallest weights, grows at random (sparse evolutionary training).

    Every update drops `drop_fraction` of each kernel's active weights, those of the
    lowest score. It grows as many at random places.

    Options:
        drop_fraction: Share to drop, in [0, 1]. Defaults to 0.3.
        seed: Integer >= 0 that determines the random places.

    References:
        [Scalable training of artificial neural networks with adaptive sparse
        connectivity, Mocanu et al., 2018](https://arxiv.org/abs/1707.04780)
    """

    default_options = {"drop_fraction": 0.3, "seed": 0}  # noqa: RUF012

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        super().check(config, options)
        check_option(options, "seed", 0, 2**31 - 1, integer=True)

    def growth_scores(self, kernel: Any, states: Any, extra: Any) -> Tensor:
        layout = kernel.layout
        shape = kernel.pattern.group_scores(layout.zeros(), layout, "max").shape
        salt = salt_of(f"{self.options['seed']}/{kernel.path}")
        # A large odd factor spreads neighbouring steps over all bits.
        step = extra["step"] * 0x2545F491
        return uniform_hash(tuple(shape), ops.bitwise_xor(step, salt))

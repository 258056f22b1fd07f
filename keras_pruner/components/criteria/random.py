from typing import Any

from keras_pruner.backend import salt_of, uniform_hash
from keras_pruner.checks import check_in_range
from keras_pruner.components.criteria.base import Criterion, register_criterion
from keras_pruner.kernels import ScoredKernel
from keras_pruner.types import Tensor


@register_criterion("random")
class Random(Criterion):
    """Scores every weight uniformly at random, as a baseline.

    `scores = hash(index, seed, path) / 2^24`, in [0, 1)

    The numbers come from an integer hash of the weight's index, not from a backend's
    generator. So they are equal on every backend and at every update (a pruned weight
    stays pruned), and take no memory.

    Args:
        seed: Integer.
    """

    default_allocation = "erk"

    def __init__(self, seed: int = 0) -> None:
        self.seed = check_in_range(seed, "`seed`", integer=True)

    def scores(self, weight: Tensor, kernel: ScoredKernel) -> Tensor:
        return uniform_hash(weight.shape, salt_of(f"{self.seed}/{kernel.path}"))

    def get_config(self) -> dict[str, Any]:
        return {"seed": self.seed}

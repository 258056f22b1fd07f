from keras import ops

from keras_pruner.components.criteria.base import Criterion, register_criterion
from keras_pruner.kernels import ScoredKernel
from keras_pruner.types import Tensor


@register_criterion("magnitude")
class Magnitude(Criterion):
    """Scores a weight by its absolute value.

    `scores = |weight|`

    Example:

    >>> weight = ops.convert_to_tensor([[0.5, -2.0, 0.0, 1.0], [3.0, -0.25, 1.0, -1.0]])
    >>> scores = Magnitude().scores(weight, kernel=None)
    >>> ops.convert_to_numpy(scores).tolist()
    [[0.5, 2.0, 0.0, 1.0], [3.0, 0.25, 1.0, 1.0]]

    References:
        [Learning both weights and connections, Han et al., 2015](https://arxiv.org/abs/1506.02626)
    """

    def scores(self, weight: Tensor, kernel: ScoredKernel) -> Tensor:
        return ops.abs(ops.cast(weight, "float32"))

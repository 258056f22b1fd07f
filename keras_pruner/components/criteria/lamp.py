from keras import ops

from keras_pruner.backend import rounded_square, running_sum, scale_to_one
from keras_pruner.components.criteria.base import Criterion, register_criterion
from keras_pruner.kernels import ScoredKernel
from keras_pruner.types import Tensor


@register_criterion("lamp")
class Lamp(Criterion):
    """Scores by magnitudes that are comparable across kernels (layer-adaptive).

    `scores = weight^2 / (sum of v^2 over all v of the kernel with |v| >= |weight|)`

    Scores are in [0, 1] and ranked over all kernels together. Equal weights have equal
    scores. Within one kernel the order is that of magnitude.

    Example:

    The four weights of size 1 share a denominator of 4 + 4 * 1:

    >>> weight = ops.convert_to_tensor([[2.0, 1.0, 0.0, -1.0], [1.0, 0.0, -1.0, 0.0]])
    >>> scores = Lamp().scores(weight, kernel=None)
    >>> ops.convert_to_numpy(scores).tolist()
    [[1.0, 0.125, 0.0, 0.125], [0.125, 0.0, 0.125, 0.0]]

    References:
        [Layer-adaptive sparsity, Lee et al., 2021](https://arxiv.org/abs/2010.07611)
    """

    default_allocation = "global"

    def scores(self, weight: Tensor, kernel: ScoredKernel) -> Tensor:
        weight = ops.cast(weight, "float32")
        squares = rounded_square(weight * scale_to_one(weight))
        flat = ops.reshape(squares, (-1,))
        order = ops.argsort(-flat)
        largest_first = ops.take(flat, order)
        totals = running_sum(largest_first)
        # The total of the last of equal weights includes all of them.
        last = ops.concatenate(
            [largest_first[1:] != largest_first[:-1], ops.ones((1,), "bool")]
        )
        totals = _next_marked(totals, last)
        scores = ops.where(
            largest_first > 0, largest_first / ops.maximum(totals, 1e-37), 0.0
        )
        inverse = ops.argsort(order)
        return ops.reshape(ops.take(scores, inverse), weight.shape)


def _next_marked(values, marked):
    """Returns, for each position, the value at the next marked one or at itself."""
    # Totals only grow, so the next marked value is the minimum of all that follow.
    values = ops.where(marked, values, float("inf"))
    size, reach = values.shape[0], 1
    while reach < size:
        ahead = ops.concatenate(
            [values[reach:], ops.full((reach,), float("inf"), values.dtype)]
        )
        values = ops.minimum(values, ahead)
        reach *= 2
    return values

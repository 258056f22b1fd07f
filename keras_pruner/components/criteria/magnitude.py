from keras import ops

from keras_pruner.components.criteria.base import Criterion, register_criterion


@register_criterion("magnitude")
class Magnitude(Criterion):
    """Scores a weight by its absolute value.

    `scores = |weight|`

    References:
        [Learning both weights and connections, Han et al., 2015](https://arxiv.org/abs/1506.02626)
    """

    def scores(self, weight, kernel):
        return ops.abs(ops.cast(weight, "float32"))

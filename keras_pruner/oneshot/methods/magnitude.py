from keras import ops

from keras_pruner.oneshot.methods.base import (
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.methods.refit import masked


@register_one_shot_method("magnitude")
class Magnitude(OneShotMethod):
    """Keeps the largest weights unchanged, and reads no data.

    `scores = |W|`
    """

    def solve(self, problem):
        mask = problem.select(ops.abs(problem.weights))
        return Solution(masked(problem.weights, mask), mask)

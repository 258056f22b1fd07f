from keras import ops

from keras_pruner.checks import check_bool
from keras_pruner.oneshot.methods.base import (
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.methods.refit import masked


@register_one_shot_method("wanda")
class Wanda(OneShotMethod):
    """Keeps the weights of the largest effect, taken one by one, unchanged.

    `scores = |T| sqrt(diag H)`, the norm of the input times the weight. T is the
    problem's target: the kernel's own weights, unless it fits the dense outputs. If the
    problem is centred, the norm is that of the deviation from the mean.

    Args:
        per_output: Whether each output loses the same number of groups, as published.
            Otherwise all weights of the kernel compete. Patterns of whole channels
            always compete in the whole kernel.

    References:
        [A Simple and Effective Pruning Approach for Large Language Models, Sun et al.,
        2023](https://arxiv.org/abs/2306.11695)
    """

    def __init__(self, per_output=True):
        self.per_output = check_bool(per_output, "`per_output`")

    def solve(self, problem):
        mask = problem.select(input_scores(problem), self.per_output)
        return Solution(masked(problem.target, mask), mask)

    def get_config(self):
        return {"per_output": self.per_output}


def input_scores(problem):
    """Returns `|T| sqrt(diag H)` as float32 (K, N)."""
    return problem.join(
        [
            ops.abs(part.target) * ops.sqrt(ops.maximum(part.variance, 0.0))[:, :, None]
            for part in problem.parts
        ]
    )

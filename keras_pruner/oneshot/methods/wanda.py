from keras import ops

from keras_pruner.checks import check_bool, check_in_range
from keras_pruner.oneshot.methods.base import (
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.methods.refit import masked, refit
from keras_pruner.oneshot.problem import join, split


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
        refit_steps: Steps of conjugate gradients that then fit the kept weights, >= 0.
            As published there are none. With `per_output=False` and 5 steps the error
            tells at little cost how well a kernel can be pruned.

    References:
        [A Simple and Effective Pruning Approach for Large Language Models, Sun et al.,
        2023](https://arxiv.org/abs/2306.11695)
    """

    def __init__(self, per_output=True, refit_steps=0):
        self.per_output = check_bool(per_output, "`per_output`")
        self.refit_steps = check_in_range(refit_steps, "`refit_steps`", 0, integer=True)

    def solve(self, problem):
        mask = problem.select(input_scores(problem), self.per_output)
        if not self.refit_steps:
            return Solution(masked(problem.target, mask), mask)
        weights = problem.call(
            _refit_kept,
            [part.hessian for part in problem.parts],
            [part.target for part in problem.parts],
            mask,
            *problem.inputs,
            num_steps=self.refit_steps,
        )
        return Solution(weights, mask)

    def get_config(self):
        return {"per_output": self.per_output, "refit_steps": self.refit_steps}


def input_scores(problem):
    """Returns `|T| sqrt(diag H)` as float32 (K, N)."""
    return problem.join(
        [
            ops.abs(part.target) * ops.sqrt(ops.maximum(part.variance, 0.0))[:, :, None]
            for part in problem.parts
        ]
    )


def _refit_kept(hessians, targets, mask, columns, order, *, num_steps):
    masks = split(mask, columns)
    starts = [masked(t, m) for t, m in zip(targets, masks, strict=True)]
    found = refit(hessians, targets, starts, masks, num_steps=num_steps)
    return masked(join(found, order), mask)

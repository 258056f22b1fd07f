from functools import partial

import numpy as np
from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.masks import as_counts
from keras_pruner.oneshot.methods.base import (
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.methods.refit import (
    add_to_diagonal,
    masked,
    normalise,
    refit,
)
from keras_pruner.oneshot.problem import choose, join, split


@register_one_shot_method("admm")
class ADMM(OneShotMethod):
    """Alternates between the least-squares fit and the mask, then refits what is kept.

    H is damped and scaled to a unit diagonal, and T scaled with it. For each of
    `num_penalties` values of rho, in equal ratios from `first_penalty` to
    `last_penalty`, it repeats `num_steps` times

        X = (H + rho I)^-1 (H T - V + rho Z)
        mask = the highest groups of |X + V / rho|
        Z = mask * (X + V / rho)
        V = V + rho (X - Z)

    from `Z = T`, `V = 0`. `refit_steps` steps of conjugate gradients then fit the
    kept weights. Each rho costs one inverse of H, and each step one product with it.

    Args:
        num_penalties: Values of rho, >= 1.
        num_steps: Steps for each value, >= 1.
        first_penalty: First rho, > 0, relative to the diagonal of H.
        last_penalty: Last rho, >= `first_penalty`.
        refit_steps: Steps of the refit, >= 0.
        damping: Share of the mean diagonal that is added to H, > 0.

    References:
        [Fast and Effective Weight Update for Pruned Large Language Models, Boza,
        2024](https://arxiv.org/abs/2401.02938)
    """

    weighs_outputs = True

    def __init__(
        self, num_penalties=6, num_steps=5, first_penalty=0.03, last_penalty=3.0,
        refit_steps=10, damping=0.01,
    ):  # fmt: skip
        self.num_penalties = check_in_range(
            num_penalties, "`num_penalties`", 1, integer=True
        )
        self.num_steps = check_in_range(num_steps, "`num_steps`", 1, integer=True)
        self.first_penalty = check_in_range(
            first_penalty, "`first_penalty`", 0, open_low=True
        )
        self.last_penalty = check_in_range(
            last_penalty, "`last_penalty`", self.first_penalty
        )
        self.refit_steps = check_in_range(refit_steps, "`refit_steps`", 0, integer=True)
        self.damping = check_in_range(damping, "`damping`", 0, open_low=True)

    def solve(self, problem):
        call, inputs = problem.call, problem.inputs
        hessians, targets, scales = call(
            normalise,
            [part.hessian for part in problem.parts],
            [part.target for part in problem.parts],
            ops.convert_to_tensor(self.damping, dtype="float32"),
        )
        products = call(right_sides, hessians, targets)
        sparse, duals = targets, [ops.zeros_like(target) for target in targets]
        fixed = [] if problem.mask is None else [problem.mask]
        count = as_counts(problem.count)
        penalties = np.geomspace(
            self.first_penalty, self.last_penalty, self.num_penalties
        )
        for value in penalties.astype("float32"):
            penalty = ops.convert_to_tensor(value)
            inverses = problem.compute_once(
                ("admm", self.damping, float(value)),
                partial(_inverses, hessians, penalty),
            )
            for _ in range(self.num_steps):
                sparse, duals, mask = call(
                    _step, inverses, products, sparse, duals, penalty, count, fixed,
                    *inputs, **problem.choice(),
                )  # fmt: skip
        weights = call(
            refit_unscaled, hessians, targets, sparse, scales, mask, *inputs,
            num_steps=self.refit_steps,
        )  # fmt: skip
        return Solution(weights, mask)

    def get_config(self):
        return {
            "num_penalties": self.num_penalties,
            "num_steps": self.num_steps,
            "first_penalty": self.first_penalty,
            "last_penalty": self.last_penalty,
            "refit_steps": self.refit_steps,
            "damping": self.damping,
        }


def _inverses(hessians, penalty):
    # Eager, because XLA takes seconds to compile an inverse for TensorFlow.
    return [ops.linalg.inv(add_to_diagonal(h, penalty)) for h in hessians]


def refit_unscaled(
    hessians, targets, sparse, scales, mask, columns, order, *, num_steps
):
    """Refits the kept weights of a normalised problem, and takes back the scale.

    Returns:
        Float32 tensor (K, N), zero outside the mask.
    """
    masks = split(mask, columns)
    found = refit(hessians, targets, sparse, masks, num_steps=num_steps)
    unscaled = [z / scale for z, scale in zip(found, scales, strict=True)]
    return masked(join(unscaled, order), mask)


def right_sides(hessians, targets):
    """Returns `H T` of each part."""
    return [ops.matmul(h, t) for h, t in zip(hessians, targets, strict=True)]


def _step(
    inverses, products, sparse, duals, penalty, count, fixed, columns, order, **choice
):
    """Makes one step; returns the new Z, V and the mask (K, N)."""
    # X + V / rho
    moved = [
        ops.matmul(p, b - v + penalty * z) + v / penalty
        for p, b, v, z in zip(inverses, products, duals, sparse, strict=True)
    ]
    mask = fixed[0] if fixed else choose(ops.abs(join(moved, order)), count, **choice)
    sparse = [masked(a, m) for a, m in zip(moved, split(mask, columns), strict=True)]
    duals = [penalty * (a - z) for a, z in zip(moved, sparse, strict=True)]
    return sparse, duals, mask

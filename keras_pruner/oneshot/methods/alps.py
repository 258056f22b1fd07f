from functools import partial

from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.masks import as_counts
from keras_pruner.oneshot.methods.admm import refit_unscaled, right_sides
from keras_pruner.oneshot.methods.base import (
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.methods.refit import masked, normalise
from keras_pruner.oneshot.problem import choose, join, split

# If the mask changed by this share of the kept weights or more, rho grows by a factor.
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))


@register_one_shot_method("alps")
class ALPS(OneShotMethod):
    """Raises the penalty until the mask is still, then refits the kept weights.

    Its step is that of `"admm"`: a fit X, a mask of the highest `|X + V / rho|`, and a
    dual V. Every `check_steps` steps it counts the weights of which the mask changed.
    If none did, it stops. Otherwise rho grows: by 1.3 if the count is a tenth of the
    kept weights or more, by 1.2 from one in 200, and by 1.1 below. H is decomposed
    once, `H = Q L Q'`, so that no rho takes an inverse; a step costs two products.

    Args:
        first_penalty: First rho, > 0, relative to the diagonal of H.
        check_steps: Steps between changes of rho, >= 1.
        max_steps: Most steps, >= 1.
        refit_steps: Steps of conjugate gradients of the refit, >= 0.
        damping: Share of the mean diagonal that is added to H, > 0.

    References:
        [ALPS: Improved Optimization for Highly Sparse One-Shot Pruning for Large
        Language Models, Meng et al., 2024](https://arxiv.org/abs/2406.07831)
    """

    weighs_outputs = True

    def __init__(
        self, first_penalty=0.1, check_steps=3, max_steps=300, refit_steps=10,
        damping=0.01,
    ):  # fmt: skip
        self.first_penalty = check_in_range(
            first_penalty, "`first_penalty`", 0, open_low=True
        )
        self.check_steps = check_in_range(check_steps, "`check_steps`", 1, integer=True)
        self.max_steps = check_in_range(max_steps, "`max_steps`", 1, integer=True)
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
        values, bases = problem.compute_once(
            ("alps", self.damping), partial(_decompose, hessians)
        )
        products = call(right_sides, hessians, targets)
        sparse, duals = targets, [ops.zeros_like(target) for target in targets]
        fixed = [] if problem.mask is None else [problem.mask]
        count, penalty, before = as_counts(problem.count), self.first_penalty, None
        for number in range(1, self.max_steps + 1):
            sparse, duals, mask = call(
                _step, values, bases, products, sparse, duals,
                ops.convert_to_tensor(penalty, dtype="float32"), count, fixed, *inputs,
                **problem.choice(),
            )  # fmt: skip
            if number % self.check_steps:
                continue
            if before is not None:
                changed, kept = map(float, call(_changes, before, mask))
                if not changed:
                    break
                penalty *= next(f for share, f in _GROWTH if changed >= share * kept)
            before = mask
        weights = call(
            refit_unscaled, hessians, targets, sparse, scales, mask, *inputs,
            num_steps=self.refit_steps,
        )  # fmt: skip
        return Solution(weights, mask)

    def get_config(self):
        return {
            "first_penalty": self.first_penalty,
            "check_steps": self.check_steps,
            "max_steps": self.max_steps,
            "refit_steps": self.refit_steps,
            "damping": self.damping,
        }


def _decompose(hessians):
    # Eager, because XLA takes seconds for what LAPACK does in a tenth of one.
    found = [ops.linalg.eigh(hessian) for hessian in hessians]
    return [values for values, _ in found], [bases for _, bases in found]


def _step(
    values, bases, products, sparse, duals, penalty, count, fixed, columns, order,
    **choice,
):  # fmt: skip
    """Makes one step; returns the new Z, V and the mask (K, N)."""
    moved = []
    for value, basis, b, z, v in zip(
        values, bases, products, sparse, duals, strict=True
    ):
        rest = ops.matmul(ops.transpose(basis, (0, 2, 1)), b - v + penalty * z)
        fit = ops.matmul(basis, rest / (value + penalty)[:, :, None])
        moved.append(fit + v / penalty)
    mask = fixed[0] if fixed else choose(ops.abs(join(moved, order)), count, **choice)
    sparse = [masked(a, m) for a, m in zip(moved, split(mask, columns), strict=True)]
    duals = [penalty * (a - z) for a, z in zip(moved, sparse, strict=True)]
    return sparse, duals, mask


def _changes(before, mask):
    """Returns how many weights changed sides, and how many are kept."""
    changed = ops.cast(ops.logical_xor(before, mask), "float32")
    return ops.sum(changed) / 2, ops.sum(ops.cast(mask, "float32"))

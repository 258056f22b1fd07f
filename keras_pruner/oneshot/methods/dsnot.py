from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.oneshot.methods.base import (
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.methods.refit import masked
from keras_pruner.oneshot.methods.wanda import input_scores


@register_one_shot_method("dsnot")
class DSnoT(OneShotMethod):
    """Begins with the mask of `"wanda"`, and swaps weights to restore mean outputs.

    `d` is the mean output that the mask loses: the sum of `w_k mu_k` over the pruned
    weights of a column, with `mu` the means of the inputs. In each cycle every column
    restores the pruned weight of the largest `sign(d) w_k mu_k / var_k`, and prunes the
    kept one of the lowest `|w_k| sqrt(H_kk)` among those with `d w_k mu_k < 0`. A
    column stops when no swap brings `|d|` down. Weights keep their values.

    Swaps stay in one output and, under a pattern n:m, in one group. Under patterns of
    larger groups, with a given mask, or if the problem is centred (so that no mean is
    lost), the mask remains that of `"wanda"`.

    Args:
        max_cycles: Most swaps in a column, >= 0.
        threshold: A column stops when `|d|` is at most this.

    References:
        [Dynamic Sparse No Training, Zhang et al., 2023](https://arxiv.org/abs/2310.08915)
    """

    def __init__(self, max_cycles=50, threshold=0.1):
        self.max_cycles = check_in_range(max_cycles, "`max_cycles`", 0, integer=True)
        self.threshold = check_in_range(threshold, "`threshold`", 0)

    def solve(self, problem):
        scores = input_scores(problem)
        mask = problem.select(scores, per_output=True)
        pattern = problem.pattern
        can_swap = pattern.chooses_weights and pattern.rows_of_group is not None
        if can_swap and problem.mask is None and not problem.is_centred:
            means, growth = _effects(problem)
            span = pattern.rows_of_group
            if pattern.is_unstructured:
                span = problem.layout.rows
            threshold = ops.convert_to_tensor(self.threshold, dtype="float32")
            for _ in range(self.max_cycles):
                mask, is_done = problem.call(
                    _swap, mask, scores, means, growth, threshold, span=span
                )
                if bool(ops.convert_to_numpy(is_done)):
                    break
        return Solution(masked(problem.target, mask), mask)

    def get_config(self):
        return {"max_cycles": self.max_cycles, "threshold": self.threshold}


def _effects(problem):
    """Returns `w_k mu_k` and `w_k mu_k / var_k`, each (K, N)."""
    effects, growth = [], []
    for part in problem.parts:
        mean = part.mean[:, :, None]
        effect = part.target * mean
        variance = part.variance[:, :, None] - mean * mean
        # A constant input is restored first, except if it is zero.
        least = 1e-6 * part.variance[:, :, None] + 1e-30
        effects.append(effect)
        growth.append(effect / ops.maximum(variance, least))
    return problem.join(effects), problem.join(growth)


def _swap(mask, scores, effects, growth, threshold, *, span):
    """Makes one swap in each column that gains by it.

    Args:
        mask: Bool tensor (K, N).
        scores: Float32 tensor (K, N): what a kept weight is worth.
        effects: Float32 tensor (K, N): mean output of each weight.
        growth: Float32 tensor (K, N): `effects` over the variance.
        threshold: Float32 tensor (): largest loss that needs no swap.
        span: Rows within which the two weights of a swap lie.

    Returns:
        Tuple of the new mask and of whether nothing changed, a bool tensor ().
    """
    rows = ops.reshape(ops.arange(mask.shape[0], dtype="int32"), (-1, 1))
    loss = ops.sum(ops.where(mask, 0.0, effects), axis=0)
    is_rival = ops.logical_and(mask, loss * effects < 0)
    # Of a group without a rival no weight can be restored.
    groups = ops.reshape(is_rival, (-1, span, mask.shape[1]))
    has_rival = ops.repeat(ops.any(groups, axis=1), span, axis=0)
    gain = ops.sign(loss) * growth
    gain = ops.where(has_rival & ~mask, gain, -float("inf"))
    grown = ops.cast(ops.argmax(gain, axis=0), "int32")
    is_rival = ops.logical_and(is_rival, rows // span == grown // span)
    cost = ops.where(is_rival, scores, float("inf"))
    pruned = ops.cast(ops.argmin(cost, axis=0), "int32")
    is_grown, is_pruned = rows == grown, rows == pruned
    change = ops.where(is_pruned, effects, 0.0) - ops.where(is_grown, effects, 0.0)
    is_better = ops.abs(loss + ops.sum(change, axis=0)) < ops.abs(loss)
    is_possible = ops.logical_and(ops.any(is_rival, axis=0), ops.any(~mask, axis=0))
    swaps = is_better & is_possible & (ops.abs(loss) > threshold)
    mask = ops.where(swaps & (is_grown | is_pruned), is_grown, mask)
    return mask, ops.logical_not(ops.any(swaps))

import dataclasses
from functools import partial

from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.masks import as_counts
from keras_pruner.oneshot.methods.base import (
    OneShotMethod,
    Solution,
    register_one_shot_method,
)
from keras_pruner.oneshot.methods.refit import add_to_diagonal, masked, mean_diagonal
from keras_pruner.oneshot.problem import choose, join, split

# The damping is raised tenfold this often if H cannot be factored.
_MAX_RAISES = 6


@register_one_shot_method("sparsegpt")
class SparseGPT(OneShotMethod):
    """Prunes row by row, and lets later rows make up for each pruned weight.

    With the upper triangular U of `H^-1 = U' U`, row j of the matrix in turn gives

        e_j = w_j / U_jj where pruned, 0 where kept
        w_i = w_i - U_ji e_j for all rows i > j

    The rows are divided into blocks of `block_size`. The mask of a block is chosen when
    its turn comes, from the weights as updated so far: the lowest `w_j^2 / U_jj^2`,
    with the same share of groups in each block. If all groups of a pattern n:m are
    pruned, each is chosen when its first row comes.

    A group of `channelx1`, `1xchannel` or heads spans many blocks, so the whole mask is
    then chosen first, by the sum of `w_j^2 / [H^-1]_jj` over the group: the error if
    weight j alone is pruned and all others make up for it. Your own pattern is treated
    so, unless it sets `rows_of_group`.

    Args:
        block_size: Rows in a block, >= 1; rounded down to whole groups, but at least
            one.
        damping: Share of the mean diagonal that is added to H, > 0. It is raised
            tenfold while float32 cannot factor H.

    Raises:
        ValueError: If float32 cannot factor H at any damping.

    References:
        [SparseGPT, Frantar & Alistarh, 2023](https://arxiv.org/abs/2301.00774)
    """

    weighs_outputs = True

    def __init__(self, block_size=128, damping=0.01):
        self.block_size = check_in_range(block_size, "`block_size`", 1, integer=True)
        self.damping = check_in_range(damping, "`damping`", 0, open_low=True)

    def solve(self, problem):
        call, rows = problem.call, problem.layout.rows
        factors = problem.compute_once(
            ("sparsegpt", self.damping), partial(factors_of, problem, self.damping)
        )
        weights = call(
            _without_dead_inputs,
            [part.target for part in problem.parts],
            [part.variance for part in problem.parts],
        )
        mask, unit = problem.mask, problem.pattern.rows_of_group
        if mask is None and unit is None:
            scores = call(_saliencies, weights, factors, problem.inputs[1])
            mask = problem.select(scores)
        unit = unit or 1
        height = min(rows, max(1, self.block_size // unit) * unit)
        masks, solved = [], []
        num_pruned = 0
        for start in range(0, rows, height):
            stop = min(rows, start + height)
            # The shares of all blocks add up to exactly `count`.
            count = problem.count * stop // rows - num_pruned
            num_pruned += count
            found, kept, weights = call(
                _solve_block, weights, factors, as_counts(start), as_counts(count),
                [] if mask is None else [mask[start:stop]], *problem.inputs,
                **self._block(problem, stop - start),
            )  # fmt: skip
            masks.append(kept)
            solved.append(found)
        mask = ops.concatenate(masks, axis=0)
        return Solution(masked(ops.concatenate(solved, axis=0), mask), mask)

    def _block(self, problem, height):
        """Returns the hashable arguments of `_solve_block`."""
        pattern, layout = problem.pattern, problem.layout
        chooses_all = (
            problem.mask is None
            and pattern.chooses_weights
            and not pattern.is_unstructured
            and pattern.rows_of_group is not None
            and problem.count == pattern.num_groups(layout)
        )
        strip = pattern.rows_of_group if chooses_all else height
        # The layout of a strip of the matrix: all columns, few rows.
        shape = (strip, layout.outputs)
        layout = dataclasses.replace(
            layout, shape=shape, window=(), inputs=strip, permutation=None, split=None
        )
        return {
            "height": height,
            "pattern": pattern,
            "layout": layout,
            "chooses_all": chooses_all,
        }

    def get_config(self):
        return {"block_size": self.block_size, "damping": self.damping}


def factors_of(problem, damping):
    """Returns the upper triangular U of `H^-1 = U' U` for each part, (G, K, K)."""
    return [_factor(problem, part.hessian, damping) for part in problem.parts]


def _factor(problem, hessian, damping):
    cause = None
    for attempt in range(_MAX_RAISES + 1):
        share = ops.convert_to_tensor(damping * 10.0**attempt, dtype="float32")
        try:
            # Eager, because XLA returns NaN where other code raises an error.
            lower = ops.linalg.cholesky(problem.call(_flipped, hessian, share))
        except ValueError as error:
            cause = error
            continue
        factor = _inverse_of_reversed(lower)
        if bool(ops.convert_to_numpy(ops.all(ops.isfinite(factor)))):
            return factor
    raise ValueError(
        "The second moments of the inputs cannot be factored in float32, also with a "
        f"damping of {damping * 10.0**_MAX_RAISES:g}. Look at the scale of the inputs, "
        "or use the method 'admm'."
    ) from cause


def _reversed(matrices):
    # Keras 3.12 takes one axis at a time.
    return ops.flip(ops.flip(matrices, axis=1), axis=2)


def _flipped(hessian, share):
    """Returns the damped H with rows and columns in reverse order."""
    diagonal = ops.diagonal(hessian, axis1=1, axis2=2)
    added = share * mean_diagonal(hessian)[:, None] + ops.cast(diagonal <= 0, "float32")
    return _reversed(add_to_diagonal(hessian, added[:, :, None]))


def _inverse_of_reversed(lower):
    # With J the reversal, J H J = L L'. So H = R R' with the upper R = J L J, and
    # U = R^-1. It takes no inverse of H.
    identity = add_to_diagonal(ops.zeros_like(lower), 1.0)
    inverse = ops.linalg.solve_triangular(lower, identity, lower=True)
    return _reversed(inverse)


def _without_dead_inputs(targets, variances):
    return [
        ops.where(variance[:, :, None] > 0, target, ops.zeros_like(target))
        for target, variance in zip(targets, variances, strict=True)
    ]


def _saliencies(weights, factors, order):
    """Returns `|w_j| / sqrt([H^-1]_jj)`, (K, N)."""
    # The diagonal of U' U.
    return join(
        [
            ops.abs(w) / ops.sqrt(ops.sum(u * u, axis=1))[:, :, None]
            for w, u in zip(weights, factors, strict=True)
        ],
        order,
    )


def _solve_block(
    weights, factors, start, count, fixed, columns, order, *, height, pattern, layout,
    chooses_all,
):  # fmt: skip
    """Prunes one block of rows, and updates the rows after it.

    Args:
        weights: List of float32 tensors (G, K, N_g).
        factors: List of U, (G, K, K).
        start: Int tensor (): first row of the block.
        count: Int tensor (): groups to prune in the block.
        fixed: List with the mask of the block, or empty to choose it.
        columns: See `split`.
        order: See `join`.
        height: Rows of the block.
        pattern: `Pattern`.
        layout: `KernelLayout` of a strip of rows whose groups are chosen together.
        chooses_all: Whether each group is pruned, so that only its weights are chosen.

    Returns:
        Tuple of the block's weights (height, N), in which pruned ones are not yet zero,
        its mask, and the weights of all rows, of which later ones are right.
    """
    index = ops.cast(start, "int32") + ops.arange(height, dtype="int32")
    blocks = [ops.take(w, index, axis=1) for w in weights]
    bands = [ops.take(u, index, axis=1) for u in factors]  # (G, height, K)
    squares = [ops.take(band, index, axis=2) for band in bands]
    pivots = [ops.diagonal(u, axis1=1, axis2=2)[:, :, None] for u in squares]

    def choose_strip(first, blocks):
        rows = first + ops.arange(layout.rows, dtype="int32")
        scores = ops.take(
            join([ops.abs(b / p) for b, p in zip(blocks, pivots, strict=True)], order),
            rows, axis=0,
        )  # fmt: skip
        wanted = pattern.num_groups(layout) if chooses_all else count
        return choose(scores, as_counts(wanted), pattern=pattern, layout=layout)

    def strip(number, state):
        blocks, mask = state
        first = number * layout.rows
        if not fixed:
            chosen = choose_strip(first, blocks)
            mask = ops.slice_update(mask, (first, ops.zeros_like(first)), chosen)
        kept = split(mask, columns)

        def row(place, blocks):
            return [
                _pruned_row(*part, first + place)
                for part in zip(blocks, squares, pivots, kept, strict=True)
            ]

        return ops.fori_loop(0, layout.rows, row, blocks), mask

    mask = fixed[0] if fixed else ops.ones((height, layout.outputs), "bool")
    blocks, mask = ops.fori_loop(0, height // layout.rows, strip, (blocks, mask))
    after = []
    for w, band, block, pivot, keep in zip(
        weights, bands, blocks, pivots, split(mask, columns), strict=True
    ):
        error = ops.where(keep, ops.zeros_like(block), block / pivot)
        after.append(w - ops.matmul(ops.transpose(band, (0, 2, 1)), error))
    return join(blocks, order), mask, after


def _pruned_row(block, square, pivot, kept, row):
    """Subtracts from the rows after one row what makes up for its pruned weights."""
    weight = ops.take(block, row, axis=1)  # (G, N_g)
    error = weight / ops.take(pivot, row, axis=1)
    error = ops.where(ops.take(kept, row, axis=1), ops.zeros_like(error), error)
    later = ops.arange(block.shape[1], dtype="int32") > ops.cast(row, "int32")
    line = ops.where(later, ops.take(square, row, axis=1), 0.0)  # (G, height)
    return block - line[:, :, None] * error[:, None, :]

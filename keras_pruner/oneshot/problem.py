"""Defines the problem that a one-shot method solves for one kernel."""

import copy
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_pruner.backend import FunctionCache
from keras_pruner.components import PATTERNS
from keras_pruner.masks import (
    as_counts,
    select_lowest,
    select_lowest_per_output,
)

# Share of the mean diagonal of H that keeps the dense target near the weights.
RIDGE = 0.01


class Part(NamedTuple):
    """Holds the moments and the target of columns that see one kind of rows.

    Args:
        columns: NumPy int array (G, N_g): columns of the kernel's matrix, by group.
        hessian: Float32 tensor (G, K, K): second moments H of the rows.
        target: Float32 tensor (G, K, N_g): weights T to stay close to.
        mean: Float32 tensor (G, K): mean of the rows.
        dense_mean: Float32 tensor (G, K): mean of the dense rows; without them `mean`.
    """

    columns: np.ndarray
    hessian: Any
    target: Any
    mean: Any
    dense_mean: Any

    @property
    def variance(self):
        """Diagonal of H, float32 tensor (G, K)."""
        return ops.diagonal(self.hessian, axis1=1, axis2=2)


class KernelProblem:
    """Asks for the sparse weights Z of a kernel that change its outputs least.

    The objective is the sum over parts and groups of `tr((T - Z)' H (T - Z))`: the mean
    squared change of the outputs. Z has zeros in exactly `count` groups of the pattern.

    Args:
        weights: Float tensor (K, N): matrix of the kernel before pruning.
        layout: Its `KernelLayout`.
        moments: List of `Moments`. Together their columns are each of the N columns
            once.
        count: Number of groups of the pattern to prune.
        pattern: `Pattern` or its name.
        dense_target: Whether T fits the outputs of the dense model,
            `T = (H + r I)^-1 (C W + r W)` with `r = 0.01 mean(diag H)`. It needs dense
            rows. Otherwise T is W.
        centre: Whether the means are left out of H and C, because the layer has a bias
            that takes `bias_update`.
        call: `FunctionCache`, so that kernels of one shape share compiled code.

    Attributes:
        weights: Float32 tensor (K, N).
        parts: List of `Part`.
        is_centred: Whether H is centred.
        mask: Bool tensor (K, N) that every method must keep to, or `None`.

    Raises:
        ValueError: If the columns, the shape of the weights, the count or the rows do
            not fit.
    """

    def __init__(
        self, weights, layout, moments, count, *, pattern="1x1", dense_target=True,
        centre=True, call=None,
    ):  # fmt: skip
        self.weights = ops.cast(ops.convert_to_tensor(weights), "float32")
        self.layout = layout
        self.pattern = PATTERNS.get(pattern)
        self.is_centred = bool(centre)
        self.mask = None
        self._known = None
        self.call = FunctionCache() if call is None else call
        self._check(moments, dense_target)
        self.count = self._checked_count(count)
        order = np.concatenate([m.columns.reshape(-1) for m in moments])
        self._order = np.argsort(order).astype("int32")
        self.parts = [self._part(m, dense_target) for m in moments]

    @property
    def inputs(self):
        """Tuple of tensors from which `split` and `join` work in compiled code."""
        return [part.columns for part in self.parts], self._order

    def with_count(self, count):
        """Returns the same problem for another number of groups to prune.

        Problems made so compute only once what does not depend on the number.
        """
        other = copy.copy(self)
        if self._known is None:
            self._known = other._known = {}
        other.count, other.mask = self._checked_count(count), None
        return other

    def with_mask(self, mask):
        """Returns the same problem with a given mask, e.g. one of coupled kernels.

        Args:
            mask: Bool tensor (K, N); `True` = keep.
        """
        other = copy.copy(self)
        other.mask = ops.cast(ops.convert_to_tensor(mask), "bool")
        if tuple(other.mask.shape) != tuple(self.weights.shape):
            raise ValueError(
                f"The mask has the shape of the weights, {tuple(self.weights.shape)}. "
                f"Received: {tuple(other.mask.shape)}"
            )
        return other

    def compute_once(self, key, compute):
        """Returns the result of a function, or what it gave for another count.

        Args:
            key: Hashable that tells results apart.
            compute: Function without arguments, of what does not depend on `count`.
        """
        if self._known is None:
            # It is solved for one count only, and memory is dear.
            return compute()
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    @property
    def target(self):
        """Float32 tensor (K, N): the targets T of all parts."""
        return self.join([part.target for part in self.parts])

    def split(self, matrix):
        """Divides a matrix (K, N) into a list of tensors (G, K, N_g), one a part."""
        return split(matrix, self.inputs[0])

    def join(self, parts):
        """Inverts `split`."""
        return join(parts, self._order)

    def select(self, scores, per_output=False):
        """Chooses the weights to keep: all except the `count` groups of lowest score.

        The score of a group is the L2 norm of the scores of its weights; of a group
        n:m, of its n lowest.

        Args:
            scores: Float tensor (K, N), finite.
            per_output: Whether each output loses the same number, if the groups of the
                pattern belong to outputs; see `select_lowest_per_output`.

        Returns:
            Bool tensor (K, N); `True` = keep. It is `mask` if that is given.
        """
        if self.mask is not None:
            return self.mask
        return self.call(
            choose, scores, as_counts(self.count), **self.choice(per_output)
        )

    def choice(self, per_output=False):
        """Returns the hashable arguments of `choose`."""
        return {
            "pattern": self.pattern,
            "layout": self.layout,
            "per_output": per_output and self.pattern.keeps_outputs,
        }

    def error(self, weights):
        """Returns the relative output error of weights (K, N) as a float.

        It is the sum over parts of `tr((T - Z)' H (T - Z))`, divided by that of
        `tr(T' H T)`: 0 without change, 1 if all weights are zero.
        """
        target = [part.target for part in self.parts]
        rest = [t - z for t, z in zip(target, self.split(weights), strict=True)]
        hessians = [part.hessian for part in self.parts]
        left, whole = (
            float(ops.convert_to_numpy(self.call(_energy, values, hessians)))
            for values in (rest, target)
        )
        return left / whole if whole > 0 else 0.0

    def bias_update(self, weights):
        """Returns what to add to the bias for weights Z: `nu W - mu Z`, float32 (N,).

        No other bias has a lower error, whatever Z is. `mu` and `nu` are the means of
        the rows and of the dense rows.
        """
        return self.call(
            _bias_update,
            self.weights,
            ops.cast(weights, "float32"),
            [part.mean for part in self.parts],
            [part.dense_mean for part in self.parts],
            *self.inputs,
        )

    def _part(self, moments, dense_target):
        hessian = moments.second_moment(self.is_centred).astype("float32")
        weights = split(self.weights, [moments.columns])[0]
        mean = dense_mean = moments.mean
        target = weights
        if dense_target:
            cross = moments.cross_moment(self.is_centred).astype("float32")
            dense_mean = moments.dense_mean
            target = _dense_target(hessian, cross, weights)
        return Part(
            moments.columns,
            ops.convert_to_tensor(hessian),
            target,
            ops.convert_to_tensor(mean, dtype="float32"),
            ops.convert_to_tensor(dense_mean, dtype="float32"),
        )

    def _checked_count(self, count):
        most = self.pattern.num_groups(self.layout)
        if not 0 <= count <= most:
            raise ValueError(
                f"Pattern '{self.pattern}' has {most} groups in this kernel, so the "
                f"count is in [0, {most}]. Received: {count}"
            )
        return int(count)

    def _check(self, moments, dense_target):
        rows, outputs = self.layout.rows, self.layout.outputs
        if tuple(self.weights.shape) != (rows, outputs):
            raise ValueError(
                f"The weights have the shape of the layout, ({rows}, {outputs}). "
                f"Received: {tuple(self.weights.shape)}"
            )
        columns = np.concatenate([m.columns.reshape(-1) for m in moments])
        if not np.array_equal(np.sort(columns), np.arange(outputs)):
            raise ValueError(
                f"The parts together hold each of {outputs} columns once. Received: "
                f"{len(columns)} columns, {len(np.unique(columns))} of them different"
            )
        if not all(m.num_rows for m in moments):
            raise ValueError("No row of the data reached the kernel.")
        lengths = {m.mean.shape[1] for m in moments}
        if lengths != {rows}:
            raise ValueError(
                f"Rows have the length {rows} of the kernel's reduction axis. "
                f"Received: {', '.join(map(str, sorted(lengths)))}"
            )
        if dense_target and not all(m.has_dense_rows for m in moments):
            raise ValueError(
                "`dense_target=True` needs moments of dense rows. Add them, or set "
                "`dense_target=False`."
            )


def split(matrix, columns):
    """Divides a matrix (K, N) by columns.

    Args:
        matrix: Tensor (K, N).
        columns: List of int tensors (G, N_g).

    Returns:
        List of tensors (G, K, N_g).
    """
    parts = []
    for part in columns:
        taken = ops.take(matrix, ops.reshape(part, (-1,)), axis=1)
        groups = ops.reshape(taken, (matrix.shape[0], *part.shape))
        parts.append(ops.transpose(groups, (1, 0, 2)))
    return parts


def join(parts, order):
    """Inverts `split`.

    Args:
        parts: List of tensors (G, K, N_g).
        order: Int tensor (N,): place of each column among those of all parts.
    """
    flat = [
        ops.reshape(ops.transpose(part, (1, 0, 2)), (part.shape[1], -1))
        for part in parts
    ]
    return ops.take(ops.concatenate(flat, axis=1), order, axis=1)


def choose(scores, count, *, pattern, layout, per_output=False):
    """Returns the mask that prunes the `count` groups of the lowest scores.

    Args:
        scores: Float tensor (K, N).
        count: Int tensor ().
        pattern: `Pattern`.
        layout: `KernelLayout`.
        per_output: Whether the columns of the groups' scores lose the same number.
    """
    groups = pattern.group_scores(scores, layout, "l2")
    lowest = select_lowest_per_output if per_output else select_lowest
    return pattern.expand(lowest(groups, count), scores, layout)


def _dense_target(hessian, cross, weights):
    # (H + r I)^-1 (C W + r W) = W + (H + r I)^-1 (C - H) W, exactly W for equal rows.
    ridge = RIDGE * np.einsum("gkk->g", hessian) / hessian.shape[1]
    ridge = np.where(ridge > 0, ridge, 1.0).astype("float32")
    regular = hessian + ridge[:, None, None] * np.eye(hessian.shape[1], dtype="float32")
    change = ops.matmul(ops.convert_to_tensor(cross - hessian), weights)
    return weights + ops.linalg.solve(ops.convert_to_tensor(regular), change)


def _energy(values, hessians):
    total = 0.0
    for value, hessian in zip(values, hessians, strict=True):
        total = total + ops.sum(value * ops.matmul(hessian, value))
    return total


def _bias_update(weights, sparse, means, dense_means, columns, order):
    updates = [
        ops.matmul(nu[:, None], dense) - ops.matmul(mu[:, None], thin)
        for dense, thin, mu, nu in zip(
            split(weights, columns), split(sparse, columns), means, dense_means,
            strict=True,
        )
    ]  # fmt: skip
    return join(updates, order)[0]

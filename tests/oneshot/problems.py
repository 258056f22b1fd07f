"""Problems of one kernel, and solvers in NumPy float64 that share no code."""

import numpy as np
from conftest import value_of

from keras_pruner.backend import FunctionCache
from keras_pruner.components import PATTERNS
from keras_pruner.kernels.layouts import KernelLayout
from keras_pruner.oneshot.problem import KernelProblem
from keras_pruner.oneshot.statistics import Moments

# All tests share compiled functions; tracing them takes most of the time.
CALL = FunctionCache()


DENSE = {"columns": [[range(6)]], "length": 12}
GROUPED = {
    "columns": [[[0, 1], [2, 3], [4, 5]]],
    "length": 12,
    "layout": {"window": (3,), "inputs": 4, "groups": 3},
}
TWO_PARTS = {"columns": [[[5, 0, 3]], [[2, 1, 4]]], "length": 12}
CASES = {"dense": DENSE, "grouped": GROUPED, "two parts": TWO_PARTS}
PATTERN_NAMES = ["1x1", "2:4", "1:2", "1x4", "2x1", "2x3", "channelx1", "1xchannel"]


def correlated_rows(generator, groups, num_rows, length):
    """Rows (G, n, K) of correlated, positive numbers with means of their own."""
    mixing = generator.normal(size=(groups, length, length)) / np.sqrt(length)
    rows = generator.normal(size=(groups, num_rows, length)) @ mixing
    return np.maximum(rows + 0.3, 0) + generator.random(length)


class Case:
    """A random problem, and its H, T and means in float64.

    Args:
        columns: List of int arrays (G, N_g), one a part.
        length: K.
        layout: Fields of `KernelLayout` that differ from those of a dense layer.
        num_rows: Rows of each part.
        noise: Size of what the rows of the pruned model differ by.
    """

    def __init__(
        self, columns, length, *, layout=(), num_rows=100, noise=0.2, centre=True,
        dense_target=True, dead=(), seed=0,
    ):  # fmt: skip
        generator = np.random.default_rng(seed)
        self.columns = [np.asarray(c) for c in columns]
        num_outputs = sum(c.size for c in self.columns)
        self.layout = KernelLayout(
            **{
                "shape": (length, num_outputs),
                "window": (),
                "inputs": length,
                "outputs": num_outputs,
                **dict(layout),
            }
        )
        self.weights = generator.normal(size=(length, num_outputs))
        self.weights = self.weights.astype("float32").astype("float64")
        self.dense_rows, self.rows = [], []
        for part in self.columns:
            dense = correlated_rows(generator, len(part), num_rows, length)
            rows = dense + noise * generator.normal(size=dense.shape)
            rows[:, :, list(dead)] = dense[:, :, list(dead)] = 0
            self.dense_rows.append(dense.astype("float32").astype("float64"))
            self.rows.append(rows.astype("float32").astype("float64"))
        self.centre, self.dense_target = centre, dense_target
        self.moments = []
        for part, rows, dense in zip(
            self.columns, self.rows, self.dense_rows, strict=True
        ):
            moments = Moments(part)
            moments.add(
                rows.astype("float32"),
                dense.astype("float32") if dense_target else None,
            )
            self.moments.append(moments)
        self.hessians, self.targets, self.means = [], [], []
        for part, rows, dense in zip(
            self.columns, self.rows, self.dense_rows, strict=True
        ):
            for group, own in enumerate(part):
                self._add(own, rows[group], dense[group])

    def _add(self, own, rows, dense):
        mean = rows.mean(0)
        if self.centre:
            rows, dense = rows - mean, dense - dense.mean(0)
        hessian = rows.T @ rows / len(rows)
        target = self.weights[:, own]
        if self.dense_target:
            ridge = 0.01 * np.trace(hessian) / len(hessian) or 1.0
            ridge = ridge * np.eye(len(hessian))
            cross = rows.T @ dense / len(rows)
            target = np.linalg.solve(hessian + ridge, (cross + ridge) @ target)
        self.hessians.append((own, hessian))
        self.targets.append((own, target))
        self.means.append((own, mean))

    def problem(self, pattern="1x1", share=0.5):
        pattern = PATTERNS.get(pattern)
        share = min(share, pattern.max_sparsity)
        groups = pattern.num_groups(self.layout)
        if pattern.chooses_weights and not pattern.is_unstructured:
            share = share / pattern.max_sparsity
        return KernelProblem(
            self.weights, self.layout, self.moments, round(share * groups), call=CALL,
            pattern=pattern, dense_target=self.dense_target, centre=self.centre,
        )  # fmt: skip

    def target(self):
        whole = np.zeros(self.weights.shape)
        for own, target in self.targets:
            whole[:, own] = target
        return whole

    def error(self, weights):
        """The relative output error, in float64."""
        left = whole = 0.0
        for (own, hessian), (_, target) in zip(
            self.hessians, self.targets, strict=True
        ):
            rest = target - weights[:, own]
            left += np.sum(rest * (hessian @ rest))
            whole += np.sum(target * (hessian @ target))
        return left / whole


def fits(case, pattern):
    """Whether the kernel of a `Case` can take a pattern."""
    return PATTERNS.get(pattern).reason_to_skip(case.layout) is None


def lowest_mask(scores, problem, count=None):
    """The mask that prunes the lowest groups, by sorting; True = keep."""
    scores = np.asarray(scores)
    pattern, layout = str(problem.pattern), problem.layout
    count = problem.count if count is None else count
    length, num_outputs = scores.shape
    if ":" in pattern:
        n, m = map(int, pattern.split(":"))
        parts = scores.reshape(length // m, m, num_outputs)
        order = parts.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
        lost = order < n
        groups = np.sqrt((np.where(lost, parts, 0) ** 2).sum(1))
        chosen = _lowest(groups, count)
        return ~(lost & chosen[:, None]).reshape(length, num_outputs)
    if pattern == "channelx1":
        parts = scores.reshape(layout.window_size, layout.inputs, layout.groups, -1)
        chosen = _lowest(np.sqrt((parts**2).sum((0, 3))), count)
        spread = np.broadcast_to(chosen[None, :, :, None], parts.shape)
        return ~spread.reshape(length, num_outputs)
    if pattern == "1xchannel":
        chosen = _lowest(np.sqrt((scores**2).sum(0)), count)
        return ~np.broadcast_to(chosen, scores.shape)
    wide, high = map(int, pattern.split("x"))
    parts = scores.reshape(length // high, high, num_outputs // wide, wide)
    chosen = _lowest(np.sqrt((parts**2).sum((1, 3))), count)
    return ~np.repeat(np.repeat(chosen, high, 0), wide, 1)


def _lowest(values, count):
    chosen = np.zeros(values.size, bool)
    chosen[np.argsort(values.ravel(), kind="stable")[:count]] = True
    return chosen.reshape(values.shape)


def result_of(solution):
    return value_of(solution.weights), value_of(solution.mask)

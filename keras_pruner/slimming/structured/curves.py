"""Measures what the removal of channels costs, with and without data."""

import math

import numpy as np
from keras import ops

from keras_pruner.slimming.structured.elimination import (
    Consumer,
    Elimination,
    eliminate,
)

# A group without influence on the outputs of the first batch may have some on others.
_LEAST_SCALE = 1e-3


class KernelRows:
    """Tells which rows and columns of a kernel's matrix go with a group's channels.

    Args:
        kernel: `Kernel`.
        member: `Member` whose variable is the kernel's.

    Attributes:
        kernel: The kernel.
        is_consumer: Whether channels are rows (K) of the matrix: the kernel reads them.
        indices: Tuple with an int array for each channel: its rows if the kernel
            consumes them, otherwise its columns.
    """

    def __init__(self, kernel, member):
        self.kernel = kernel
        shape = tuple(kernel.variable.shape)
        place = np.arange(shape[member.axis])
        along = place.reshape(
            [-1 if a == member.axis else 1 for a in range(len(shape))]
        )
        places = kernel.layout.to_matrix(np.broadcast_to(along, shape).copy())
        places = ops.convert_to_numpy(places)
        self.is_consumer = bool((places == places[:, :1]).all())
        places = places[:, 0] if self.is_consumer else places[0]
        self.indices = tuple(
            np.flatnonzero(np.isin(places, own)) for own in member.indices
        )

    def remove(self, mask, channels):
        """Writes `False` into the rows or columns of channels in a mask (K, N)."""
        gone = np.concatenate([self.indices[channel] for channel in channels])
        mask = mask if self.is_consumer else mask.T
        mask[gone.astype(int)] = False

    def energies(self):
        """Returns the share of the kernel's squared weights in each channel (n,)."""
        kernel = self.kernel
        matrix = ops.convert_to_numpy(
            kernel.layout.to_matrix(ops.cast(kernel.variable, "float32"))
        ).astype("float64")
        squares = np.sum(matrix**2, axis=1 if self.is_consumer else 0)
        total = squares.sum()
        energies = np.array([squares[own].sum() for own in self.indices])
        return energies / total if total > 0 else energies


def score_kernels(group_rows):
    """Returns the query and key `KernelRows` that alone hold a group, or `None`.

    Such channels are the key dimensions of an attention layer. No kernel reads them:
    their products are summed to scores.
    """
    roles = {}
    for rows in group_rows:
        heads = rows.kernel.coupling("heads")
        roles[heads and heads.role] = rows
    is_pair = len(group_rows) == 2 and set(roles) == {"query", "key"}
    return (roles["query"], roles["key"]) if is_pair else None


def by_norms(group_rows):
    """Orders channels by the L2 norm of all their weights.

    The score of a channel is the mean over the kernels of the group of the squares of
    its weights, relative to those of the whole kernel. The error of a removal is taken
    to be the sum of the scores, in [0, 1].

    Args:
        group_rows: List of `KernelRows`, not empty.

    Returns:
        `Elimination`.
    """
    energies = [rows.energies() for rows in group_rows]
    scores = np.mean(energies, axis=0)
    order = np.argsort(scores, kind="stable")
    return Elimination(order, np.concatenate([[0.0], np.cumsum(scores[order])]))


class CurvesOfOutputs:
    """Measures the error curves of groups from samples.

    The kernels that read a group keep the weights that change their outputs least; see
    `eliminate`. The key dimensions of an attention are read by a sum of products of
    queries and keys, with weights of one. As in `StageByStage.error_curves`, the curve
    is scaled so that at one count the error is the geometric mean of that of the
    kernels and that of the model's outputs.

    Args:
        run: `StageByStage`.
        probed: Share of the channels to remove where the model's outputs are measured.
    """

    def __init__(self, run, probed=0.5):
        self._run = run
        self._probed = probed

    def measure(self, groups, progress):
        """Returns the curve of each group.

        Args:
            groups: Dict from names to lists of `KernelRows`, of which at least one
                consumes, or which are `score_kernels`.
            progress: Function that is called after each group with its name.

        Returns:
            Dict from names to `Elimination`s.
        """
        readers = {
            name: [rows for rows in group if rows.is_consumer] or score_kernels(group)
            for name, group in groups.items()
        }
        wanted = {rows.kernel for group in readers.values() for rows in group}
        problems = {}
        for stage in self._run.stages:
            kernels = [kernel for kernel in stage if kernel in wanted]
            if kernels:
                problems |= self._run.problems(kernels)
        found = {}
        for name, group in readers.items():
            reached = [rows for rows in group if rows.kernel in problems]
            if reached and (reached[0].is_consumer or len(reached) == 2):
                found[name] = self._curve(reached, problems)
            progress(name)
        return found

    def _curve(self, group, problems):
        if group[0].is_consumer:
            consumers = [
                Consumer(hessian, weights, rows.indices)
                for rows in group
                for hessian, weights in _maps_of(problems[rows.kernel])
            ]
        else:
            consumers = list(_scores_of(*group, problems))
        found = eliminate(consumers, len(group[0].indices))
        count = max(1, round(self._probed * len(found.order)))
        own = found.errors[count]
        if own <= 0:
            return found
        solutions = {}
        for rows in group:
            problem = problems[rows.kernel]
            kept = np.ones(problem.weights.shape, bool)
            rows.remove(kept, found.order[:count])
            fitted = self._run.fit(problem.with_mask(kept))
            solutions[rows.kernel] = problem, fitted
        outputs = self._run.output_error(solutions)
        scale = 1.0 if outputs is None else math.sqrt(max(outputs / own, _LEAST_SCALE))
        return Elimination(found.order, scale * found.errors)


def _maps_of(problem):
    """Yields the matrices H (K, K) and W (K, N_g) of all parts of a problem."""
    for part in problem.parts:
        hessians = ops.convert_to_numpy(part.hessian)
        targets = ops.convert_to_numpy(part.target)
        yield from zip(hessians, targets, strict=True)


def _scores_of(query, key, problems):
    """Yields a `Consumer` for the scores of each head.

    A score is a sum of products over the key dimensions. The second moments of these
    products are those of the queries times those of the keys, which lie at other
    places. A softmax does not see what all keys share, so their means are left out.
    """
    (queries, means), (keys, _) = (
        _moments_of_outputs(rows.kernel, problems[rows.kernel]) for rows in (query, key)
    )
    queries = queries + np.outer(means, means)
    # (heads, key dimensions); several heads of queries may share one of keys.
    query_columns, key_columns = (np.array(x.indices).T for x in (query, key))
    shared = len(query_columns) // len(key_columns)
    ones = np.ones((len(query.indices), 1))
    rows = tuple(np.arange(len(ones))[:, None])
    for head, columns in enumerate(query_columns):
        others = key_columns[head // shared]
        products = queries[np.ix_(columns, columns)] * keys[np.ix_(others, others)]
        yield Consumer(products, ones, rows)


def _moments_of_outputs(kernel, problem):
    """Returns the covariance (N, N) and the means (N,) of a dense kernel's outputs."""
    (part,) = problem.parts
    hessian, weights, mean = (
        ops.convert_to_numpy(x)[0].astype("float64")
        for x in (part.hessian, problem.split(problem.weights)[0], part.mean)
    )
    if not problem.is_centred:
        hessian = hessian - np.outer(mean, mean)
    bias = getattr(kernel.layer, "bias", None)
    bias = 0.0 if bias is None else ops.convert_to_numpy(bias).reshape(-1)
    return weights.T @ hessian @ weights, mean @ weights + bias

"""Prunes the kernels of a model in the order in which data reaches them."""

import math
import time
from typing import NamedTuple

from keras import ops

from keras_pruner.backend import FunctionCache
from keras_pruner.oneshot.biases import bias_of
from keras_pruner.oneshot.calibration import Calibration
from keras_pruner.oneshot.division import outlier_ratio
from keras_pruner.oneshot.methods import ADMM, Wanda, input_scores
from keras_pruner.oneshot.problem import KernelProblem

# Multiplications of an error curve above which it is estimated.
_COSTLY = 2e11
# A kernel without influence on the outputs of the first batch may have some on others.
_LEAST_SCALE = 1e-3
_WANDA, _QUICK = Wanda(per_output=False), ADMM(1, 1, refit_steps=5)


class PrunedKernel(NamedTuple):
    """What became of a kernel.

    Args:
        kernel: `Kernel`.
        num_pruned: Number of its weights that are zero by the mask.
        error: Relative output error; see `KernelProblem.error`. Outputs count as in
            the problem. `None` if the kernel stays dense, or if outputs of another one
            decide for it.
        seconds: Time of its statistics and its solution.
        num_rows: Rows of the data that the solution fits, at least for each column.
    """

    kernel: object
    num_pruned: int
    error: float | None
    seconds: float
    num_rows: int = 0


class StageByStage:
    """Solves the layer problems of a model, and replaces weights and biases.

    Kernels of one layer, or of layers with one input, form a stage. Each stage is
    calibrated on the model whose earlier stages are pruned already, and approaches
    the outputs of the dense model.

    Args:
        model: Built Keras model, or `OneShotModule`, which is pruned in place.
        units: List of `(kernels, pattern)`: kernels that may be pruned, most of them
            alone. Coupled kernels, e.g. of attention heads, lose the same groups.
        batches: List of batches of inputs, all of one shape.
        method: `OneShotMethod`.
        dense_target: Whether each kernel approaches the dense model's outputs.
        centre: Whether means are left to the biases, where a kernel has one.
        max_memory: Most bytes of activations to keep in memory; see `Passage`.
        seed: Integer, seed of the choice of rows.

    Attributes:
        order: `CallOrder` of the kernels.
        variables: List of the variables that pruning changes: kernels and biases.
        output_weights: Dict from kernels to float32 tensors (N,): how much each output
            counts. Problems hold the columns of the kernel multiplied by them. Those of
            a kernel that is not in the dict count equally.
    """

    def __init__(
        self, model, units, batches, method, *, dense_target=True, centre=True,
        max_memory=2**32, seed=0,
    ):  # fmt: skip
        kernels = [kernel for unit, _ in units for kernel in unit]
        self._calibration = Calibration(model, kernels, batches, max_memory, seed)
        self._method = method
        self._dense_target, self._centre = dense_target, centre
        self._call = FunctionCache()
        self.output_weights = {}
        # Values of the variables before the first change, once there is one.
        self._dense = None
        self.order = self._calibration.order
        self._patterns = {k: pattern.groups_of(k) for u, pattern in units for k in u}
        place = {kernel: i for i, stage in enumerate(self.stages) for kernel in stage}
        # The last kernel of a unit reads what all others contribute to.
        self._deciding = {
            kernel: max(unit, key=lambda each: place.get(each, -1))
            for unit, _ in units
            for kernel in unit
        }
        self._units = {self._deciding[unit[0]]: unit for unit, _ in units}
        self.variables = _variables_of(self._patterns)

    @property
    def stages(self):
        """Tuple of tuples of kernels, in the order of their first calls."""
        return self.order.stages

    def deciding(self, kernel):
        """Returns the kernel whose outputs decide what a kernel's unit loses."""
        return self._deciding[kernel]

    @property
    def peak_memory(self):
        """Most bytes of activations and statistics at a time."""
        return self._calibration.peak_memory

    @property
    def peak_disk(self):
        """Most bytes of activations in temporary files at a time."""
        return self._calibration.peak_disk

    def weigh_outputs(self, on_pass=lambda: None):
        """Lets outputs count by how much the outputs of the model depend on them.

        Args:
            on_pass: Function called after each of `NUM_PASSES` passes backward.
        """
        kernels = [kernel for stage in self.stages for kernel in stage]
        self.output_weights = self._calibration.output_weights(kernels, on_pass)

    def error_curves(self, kernels, sparsities, target):
        """Returns the errors that each kernel makes if it alone is pruned.

        At each sparsity the relative error of the kernel's own outputs is measured. At
        the sparsity next to the target, that of the model's outputs is measured too,
        and all errors are scaled so that this one is the geometric mean of both. So a
        kernel whose error grows on its way through the model keeps more.

        The errors of a costly kernel are estimated: Wanda over the whole kernel gives
        the mask, and five steps of conjugate gradients the weights.

        Args:
            kernels: Kernels of a stage that are `deciding`.
            sparsities: List of shares of the groups to prune.
            target: Sparsity over all kernels.

        Returns:
            Dict from a kernel to a list of `(sparsity, error)`.
        """
        moments = self._calibration.moments(kernels) if kernels else {}
        curves = {}
        probed = min(sparsities, key=lambda sparsity: abs(sparsity - target))
        for kernel in kernels:
            problem = self._problem(kernel, moments[kernel], 0)
            num_groups = problem.pattern.num_groups(kernel.layout)
            cost = 50 * kernel.layout.rows * kernel.layout.size * len(sparsities)
            errors, scale = [], 1.0
            for sparsity in sparsities:
                asked = problem.with_count(round(sparsity * num_groups))
                method = self._method
                if cost > _COSTLY:
                    method = _QUICK
                    asked = asked.with_mask(_WANDA.solve(asked).mask)
                weights = method.solve(asked).weights
                errors.append(asked.error(weights))
                if sparsity == probed and errors[-1] > 0:
                    found = self.output_error({kernel: (problem, weights)})
                    scale = 1.0 if found is None else found / errors[-1]
            scale = math.sqrt(max(scale, _LEAST_SCALE))
            errors = [scale * error for error in errors]
            curves[kernel] = list(zip(sparsities, errors, strict=True))
        return curves

    def outlier_ratios(self, kernels):
        """Returns the `outlier_ratio` of the scores `|W| |X|` in the dense model.

        Args:
            kernels: Kernels of a stage that are `deciding`.

        Returns:
            Dict from a kernel to a float in [0, 1].
        """
        moments = self._calibration.moments(kernels) if kernels else {}
        ratios = {}
        for kernel in kernels:
            problem = self._problem(
                kernel, moments[kernel], 0, centre=False, weigh_outputs=False
            )
            ratios[kernel] = outlier_ratio(input_scores(problem))
        return ratios

    def problems(self, kernels):
        """Returns the problem of each kernel in the model as it is.

        Args:
            kernels: Kernels of a stage.

        Returns:
            Dict from a kernel to a `KernelProblem` that asks for its own outputs.
        """
        moments = self._calibration.moments(kernels)
        return {k: self._problem(k, moments[k], 0) for k in kernels}

    def fit(self, problem):
        """Returns the weights (K, N) that the method finds for a `KernelProblem`."""
        return self._method.solve(problem).weights

    def output_error(self, solutions):
        """Returns the relative error of the model's outputs under other weights.

        Args:
            solutions: Dict from kernels, in the order of the stages, to tuples of a
                `KernelProblem` and a tensor (K, N).

        Returns:
            Float or `None`; see `Calibration.output_error`.
        """
        values = [v for k, each in solutions.items() for v in self._values(k, *each)]
        return self._calibration.output_error(next(iter(solutions)), values)

    def prune(self, counts, masks=None):
        """Prunes stage by stage. A second call prunes further; the target is the same.

        Args:
            counts: Dict from kernels that are `deciding` to the number of groups that
                their units lose.
            masks: Dict from kernels to bool tensors (K, N) that are given already;
                `True` = keep. Their weights are fitted even if the mask keeps all.

        Yields:
            `PrunedKernel` of each kernel of these units, after its weights were
            replaced.
        """
        # Before the first change, the model is the dense one.
        is_first = is_dense = self._dense is None
        masks = dict(masks or {})
        if is_first:
            self._dense = [(v, ops.copy(v)) for v in self.variables]
        counts = counts | {self._deciding[k]: 1 for k in masks}
        self._calibration.restart()
        for stage in self.stages:
            open_counts = {k: counts.get(self._deciding[k]) for k in stage}
            for kernel, count in open_counts.items():
                if count == 0:
                    yield PrunedKernel(kernel, 0, None, 0.0)
            kernels = [kernel for kernel, count in open_counts.items() if count]
            if not kernels:
                continue
            start = time.perf_counter()
            undecided = [
                decider
                for decider in dict.fromkeys(self._deciding[k] for k in kernels)
                if len(self._units[decider]) > 1 and decider not in masks
            ]
            has_dense_target = self._dense_target and not is_dense
            moments = self._calibration.moments(
                list(dict.fromkeys([*kernels, *undecided])),
                self._dense if has_dense_target else None,
            )
            for decider in undecided:
                masks |= self._masks_of_unit(
                    decider, moments[decider], counts[decider], has_dense_target
                )
            if not is_first:
                self._set_dense(kernels)
            shared = (time.perf_counter() - start) / len(kernels)
            for kernel in kernels:
                start = time.perf_counter()
                decider = self._deciding[kernel]
                problem = self._problem(
                    kernel, moments[kernel], counts[decider], has_dense_target
                )
                if kernel in masks:
                    problem = problem.with_mask(masks[kernel])
                solution = self._method.solve(problem)
                error = problem.error(solution.weights) if kernel is decider else None
                num_pruned = int(ops.sum(ops.cast(~solution.mask, "int32")))
                self._replace(kernel, problem, solution.weights)
                seconds = shared + time.perf_counter() - start
                num_rows = min(part.num_rows for part in moments[kernel])
                yield PrunedKernel(kernel, num_pruned, error, seconds, num_rows)
            is_dense = False

    def _set_dense(self, kernels):
        """Gives kernels and their biases the values of the dense model."""
        changing = {id(variable) for variable in _variables_of(kernels)}
        for variable, value in self._dense:
            if id(variable) in changing:
                variable.assign(value)

    def _masks_of_unit(self, decider, moments, count, dense_target):
        """Returns the mask (K, N) of each kernel in a unit, by the deciding one."""
        problem = self._problem(decider, moments, count, dense_target)
        kept = ops.cast(self._method.solve(problem).mask, "float32")
        pattern, layout = self._patterns[decider], decider.layout
        is_pruned = pattern.group_scores(kept, layout, "l2") == 0
        masks = {}
        for kernel in self._units[decider]:
            pattern, layout = self._patterns[kernel], kernel.layout
            masks[kernel] = pattern.expand(is_pruned, layout.zeros(), layout)
        return masks

    def _problem(
        self, kernel, moments, count, dense_target=False, centre=True,
        weigh_outputs=True,
    ):  # fmt: skip
        matrix = kernel.layout.to_matrix(ops.convert_to_tensor(kernel.variable))
        if weigh_outputs:
            matrix = ops.cast(matrix, "float32") * self._weights_of(kernel)
        return KernelProblem(
            matrix,
            kernel.layout,
            moments,
            count,
            pattern=self._patterns[kernel],
            dense_target=dense_target,
            centre=centre and self._centre and bias_of(kernel) is not None,
            call=self._call,
        )

    def _weights_of(self, kernel):
        return self.output_weights.get(kernel, 1.0)

    def _replace(self, kernel, problem, weights):
        for variable, value in self._values(kernel, problem, weights):
            variable.assign(value)

    def _values(self, kernel, problem, weights):
        """Returns `(variable, value)` of a kernel and its bias for weights (K, N)."""
        counts = self._weights_of(kernel)
        matrix = kernel.layout.from_matrix(weights / counts)
        values = [(kernel.variable, ops.cast(matrix, kernel.variable.dtype))]
        if problem.is_centred:
            bias, update = bias_of(kernel), problem.bias_update(weights)
            values.append((bias.variable, bias.plus(update / counts)))
        return values


def _variables_of(kernels):
    """Returns the variables that pruning of kernels changes, each once."""
    variables = {id(k.variable): k.variable for k in kernels}
    for kernel in kernels:
        bias = bias_of(kernel)
        if bias is not None:
            variables[id(bias.variable)] = bias.variable
    return list(variables.values())

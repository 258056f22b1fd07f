"""Prunes the kernels of a model in the order in which data reaches them."""

import time
from typing import NamedTuple

from keras import ops

from keras_pruner.backend import FunctionCache
from keras_pruner.oneshot.biases import bias_of
from keras_pruner.oneshot.calibration import Calibration
from keras_pruner.oneshot.methods import ADMM, Wanda
from keras_pruner.oneshot.problem import KernelProblem

# Multiplications of an error curve above which it is estimated.
_COSTLY = 2e11
_WANDA, _QUICK = Wanda(per_output=False), ADMM(1, 1, refit_steps=5)


class PrunedKernel(NamedTuple):
    """What became of a kernel.

    Args:
        kernel: `Kernel`.
        num_pruned: Number of its weights that are zero by the mask.
        error: Relative output error; see `KernelProblem.error`. `None` if the kernel
            stays dense.
        seconds: Time of its statistics and its solution.
    """

    kernel: object
    num_pruned: int
    error: float | None
    seconds: float


class StageByStage:
    """Solves the layer problems of a model, and replaces weights and biases.

    Kernels of one layer, or of layers with one input, form a stage. Each stage is
    calibrated on the model whose earlier stages are pruned already, and approaches
    the outputs of the dense model.

    Args:
        model: Built Keras model, or `OneShotModule`, which is pruned in place.
        plans: List of `(kernel, pattern)`: the kernels that may be pruned.
        batches: List of batches of inputs, all of one shape.
        method: `OneShotMethod`.
        dense_target: Whether each kernel approaches the dense model's outputs.
        centre: Whether means are left to the biases, where a kernel has one.
        seed: Integer, seed of the choice of rows.

    Attributes:
        order: `CallOrder` of the kernels.
        variables: List of the variables that pruning changes: kernels and biases.
    """

    def __init__(
        self, model, plans, batches, method, *, dense_target=True, centre=True, seed=0
    ):  # fmt: skip
        self._patterns = dict(plans)
        self._calibration = Calibration(model, list(self._patterns), batches, seed)
        self._method = method
        self._dense_target, self._centre = dense_target, centre
        self._call = FunctionCache()
        self.order = self._calibration.order
        self.variables = _variables_of(self._patterns)

    @property
    def stages(self):
        """Tuple of tuples of kernels, in the order of their first calls."""
        return self.order.stages

    def error_curves(self, kernels, sparsities):
        """Returns the errors that each kernel makes alone in the dense model.

        The errors of a costly kernel are estimated: Wanda over the whole kernel gives
        the mask, and five steps of conjugate gradients the weights.

        Args:
            kernels: The kernels of a stage.
            sparsities: List of shares of the groups to prune.

        Returns:
            Dict from a kernel to a list of `(sparsity, error)`.
        """
        moments = self._calibration.moments(kernels) if kernels else {}
        curves = {}
        for kernel in kernels:
            problem = self._problem(kernel, moments[kernel], 0, dense_target=False)
            num_groups = problem.pattern.num_groups(kernel.layout)
            cost = 50 * kernel.layout.rows * kernel.layout.size * len(sparsities)
            curves[kernel] = []
            for sparsity in sparsities:
                asked = problem.with_count(round(sparsity * num_groups))
                method = self._method
                if cost > _COSTLY:
                    method = _QUICK
                    asked = asked.with_mask(_WANDA.solve(asked).mask)
                error = asked.error(method.solve(asked).weights)
                curves[kernel].append((sparsity, error))
        return curves

    def prune(self, counts):
        """Prunes stage by stage.

        Args:
            counts: Dict from kernels to the number of groups to prune.

        Yields:
            `PrunedKernel` of each kernel in `counts`, after its weights were replaced.
        """
        dense = None
        if self._dense_target:
            dense = [(variable, ops.copy(variable)) for variable in self.variables]
        is_dense = True
        for stage in self.stages:
            for kernel in stage:
                if counts.get(kernel) == 0:
                    yield PrunedKernel(kernel, 0, None, 0.0)
            kernels = [kernel for kernel in stage if counts.get(kernel)]
            if not kernels:
                continue
            start = time.perf_counter()
            # Before the first change, the model is the dense one.
            moments = self._calibration.moments(kernels, None if is_dense else dense)
            shared = (time.perf_counter() - start) / len(kernels)
            for kernel in kernels:
                start = time.perf_counter()
                problem = self._problem(
                    kernel,
                    moments[kernel],
                    counts[kernel],
                    dense_target=self._dense_target and not is_dense,
                )
                solution = self._method.solve(problem)
                error = problem.error(solution.weights)
                num_pruned = int(ops.sum(ops.cast(~solution.mask, "int32")))
                self._replace(kernel, problem, solution.weights)
                seconds = shared + time.perf_counter() - start
                yield PrunedKernel(kernel, num_pruned, error, seconds)
            is_dense = False

    def _problem(self, kernel, moments, count, dense_target):
        return KernelProblem(
            kernel.layout.to_matrix(ops.convert_to_tensor(kernel.variable)),
            kernel.layout,
            moments,
            count,
            pattern=self._patterns[kernel],
            dense_target=dense_target,
            centre=self._centre and bias_of(kernel) is not None,
            call=self._call,
        )

    def _replace(self, kernel, problem, weights):
        matrix = kernel.layout.from_matrix(weights)
        bias = bias_of(kernel)
        update = problem.bias_update(weights) if problem.is_centred else None
        kernel.variable.assign(ops.cast(matrix, kernel.variable.dtype))
        if update is not None:
            bias.add(update)


def _variables_of(kernels):
    """Returns the variables that pruning of kernels changes, each once."""
    variables = {id(k.variable): k.variable for k in kernels}
    for kernel in kernels:
        bias = bias_of(kernel)
        if bias is not None:
            variables[id(bias.variable)] = bias.variable
    return list(variables.values())

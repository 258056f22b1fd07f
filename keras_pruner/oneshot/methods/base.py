"""Defines the base class of one-shot methods, and their registry."""

from typing import Any, NamedTuple

from keras_pruner.oneshot.problem import KernelProblem
from keras_pruner.registry import Component, Registry


class Solution(NamedTuple):
    """Holds the weights that a method found.

    Args:
        weights: Float32 tensor (K, N): the kernel's new matrix, zero outside the mask.
        mask: Bool tensor (K, N); `True` = keep.
    """

    weights: Any
    mask: Any


class OneShotMethod(Component):
    """Finds the sparse weights of one kernel from moments of its inputs.

    A method has no state. It reads a `KernelProblem` and changes nothing.

    Subclasses define `solve`; see `magnitude.py` for the shortest one.

    Attributes:
        weighs_outputs: Whether `prune_one_shot` multiplies the columns of the problem
            by how much they count for the model's outputs. A method that looks for the
            lowest error sets it to `True`. Others see the kernel's own weights.
    """

    weighs_outputs = False

    def solve(self, problem: KernelProblem) -> Solution:
        """Solves a `KernelProblem`.

        Args:
            problem: `KernelProblem`. The mask must come from its `select`, or prune
                exactly as many groups of its pattern.

        Returns:
            `Solution`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `solve`.")


METHODS = Registry("one-shot method", OneShotMethod)


register_one_shot_method = METHODS.register

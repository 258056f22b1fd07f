"""Defines the base class of regularizers, and their registry."""

from typing import Any

from keras_pruner.components.patterns.base import Pattern
from keras_pruner.kernels import Kernel
from keras_pruner.registry import Component, Registry
from keras_pruner.types import Tensor


class Regularizer(Component):
    """Draws weights towards zero while a pruner is attached.

    It is a proximal step on the weights after each optimizer step, so adaptive
    optimizers do not rescale it.
    """

    # Whether it acts only on the weights that the target will prune, with its strength
    # multiplied by the progress of the schedule.
    grows = False
    # Whether it draws whole groups to zero. `shrink` is then called for each unit that
    # the kernel is in, and the norms of `pattern` are those over all kernels of the
    # unit.
    draws_groups = False

    def shrink(
        self, weight: Tensor, amount: Any, kernel: Kernel, pattern: Pattern
    ) -> Tensor:
        """Returns the weights after one proximal step.

        Args:
            weight: Float tensor: the kernel's matrix, of shape (K, N).
            amount: Float tensor (): learning rate times `regularizer_strength`.
            kernel: The `Kernel`.
            pattern: The `Pattern`.

        Returns:
            Float tensor with the shape and dtype of `weight`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `shrink`.")


REGULARIZERS = Registry("regularizer", Regularizer)


register_regularizer = REGULARIZERS.register

"""The base class of regularizers and their registry."""

from keras_pruner.registry import Component, Registry


class Regularizer(Component):
    """Draws weights towards zero while a pruner is attached.

    It acts as a proximal step after each optimizer step, on the weights themselves, so
    that adaptive optimizers do not rescale it.
    """

    # Whether it acts only on what the target will prune, ever more strongly: its
    # strength is multiplied by the share of the schedule that has passed.
    grows = False

    def shrink(self, weight, amount, kernel, pattern):
        """Returns the weights after one proximal step.

        Args:
            weight: Float tensor: the kernel's matrix, of shape (K, N).
            amount: Float tensor (): learning rate times `regularizer_strength`.
            kernel: The `Kernel`.
            pattern: The `Pattern`, whose groups may matter.

        Returns:
            Float tensor of the shape and dtype of `weight`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `shrink`.")


REGULARIZERS = Registry("regularizer", Regularizer)


register_regularizer = REGULARIZERS.register

"""The base class of criteria and their registry."""

from keras_pruner.registry import Component, Registry


class Criterion(Component):
    """Scores the weights of a kernel; the lowest scores are pruned.

    A criterion is stateless maths: it must give the same scores for the same weights,
    eager and compiled, on every backend.
    """

    def scores(self, weight, kernel):
        """Scores one kernel.

        Args:
            weight: Float tensor: the kernel's matrix, of shape (K, N).
            kernel: `Kernel` being scored: its path and layout, not its values.

        Returns:
            Float32 tensor of shape (K, N). Higher is more important.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `scores`.")


CRITERIA = Registry("criterion", Criterion)
register_criterion = CRITERIA.register

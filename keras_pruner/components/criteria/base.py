"""The base classes of criteria and their registry."""

from keras_pruner.checks import check_in_range
from keras_pruner.registry import Component, Registry


class Criterion(Component):
    """Scores the weights of a kernel; the lowest scores are pruned.

    A criterion is stateless maths: it must give the same scores for the same weights,
    eager and compiled, on every backend.
    """

    # Whether it learns from gradients; see `GradientCriterion`.
    needs_gradients = False
    # Name of the allocation that an open `allocation` in the config stands for; `None`
    # leaves it to the pattern.
    default_allocation = None
    # Whether scores of different kernels compare as they are, e.g. as effects on the
    # loss.
    is_comparable = False

    def check(self, config):
        """Raises a `ValueError` if the rest of a `PruningConfig` makes no sense."""

    def scores(self, weight, kernel):
        """Scores one kernel.

        Args:
            weight: Float tensor: the kernel's matrix, of shape (K, N).
            kernel: `Kernel` being scored: its path and layout, not its values.

        Returns:
            Float32 tensor of shape (K, N). Higher is more important.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `scores`.")


class GradientCriterion(Criterion):
    """A criterion that remembers something of the loss gradients.

    It has a memory per kernel, zero at first. In `fit` it is a variable of the
    optimizer, and `accumulate` runs inside the compiled training step, once for each
    applied update: with the gradient as the loss has it, unscaled, unclipped, averaged
    where gradients are accumulated, and not masked.

    Subclasses define `accumulate`, and `scores` if the memory is not the score.
    """

    needs_gradients = True
    is_comparable = True
    # Whether the memory holds one number for what the pattern prunes as one (a block,
    # a channel), instead of one per weight.
    pools = False
    # Whether scores for weights that are pruned need the values these would have.
    needs_dense_weights = False
    # Whether only `prune_at_init` can feed it.
    at_init_only = False
    # In how many rounds `prune_at_init` approaches its target.
    num_rounds = 1

    def memory_shape(self, shape):
        """Returns the shape of the memory.

        Args:
            shape: (K, N), or the shape of the pooled values if the criterion `pools`.
        """
        return tuple(shape)

    def accumulate(self, memory, weight, gradient, pool):
        """Takes in one gradient.

        Args:
            memory: Float32 tensor of `memory_shape`.
            weight: Float32 tensor (K, N): the weights that the gradient was made at.
            gradient: Float32 tensor (K, N): derivative of the loss by each weight.
            pool: Function from a tensor (K, N) to its sums over what the pattern
                prunes as one; where single weights are chosen it changes nothing.

        Returns:
            Float32 tensor: the new memory.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `accumulate`.")

    def scores(self, weight, kernel, memory):
        """Scores one kernel.

        Args:
            weight: Float32 tensor: the kernel's matrix, of shape (K, N).
            kernel: `Kernel` being scored: its path and layout, not its values.
            memory: Float32 tensor of `memory_shape`.

        Returns:
            Float32 tensor of shape (K, N); or of the pooled shape, if it `pools`.
        """
        return memory

    def calibrate(self, memories, weights, pools, probe):
        """Fills the memories from a few batches, on weights that stay as they are.

        Args:
            memories: List of the kernels' memories.
            weights: List of float32 tensors (K, N).
            pools: List of the kernels' `pool` functions.
            probe: `Probe`: gradients of the loss on the batches.

        Returns:
            List of the new memories.
        """
        for gradients in probe.batch_gradients():
            memories = self._accumulate_all(memories, weights, gradients, pools)
        return memories

    def _accumulate_all(self, memories, weights, gradients, pools):
        return [
            self.accumulate(*parts)
            for parts in zip(memories, weights, gradients, pools, strict=True)
        ]


class MeanGradientCriterion(GradientCriterion):
    """A criterion whose score is of the gradient on all batches, not of each."""

    def calibrate(self, memories, weights, pools, probe):
        return self._accumulate_all(memories, weights, probe.mean_gradients(), pools)


CRITERIA = Registry("criterion", Criterion)


register_criterion = CRITERIA.register


def check_decay(value, name):
    """Returns the share that a memory keeps at each step, a float in [0, 1)."""
    return check_in_range(value, f"`{name}`", 0, 1, open_high=True)

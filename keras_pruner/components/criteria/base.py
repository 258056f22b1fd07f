"""Defines the base classes of criteria, and their registry."""

from keras_pruner.checks import check_in_range
from keras_pruner.registry import Component, Registry


class Criterion(Component):
    """Scores the weights of a kernel; the lowest scores are pruned.

    A criterion has no state of its own. It must return the same scores for the same
    weights, eager and compiled, on every backend.
    """

    # What its memory is made from: `None` for no memory, `"gradients"` of the loss,
    # `"flow"` through a model of absolute weights without data, or `"activations"`.
    needs = None
    # Name of the allocation if the config names none; `None` leaves it to the pattern.
    default_allocation = None
    # Whether scores of different kernels are comparable, e.g. as effects on the loss.
    is_comparable = False
    # Whether the memory holds one number for each group of the pattern (a block, a
    # channel), instead of one for each weight.
    pools = False
    # Whether the scores of pruned weights need their dense values.
    needs_dense_weights = False
    # Whether it works in `prune_at_init` only.
    at_init_only = False
    # Number of rounds in which `prune_at_init` approaches its target.
    num_rounds = 1
    # Whether a pruner of the same name chooses this criterion.
    has_pruner = False

    @property
    def has_memory(self):
        """Whether the criterion keeps a memory for each kernel."""
        return self.needs is not None

    @property
    def needs_gradients(self):
        """Whether the memory is made from gradients of the loss."""
        return self.needs == "gradients"

    def check(self, config):
        """Raises a `ValueError` if the criterion cannot work with a `PruningConfig`."""

    def scores(self, weight, kernel):
        """Scores one kernel.

        Args:
            weight: Float tensor: the kernel's matrix, of shape (K, N).
            kernel: `Kernel` to score; only its path and layout may be read.

        Returns:
            Float32 tensor of shape (K, N). Higher is more important.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `scores`.")


class GradientCriterion(Criterion):
    """Scores weights by a criterion state that it accumulates from gradients.

    The state of a kernel is called its memory, and starts at zero. In `fit` it is a
    variable of the optimizer, and `accumulate` runs inside the compiled training step,
    once for each applied update. The gradient is that of the loss: unscaled, unclipped,
    unmasked, and averaged if gradients are accumulated.

    Subclasses define `accumulate`, and `scores` if the memory is not the score.
    """

    needs = "gradients"
    is_comparable = True

    def memory_shape(self, shape):
        """Returns the shape of the memory.

        Args:
            shape: (K, N), or the shape of the pooled values if the criterion `pools`.
        """
        return tuple(shape)

    def accumulate(self, memory, weight, gradient, pool):
        """Adds one gradient to the memory.

        Args:
            memory: Float32 tensor of `memory_shape`.
            weight: Float32 tensor (K, N): the weights at which the gradient was taken.
            gradient: Float32 tensor (K, N): derivative of the loss by each weight.
            pool: Function from a tensor (K, N) to its sums over the pattern's groups;
                the identity if the pattern chooses single weights.

        Returns:
            Float32 tensor: the new memory.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `accumulate`.")

    def scores(self, weight, kernel, memory):
        """Scores one kernel.

        Args:
            weight: Float32 tensor: the kernel's matrix, of shape (K, N).
            kernel: `Kernel` to score; only its path and layout may be read.
            memory: Float32 tensor of `memory_shape`.

        Returns:
            Float32 tensor of shape (K, N); or of the pooled shape, if it `pools`.
        """
        return memory

    def calibrate(self, memories, weights, pools, probe):
        """Fills the memories from a few batches, with the weights unchanged.

        Args:
            memories: List of the kernels' memories.
            weights: List of float32 tensors (K, N).
            pools: List of the kernels' `pool` functions.
            probe: `Probe` that computes gradients of the loss on the batches.

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
    """Scores by the mean gradient of all batches when `prune_at_init` calibrates."""

    def calibrate(self, memories, weights, pools, probe):
        return self._accumulate_all(memories, weights, probe.mean_gradients(), pools)


CRITERIA = Registry("criterion", Criterion)


register_criterion = CRITERIA.register


def check_decay(value, name):
    """Checks the share that a memory keeps at each step, and returns it as a float."""
    return check_in_range(value, f"`{name}`", 0, 1, open_high=True)

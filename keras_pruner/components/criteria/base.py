"""Defines the base classes of criteria, and their registry."""

from collections.abc import Iterable, Sequence
from typing import Any

from keras_pruner.checks import check_in_range
from keras_pruner.kernels import ScoredKernel
from keras_pruner.registry import Component, Registry
from keras_pruner.types import Pool, Tensor


class Criterion(Component):
    """Scores the weights of a kernel; the lowest scores are pruned.

    A criterion has no state of its own. It must return the same scores for the same
    weights, eager and compiled, on every backend.
    """

    # What its memory is made from: `None` for no memory, `"gradients"` of the loss,
    # `"flow"` through a model of absolute weights without data, or `"activations"`.
    # `"second_moment"`: the memory is the running mean of squared gradients that the
    # optimizer keeps. An update reads it, and also passes its mean over all kernels.
    needs: str | None = None
    # Name of the criterion that scores while the optimizer has no second moment.
    stand_in = "magnitude"
    # Name of the allocation if the config names none; `None` leaves it to the pattern.
    default_allocation: str | None = None
    # Name of the schedule if neither config nor pruner names one; `None` leaves it to
    # the target.
    default_schedule: str | None = None
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
    def has_memory(self) -> bool:
        """Whether `scores` takes a memory."""
        return self.needs is not None

    @property
    def reads_optimizer(self) -> bool:
        """Whether the memory is a slot of the optimizer."""
        return self.needs == "second_moment"

    @property
    def keeps_memory(self) -> bool:
        """Whether the pruner keeps the memory, as a state of each kernel."""
        return self.has_memory and not self.reads_optimizer

    @property
    def needs_gradients(self) -> bool:
        """Whether the memory is made from gradients of the loss."""
        return self.needs == "gradients"

    def check(self, config: Any) -> None:
        """Raises a `ValueError` if the criterion cannot work with a `PruningConfig`."""

    def scores(self, weight: Tensor, kernel: ScoredKernel) -> Tensor:
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

    def memory_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Returns the shape of the memory.

        Args:
            shape: (K, N), or the shape of the pooled values if the criterion `pools`.
        """
        return tuple(shape)

    def accumulate(
        self, memory: Tensor, weight: Tensor, gradient: Tensor, pool: Pool
    ) -> Tensor:
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

    def scores(self, weight: Tensor, kernel: ScoredKernel, memory: Tensor) -> Tensor:
        """Scores one kernel.

        Args:
            weight: Float32 tensor: the kernel's matrix, of shape (K, N).
            kernel: `Kernel` to score; only its path and layout may be read.
            memory: Float32 tensor of `memory_shape`.

        Returns:
            Float32 tensor of shape (K, N); or of the pooled shape, if it `pools`.
        """
        return memory

    def calibration_gradients(self, probe: Any) -> Iterable[Sequence[Tensor]]:
        """Yields what `prune_at_init` accumulates from a few batches, one by one.

        Args:
            probe: `Probe` that computes gradients of the loss on the batches.

        Returns:
            Iterable of lists, each with a float32 tensor (K, N) for every kernel.
        """
        return probe.batch_gradients()

    def calibrate(
        self,
        memories: Sequence[Tensor],
        weights: Sequence[Tensor],
        pools: Sequence[Pool],
        probe: Any,
    ) -> Sequence[Tensor]:
        """Fills the memories from a few batches, with the weights unchanged.

        Args:
            memories: List of the kernels' memories.
            weights: List of float32 tensors (K, N).
            pools: List of the kernels' `pool` functions.
            probe: As of `calibration_gradients`.

        Returns:
            List of the new memories.
        """
        for gradients in self.calibration_gradients(probe):
            memories = [
                self.accumulate(*parts)
                for parts in zip(memories, weights, gradients, pools, strict=True)
            ]
        return memories


class MeanGradientCriterion(GradientCriterion):
    """Scores by the mean gradient of all batches when `prune_at_init` calibrates."""

    def calibration_gradients(self, probe: Any) -> Iterable[Sequence[Tensor]]:
        return [probe.mean_gradients()]


CRITERIA = Registry("criterion", Criterion)


register_criterion = CRITERIA.register


def check_decay(value, name):
    """Checks the share that a memory keeps at each step, and returns it as a float."""
    return check_in_range(value, f"`{name}`", 0, 1, open_high=True)

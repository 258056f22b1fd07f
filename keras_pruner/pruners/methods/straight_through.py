"""Pruners that train dense weights through a sparse model."""

from keras import ops

from keras_pruner.checks import check_option
from keras_pruner.pruners.base import register_pruner
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.scheduler import Pace
from keras_pruner.pruners.training_rule import TrainingRule


class _StraightThrough(TrainingRule):
    """The gradient at the masked kernel moves all of the dense weights."""

    keeps_dense = True

    def shape_gradient(self, gradient, weight, mask, state, scale):
        return gradient


class _Refined(_StraightThrough):
    """Straight-through, with a decay of what is pruned."""

    def shape_gradient(self, gradient, weight, mask, state, scale):
        pruned = ops.logical_not(ops.convert_to_tensor(mask))
        decay = self.options["decay"] * ops.cast(weight, "float32") * scale
        decay = ops.cast(decay, gradient.dtype)
        return gradient + ops.where(pruned, decay, ops.zeros_like(decay))


@register_pruner("ste")
class STE(KerasBasePruner):
    """Straight-through estimation: the mask is applied forward, ignored backward.

    Dense weights are kept beside the model's kernels, which hold `weight * mask`. The
    gradient made there moves all dense weights, so a pruned weight goes on learning
    and returns with what it learned when its score rises. It takes one more copy of
    the pruned kernels.

    References:
        [Bengio et al., 2013](https://arxiv.org/abs/1308.3432); for pruning [Dynamic
        model pruning with feedback, Lin et al.,
        2020](https://arxiv.org/abs/2006.07253)
    """

    rule_class = _StraightThrough
    keeps_zeros = False


@register_pruner("sr_ste")
class SRSTE(KerasBasePruner):
    """Sparse-refined straight-through estimation, for n:m from scratch.

    `gradient <- gradient + decay * (1 - mask) * weight`: pruned weights are drawn to
    zero, which keeps the masks from changing back and forth. By default the target
    sparsity holds from the first update on, and masks are made anew at most every ten
    steps.

    Options:
        decay: Strength of the pull on pruned weights, in [0, 1]. 2e-4 by default.

    References:
        [Learning N:M fine-grained structured sparse neural networks from scratch, Zhou
        et al., 2021](https://arxiv.org/abs/2102.04010)
    """

    rule_class = _Refined
    keeps_zeros = False
    default_schedule = "constant"
    default_options = {"decay": 2e-4}  # noqa: RUF012
    pace = Pace(num_updates=300, max_steps_apart=10)

    @classmethod
    def check(cls, config, options):
        check_option(options, "decay", 0, 1)

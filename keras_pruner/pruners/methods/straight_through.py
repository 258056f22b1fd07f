"""Defines pruners that train dense weights through a sparse model."""

from keras import ops

from keras_pruner.checks import check_option
from keras_pruner.config import register_pruner
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.scheduler import Pace
from keras_pruner.pruners.training_rule import TrainingRule


class _StraightThrough(TrainingRule):
    """Moves all dense weights by the gradient at the masked kernel."""

    keeps_dense = True

    def shape_gradient(self, gradient, weight, mask, state, scale):
        return gradient


class _Refined(_StraightThrough):
    """Moves all dense weights, and decays the pruned ones."""

    def shape_gradient(self, gradient, weight, mask, state, scale):
        pruned = ops.logical_not(ops.convert_to_tensor(mask))
        decay = self.options["decay"] * ops.cast(weight, "float32") * scale
        decay = ops.cast(decay, gradient.dtype)
        return gradient + ops.where(pruned, decay, ops.zeros_like(decay))


@register_pruner("ste")
class STE(KerasBasePruner):
    """Applies the mask forward, and ignores it backward (straight-through estimation).

    The model's kernels hold `weight * mask`, and the pruner keeps dense weights beside
    them. The gradient at the kernels moves all dense weights. So a pruned weight
    continues to learn, and returns with its learned value when its score rises. It
    needs memory for one more copy of the pruned kernels.

    References:
        [Bengio et al., 2013](https://arxiv.org/abs/1308.3432); for pruning [Dynamic
        model pruning with feedback, Lin et al.,
        2020](https://arxiv.org/abs/2006.07253)
    """

    rule_class = _StraightThrough
    keeps_zeros = False


@register_pruner("sr_ste")
class SRSTE(KerasBasePruner):
    """Trains n:m models from scratch by sparse-refined straight-through estimation.

    `gradient <- gradient + decay * (1 - mask) * weight` decays pruned weights, so that
    masks do not change back and forth. By default the target sparsity holds from the
    first update on, and updates are at most ten steps apart.

    Options:
        decay: Strength of the decay of pruned weights, in [0, 1]. Defaults to 2e-4.

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

"""Defines pruners that train dense weights through a thresholded model."""

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.backend import ordered_sum
from keras_pruner.checks import check_option
from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.masks import UnitResult, apply_mask
from keras_pruner.pruners.methods.hidden_weights.threshold import ThresholdPruner
from keras_pruner.pruners.training_rule import StateSpec, TrainingRule

# Above this target, Feather damps the gradients of pruned weights by default.
_DAMPS_ABOVE = 0.95
_DAMPING = 0.5
# Divides, instead of zero.
_TINY = 1e-30


class _Thresholded(TrainingRule):
    """Lowers the weights in the model by a power threshold; moves all dense weights."""

    keeps_dense = True

    def states(self):
        # An update sets it. Zero changes no weight.
        return super().states() | {"cut": StateSpec(())}

    @property
    def power(self):
        return self.options.get("power", 1)

    def gain(self, state):
        """Returns the factor of the lowered weights, which broadcasts to the kernel."""
        return 1.0

    def shape_gradient(self, gradient, weight, mask, state, scale):
        return gradient

    def forward_weights(self, weight, mask, state):
        size = ops.cast(ops.abs(weight), "float32")
        share = _ratio(state["cut"], size) ** self.power
        lowered = size * _root(1 - ops.minimum(share, 1.0), self.power)
        value = _with_sign(lowered * self.gain(state), weight)
        return apply_mask(value, mask), None

    def dense_from_forward(self, value, state):
        size = ops.cast(ops.abs(value), "float32") / self.gain(state)
        higher = ops.maximum(size, state["cut"])
        parts = [_ratio(part, higher) ** self.power for part in (size, state["cut"])]
        return _with_sign(higher * _root(sum(parts), self.power), value)


def _ratio(part, whole):
    return ops.convert_to_tensor(part) / ops.maximum(whole, _TINY)


def _root(value, power):
    if power == 1:
        return value
    # On a CPU, XLA vectorizes these functions, and no power that is a fraction.
    root = ops.exp(ops.log(ops.maximum(value, _TINY)) / power)
    return ops.where(value > 0, root, 0.0)


def _with_sign(size, like):
    """Returns magnitudes, float32, with the signs and the dtype of another tensor."""
    return ops.cast(size * ops.cast(ops.sign(like), "float32"), like.dtype)


class _Rescaled(_Thresholded):
    """Scales each output by what it lost."""

    def states(self):
        shape = (self.layout.outputs,)
        return super().states() | {"gain": StateSpec(shape, "float32", "ones")}

    def gain(self, state):
        shape = (self.layout.rows, self.layout.outputs)
        return self.layout.from_matrix(ops.broadcast_to(state["gain"], shape))


class _Damped(_Thresholded):
    """Damps the gradients of pruned weights."""

    def shape_gradient(self, gradient, weight, mask, state, scale):
        share = self.options["pruned_gradient"]
        if share is None:
            share = _DAMPING if self.config.target_sparsity > _DAMPS_ABOVE else 1.0
        return ops.where(ops.convert_to_tensor(mask), gradient, gradient * share)


@register_pruner("st3")
class ST3(ThresholdPruner):
    """Prunes by soft thresholds, straight-through, and scales up what is left (ST-3).

    The model computes with `gain * sign(w) * max(|w| - T, 0)`, and the gradient at
    these weights moves all dense weights `w`. So weights leave and return smoothly. A
    mask update prunes exactly as many weights as the schedule says. It sets each
    kernel's `T` to the largest pruned weight, and the gain of each output to
    `1.01 / (r + 0.01)`. There `r` is the share of the kept weights in the output's sum
    of `|w|`. Between updates masks, thresholds and gains stay. A kept weight that
    falls below `T` is zero in the model too, until it rises again.

    It needs memory for one more copy of the pruned kernels.

    References:
        [Are straight-through gradients and soft-thresholding all you need for sparse
        training?, Vanderschueren & De Vleeschouwer,
        2023](https://arxiv.org/abs/2212.01076)
    """

    rule_class = _Rescaled
    default_allocation = "global"

    def make_unit(self, unit: Any, inputs: Any) -> UnitResult:
        result = super().make_unit(unit, inputs)
        (states,), layout = result.states, unit.kernels[0].layout
        sizes = layout.to_matrix(ops.abs(ops.cast(inputs.weights[0], "float32")))
        mask = layout.to_matrix(result.masks[0])
        total = ordered_sum(sizes, axis=0)
        kept = ordered_sum(apply_mask(sizes, mask), axis=0)
        share = ops.where(total > 0, kept / ops.maximum(total, _TINY), 1.0)
        return result._replace(states=[states | {"gain": 1.01 / (share + 0.01)}])


@register_pruner("feather")
class Feather(ThresholdPruner):
    """Prunes by a threshold between soft and hard, straight-through (Feather).

    The model computes with `sign(w) * max(|w|^p - T^p, 0)^(1/p)`: a soft threshold if
    `p` is 1, and nearer to a mask for a larger `p`. The gradient at these weights moves
    all dense weights `w`, those of pruned weights by the share `pruned_gradient`.
    Masks and thresholds are those of `ST3`.

    It needs memory for one more copy of the pruned kernels.

    Options:
        power: The power `p`, in [1, 10]. Defaults to 3.
        pruned_gradient: Share in [0, 1]. `None`, the default, takes 0.5 for targets
            above 0.95, else 1.

    References:
        [Feather: an elegant solution to effective DNN sparsification, Glentis
        Georgoulakis et al., 2023](https://arxiv.org/abs/2310.02448)
    """

    rule_class = _Damped
    default_allocation = "global"
    default_options = {"power": 3, "pruned_gradient": None}  # noqa: RUF012

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        super().check(config, options)
        check_option(options, "power", 1, 10)
        if options["pruned_gradient"] is not None:
            check_option(options, "pruned_gradient", 0, 1)

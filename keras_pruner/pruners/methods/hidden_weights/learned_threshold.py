import math
from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.checks import check_option
from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.masks import apply_mask
from keras_pruner.pruners.methods.hidden_weights.threshold import ThresholdPruner
from keras_pruner.pruners.training_rule import StateSpec, TrainingRule
from keras_pruner.types import Tensor


class _LearnedThreshold(TrainingRule):
    """Shrinks weights by a threshold, and learns the threshold."""

    keeps_dense = True
    observes_gradients = True

    def states(self):
        return super().states() | {
            # The learned parameter s, and the factor c of its sigmoid. Both start at
            # 0, where the sigmoid is 1/2.
            "threshold": StateSpec(()),
            "cut": StateSpec(()),
        }

    def _level(self, state, dtype):
        level = ops.sigmoid(ops.convert_to_tensor(state["threshold"]))
        return ops.cast(level * ops.convert_to_tensor(state["cut"]), dtype)

    def _exceeds(self, weight, mask, state):
        above = ops.abs(weight) > self._level(state, weight.dtype)
        return ops.logical_and(ops.convert_to_tensor(mask), above)

    def shape_gradient(self, gradient, weight, mask, state, scale):
        return apply_mask(gradient, self._exceeds(weight, mask, state))

    def accumulate(self, state, weight, gradient):
        above = ops.abs(weight) > self._level(state, weight.dtype)
        signs = ops.cast(ops.sign(weight), gradient.dtype)
        pull = ops.where(above, gradient * signs, 0.0)
        sigmoid = ops.sigmoid(ops.convert_to_tensor(state["threshold"]))
        slope = -ops.sum(pull) * state["cut"] * sigmoid * (1 - sigmoid)
        threshold = state["threshold"] - self.options["learning_rate"] * slope
        return super().accumulate(state, weight, gradient) | {"threshold": threshold}

    def forward_weights(self, weight, mask, state):
        level = self._level(state, weight.dtype)
        value = ops.sign(weight) * ops.maximum(ops.abs(weight) - level, 0)
        return apply_mask(value, mask), None

    def dense_from_forward(self, value, state):
        return value + ops.sign(value) * self._level(state, value.dtype)


@register_pruner("str")
class STR(ThresholdPruner):
    """Prunes by soft thresholds, which are learned for each kernel.

    The model computes with `sign(w) * max(|w| - c * sigmoid(s), 0)`. The parameter `s`
    of each kernel learns from the loss, through
    `dL/ds = -sum(gradient * sign(w) over |w| above the threshold) * c * sigmoid'(s)`.

    In the paper the sparsity is a result. Here it follows the schedule exactly: an
    update ranks the weights of all kernels by `|w| / sigmoid(s)`, and prunes the
    lowest. It sets each kernel's `c` so that the threshold equals the largest pruned
    weight. So the thresholds learn how to divide the sparsity over the kernels.

    Options:
        learning_rate: Step size of the thresholds, in [0, 1000]. Defaults to 0.01.

    References:
        [Soft threshold weight reparameterization, Kusupati et al.,
        2020](https://arxiv.org/abs/2002.03231)
    """

    rule_class = _LearnedThreshold
    default_allocation = "global"
    default_options = {"learning_rate": 0.01}  # noqa: RUF012
    ranks_by = "|w| / sigmoid(s)"

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        super().check(config, options)
        check_option(options, "learning_rate", 0, 1000)

    def update_extra(self, sparsity: float, demands: Any) -> list[dict[str, Any]]:
        extra = []
        for kernel in self.kernels:
            threshold = self.state_variables[kernel.path]["threshold"]
            # 1 / sigmoid(s), by Python: each backend rounds its sigmoid differently.
            exponent = min(-float(ops.convert_to_numpy(threshold)), 60.0)
            factor = ops.convert_to_tensor(1 + math.exp(exponent), dtype="float32")
            extra.append({"factor": factor})
        return extra

    def score_unit(self, unit: Any, inputs: Any) -> list[Tensor]:
        (magnitudes,) = super().score_unit(unit, inputs)
        return [magnitudes * inputs.extra["factor"]]

from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.backend import clear_slots
from keras_pruner.checks import check_option
from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.masks import UnitResult, apply_mask, select_groups
from keras_pruner.pruners.methods.hidden_weights.straight_through import (
    StraightThroughPruner,
)
from keras_pruner.pruners.training_rule import StateSpec, TrainingRule


class _TopKast(TrainingRule):
    """Computes with one set of weights, and trains a larger one."""

    keeps_dense = True

    def states(self):
        shape = tuple(self.kernel.variable.shape)
        return super().states() | {"backward": StateSpec(shape, "bool", "ones")}

    def shape_gradient(self, gradient, weight, mask, state, scale):
        density = 1.0 - self.config.target_sparsity
        decay = self.options["decay"] * ops.cast(weight, "float32") * scale
        # Weights that are only explored decay faster, so that useless ones stay small.
        decay = ops.where(ops.convert_to_tensor(mask), decay, decay / density)
        gradient = gradient + ops.cast(decay, gradient.dtype)
        return apply_mask(gradient, state["backward"])


@register_pruner("top_kast")
class TopKAST(StraightThroughPruner):
    """Computes with the top-K weights, trains a larger set (always sparse training).

    The model computes with the weights A of the highest score, at the schedule's
    sparsity (by default the target from the first update on). Gradients move the
    larger set B of the highest scores, at `backward_sparsity`. Other weights keep their
    values. Their optimizer slots are emptied, so that no old momentum moves them. A
    quadratic penalty keeps the explored weights small: the gradient includes
    `decay * w` for weights of A, and `decay / density * w` for those of B outside of A.

    Options:
        backward_sparsity: Share of weights outside of B, in [0, target_sparsity];
            `None`, the default, makes B twice as large as A.
        decay: Strength of the penalty, in [0, 1]. Defaults to 1e-4.

    References:
        [Top-KAST, Jayakumar et al., 2020](https://arxiv.org/abs/2106.03517)
    """

    rule_class = _TopKast
    default_schedule = "constant"
    default_options = {"backward_sparsity": None, "decay": 1e-4}  # noqa: RUF012

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        check_option(options, "decay", 0, 1)
        if options["backward_sparsity"] is not None:
            check_option(options, "backward_sparsity", 0, config.target_sparsity)

    def demands(self, sparsity: float) -> dict[str, Any]:
        backward = self.options["backward_sparsity"]
        if backward is None:
            backward = max(0.0, 1 - 2 * (1 - sparsity))
        wider = self.plan.demand(min(backward, sparsity), self.updater.pinned_groups())
        return super().demands(sparsity) | {"backward": wider}

    def update_masks(self, sparsity: float | None = None) -> None:
        super().update_masks(sparsity)
        if self.optimizer is None:
            return
        for kernel in self.kernels:
            backward = self.state_variables[kernel.path]["backward"]
            rests = ops.logical_not(ops.convert_to_tensor(backward))
            clear_slots(self.optimizer, kernel.variable, where=rests)

    def make_unit(self, unit: Any, inputs: Any) -> UnitResult:
        result = super().make_unit(unit, inputs)
        resting = select_groups(self.group_unit(unit, inputs), inputs, "backward")
        states = [
            old | {"backward": ops.logical_or(mask, backward)}
            for old, mask, backward in zip(
                result.states,
                result.masks,
                self.expand_unit(unit, inputs, resting),
                strict=True,
            )
        ]
        return result._replace(states=states)

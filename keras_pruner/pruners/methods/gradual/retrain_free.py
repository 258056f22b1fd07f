from collections.abc import Mapping
from typing import Any

from keras import ops

from keras_pruner.config import PruningConfig, register_pruner
from keras_pruner.masks import UnitResult, are_finite, select_groups
from keras_pruner.pruners.keras_base import KerasBasePruner
from keras_pruner.pruners.scheduler import PruningScheduler


@register_pruner("retrain_free")
class RetrainFreePruner(KerasBasePruner):
    """Prunes channels or heads of a trained model, without training it.

    During `fit` the weights stay unchanged, and batches only add to the Fisher
    information of the channels' masks (criterion `"retrain_free"`). At the end of the
    run, or at `begin_step`, it prunes the channels of the lowest diagonal scores, once.
    Then it rearranges the choice in each kernel by the whole matrix F, which includes
    joint effects. The damage is `m^T F m`, where `m` marks the pruned channels. In the
    order of their scores, each kept channel joins the pruned ones. Then the channel
    whose release leaves the least damage is kept instead.

    Dropout, batch normalization and similar layers run in training mode.

    References:
        [A fast post-training pruning framework for transformers, Kwon et al.,
        2022](https://arxiv.org/abs/2204.09656)
    """

    takes_overlaps = False
    default_criterion = "retrain_free"
    default_schedule = "constant"
    freezes_weights = True
    takes_whole_model = True

    @classmethod
    def check(cls, config: PruningConfig, options: Mapping[str, Any]) -> None:
        if not config.pattern.prunes_channels:
            raise ValueError(
                "Pruner 'retrain_free' prunes whole channels or heads: use pattern "
                f"'channelx1', '1xchannel', 'mha'. Received: '{config.pattern}'"
            )
        if config.criterion.name != "retrain_free":
            raise ValueError(
                "Pruner 'retrain_free' scores by its masks' gradients: leave "
                f"`criterion` open. Received: criterion='{config.criterion.name}'"
            )

    def schedule_steps(
        self, total_steps: int | None = None, first_step: int = 0
    ) -> None:
        self.planned = total_steps, first_step
        begin = self.config.begin_step
        if begin is None:
            # More batches improve the estimate.
            begin = max(1, total_steps or 0)
        self.scheduler = PruningScheduler(
            self.config.schedule,  # type: ignore[arg-type]
            initial=self.target_sparsity_ratio,
            target=self.target_sparsity_ratio,
            begin=begin,
            end=begin,
            frequency=1,
        )

    def make_unit(self, unit: Any, inputs: Any) -> UnitResult:
        groups = self.group_unit(unit, inputs)
        lowest = select_groups(groups, inputs)
        fisher = [ops.cast(state["memory"], "float32") for state in inputs.states]
        fisher = sum(fisher[1:], fisher[0])
        pruned = rearrange(ops.reshape(lowest, (-1,)), fisher)
        pruned = ops.reshape(pruned, lowest.shape)
        masks = self.expand_unit(unit, inputs, pruned)
        return UnitResult(masks, [{} for _ in masks], are_finite(inputs, groups))


def rearrange(pruned, fisher):
    """Exchanges pruned and kept channels to lower their joint damage, `m^T F m`.

    Args:
        pruned: Bool tensor (C,): the channels of the lowest diagonal scores.
        fisher: Float32 tensor (C, C), symmetric and positive semidefinite.

    Returns:
        Bool tensor (C,) with the same number of `True` and no larger `m^T F m`.
    """
    size = pruned.shape[0]
    diagonal = ops.diagonal(fisher)
    # Kept channels, lowest score first; the pruned ones come last and are skipped.
    order = ops.argsort(ops.where(pruned, float("inf"), diagonal))
    num_kept = size - ops.sum(ops.cast(pruned, "int32"))
    # Without a pruned channel there is nothing to exchange.
    rounds = ops.where(num_kept < size, num_kept, 0)
    positions = ops.arange(size, dtype="int32")

    def exchange(number, chosen):
        candidate = positions == ops.cast(ops.take(order, number), "int32")
        chosen = ops.logical_or(chosen, candidate)
        marks = ops.cast(chosen, "float32")
        # Change of m^T F m when a channel leaves m.
        change = diagonal - 2 * ops.sum(fisher * ops.expand_dims(marks, 0), axis=1)
        change = ops.where(chosen, change, float("inf"))
        released = positions == ops.cast(ops.argmin(change), "int32")
        return ops.logical_and(chosen, ops.logical_not(released))

    def step(number, chosen):
        return number + 1, exchange(number, chosen)

    _, chosen = ops.while_loop(
        lambda number, chosen: number < rounds,
        step,
        (ops.zeros((), "int32"), pruned),
    )
    return chosen

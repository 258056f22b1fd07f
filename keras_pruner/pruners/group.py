"""Creates a pruner for each config of a model, and joins them into one."""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

from keras_pruner.config import PRUNERS, AnyConfig, as_config
from keras_pruner.kernels import Kernel, Selection, Skipped, select_kernels
from keras_pruner.pruners.base import BasePruner
from keras_pruner.pruners.kernel_changes import (
    active,
    count_zeros,
    ids_in,
    release,
    take_over,
    with_zeros_kept,
)
from keras_pruner.pruners.loop.hook_order import refuse_in_trace
from keras_pruner.pruners.loop.saved_state import SavedPruner
from keras_pruner.pruners.training_step import pair_gradients


def create_pruners(config: AnyConfig, modules: Any) -> list[Any]:
    """Returns one pruner for the config and one for each of its local configs.

    Args:
        config: `PruningConfig`, dict, or `None` for the defaults.
        modules: See `KerasBasePruner`.

    Returns:
        List of pruners of the registered `pruning_type`, the main one first.

    Raises:
        ValueError: If `KerasBasePruner` raises it, the `pruning_type` is unknown, or
            two local configs select the same kernel.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,))]
    ...     + [keras.layers.Dense(4, name=name) for name in ("hidden", "head")]
    ... )
    >>> head = {"include": "head", "target_sparsity": 0.5}
    >>> config = {"target_sparsity": 0.75, "local_configs": [head]}
    >>> for pruner in create_pruners(config, model):
    ...     print(list(pruner.masks), pruner.target_sparsity_ratio)
    ['hidden/kernel'] 0.75
    ['head/kernel'] 0.5
    """
    return pruners_of(select_kernels(modules, as_config(config)))


def pruners_of(selections):
    """Returns a pruner for each `Selection`, by its config's `pruning_type`."""
    for selection in selections:
        name = selection.config.pruning_type
        if len(selections) > 1 and PRUNERS[name].takes_whole_model:
            raise ValueError(
                f"Pruner '{name}' acts on the whole model and cannot share it with "
                "other configs. Leave out `local_configs`."
            )
    return [PRUNERS[s.config.pruning_type](s.config, s) for s in selections]


def only_selection(modules, config):
    """Returns the `Selection` of a pruner that has one config.

    Args:
        modules: See `KerasBasePruner`.
        config: `PruningConfig`.

    Raises:
        ValueError: If the config has local configs, or nothing is prunable.
    """
    if not isinstance(modules, Selection):
        if config.local_configs:
            raise ValueError(
                "A single pruner has one config, not `local_configs`: call "
                "`create_pruners(config, modules)`, or use PruningCallback."
            )
        (modules,) = select_kernels(modules, config)
    modules.check_not_empty()
    return modules


class PrunerGroup(SavedPruner, BasePruner):
    """Joins the pruners of a model: one for its config, one for each local config.

    It calls each of them and adds up the results.

    Args:
        config: `PruningConfig`, dict, or `None` for the defaults.
        modules: See `KerasBasePruner`; or a list of `Selection`s.

    Attributes:
        pruners: List of `KerasBasePruner`s. `config`, `scheduler` and other attributes
            that have no sum are those of the first.
        kernels: Tuple of the `Kernel`s that are pruned.
        skipped: Tuple of `Skipped`: the kernels that stay dense, and why.
        num_weights: Weights in all kernels.
        num_pruned: Weights that the masks zero.
    """

    framework = "keras"

    @classmethod
    def complete(cls, config: Any) -> Any:
        config = as_config(config)
        return PRUNERS[config.pruning_type].complete(config)

    def build(self) -> None:
        selections = self._selections = self.select()
        if isinstance(self.modules, list):
            self.modules = selections[0].modules
        with self.beside_training():
            self.pruners = pruners_of(selections)
        self.scheduler = self.pruners[0].scheduler

    def select(self) -> list[Selection]:
        """Returns the list of `Selection`s."""
        if isinstance(self.modules, list):
            return self.modules
        return select_kernels(self.modules, self.config)

    def beside_training(self) -> AbstractContextManager[Any]:
        """Returns the context in which the pruners compute."""
        return contextlib.nullcontext()

    # Attributes of all pruners together.

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(kernel for pruner in self.pruners for kernel in pruner.kernels)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(skip for pruner in self.pruners for skip in pruner.skipped)

    @property
    def masks(self) -> dict[str, Any]:
        with self.beside_training():
            return _merged(pruner.masks for pruner in self.pruners)

    @property
    def scores(self) -> dict[str, Any]:
        with self.beside_training():
            return _merged(pruner.scores for pruner in self.pruners)

    @property
    def num_weights(self) -> int:
        return sum(pruner.num_weights for pruner in self.pruners)

    @property
    def num_pruned(self) -> int:
        return sum(pruner.num_pruned for pruner in self.pruners)

    @property
    def current_sparsity_ratio(self) -> float:
        return self.num_pruned / max(1, self.num_weights)

    @property
    def target_sparsity_ratio(self) -> float:
        with self.beside_training():
            targets = [p.target_sparsity_ratio * p.num_weights for p in self.pruners]
        return sum(targets) / max(1, self.num_weights)

    @property
    def freezes_weights(self) -> bool:
        """Whether training changes scores and masks only."""
        return any(pruner.freezes_weights for pruner in self.pruners)

    @property
    def global_step(self) -> int:
        return self.pruners[0].global_step

    @property
    def updated_at(self) -> int:
        return max(pruner.updated_at for pruner in self.pruners)

    @property
    def next_update(self) -> int | None:
        steps = [pruner.next_update for pruner in self.pruners]
        return min((step for step in steps if step is not None), default=None)

    @property
    def is_done(self) -> bool:
        return all(pruner.is_done for pruner in self.pruners)

    # The schedule.

    @property
    def is_scheduled(self) -> bool:
        """Whether the steps of all pruners are known."""
        return all(pruner.scheduler is not None for pruner in self.pruners)

    def schedule_steps(
        self, total_steps: int | None = None, first_step: int = 0
    ) -> None:
        with self.beside_training():
            for pruner in self.pruners:
                if total_steps is not None or not pruner.has_open_steps:
                    pruner.schedule_steps(total_steps, first_step)
        self.scheduler = self.pruners[0].scheduler

    def schedule_open_steps(
        self,
        total_steps: int | None = None,
        first_step: int = 0,
        latest_end: int | None = None,
    ) -> None:
        """Fixes the steps of the pruners that have no schedule yet.

        Args:
            total_steps: Step at which training ends, or `None`.
            first_step: Value of an open `begin_step`.
            latest_end: Step at which an open `end_step` comes at the latest, or `None`.
        """
        with self.beside_training():
            for pruner in self.pruners:
                if pruner.scheduler is None:
                    pruner.latest_end = latest_end
                    pruner.schedule_steps(total_steps, first_step)
        self.scheduler = self.pruners[0].scheduler

    # Updates and hooks.

    def update_masks(self, sparsity: float | None = None) -> None:
        refuse_in_trace("update_masks")
        with self.beside_training():
            for pruner in self.pruners:
                pruner.update_masks(sparsity)

    def update_if_due(self) -> bool:
        refuse_in_trace("update_if_due")
        with self.beside_training():
            return any([pruner.update_if_due() for pruner in self.pruners])

    def apply_masks(self) -> None:
        with self.beside_training():
            for pruner in self.pruners:
                pruner.apply_masks()

    def mask_gradients(self, gradients: Any) -> Any:
        owner = {k.path: pruner for pruner in self.pruners for k in pruner.kernels}

        def shape(kernel, gradient):
            shaped = owner[kernel.path].mask_gradients({kernel.path: gradient})
            return shaped[kernel.path]

        with self.beside_training():
            return pair_gradients(self.kernels, gradients, shape)

    def attach_optimizer(self, optimizer: Any) -> None:
        """Sets the optimizer of the loop, for its learning rate and its slots."""
        for pruner in self.pruners:
            pruner.attach_optimizer(optimizer)

    def take_over_weights(self) -> None:
        """Updates dense weights after training without the pruners."""
        with self.beside_training():
            for pruner in self.pruners:
                pruner.loop.take_over_weights()

    def begin(self) -> None:
        """Pins the zeros of the model, if a config asks for it."""
        with self.beside_training():
            for pruner in self.pruners:
                pruner.begin()

    def on_train_begin(self) -> None:
        super().on_train_begin()
        with self.beside_training():
            for pruner in self.pruners:
                pruner.on_train_begin()

    def on_after_optimizer_step(self, learning_rate: Any = None) -> None:
        with self.beside_training():
            for pruner in self.pruners:
                pruner.on_after_optimizer_step(learning_rate)

    def on_train_end(self) -> None:
        refuse_in_trace("on_train_end")
        with self.beside_training():
            for pruner in self.pruners:
                pruner.on_train_end()

    def regularize(self, learning_rate: Any) -> None:
        """Takes the proximal steps now; see `KerasBasePruner.regularize`."""
        with self.beside_training():
            for pruner in self.pruners:
                pruner.regularize(learning_rate)

    # Other kernels than those that the group was created for.

    def prunes(self, selections: Any) -> bool:
        """Whether the group was created for the same kernels and configs."""
        return ids_in(selections) == ids_in(self._selections)

    def moved_to(self, selections: Any) -> Self:
        """Returns a group for other kernels of the same model.

        Kernels of both groups keep their masks and states. If there are new kernels,
        the new group begins at step 0, with the zeros of the old ones pinned, if its
        pruner can. Otherwise it continues the schedule.

        Args:
            selections: List of `Selection`s.
        """
        owner = {id(k.variable): (p, k) for p in self.pruners for k in p.kernels}
        ids = [id(kernel.variable) for s in selections for kernel in s.kernels]
        begins_again = not set(ids) <= set(owner)
        made = [with_zeros_kept(s) for s in selections] if begins_again else selections
        with self.beside_training():
            group = type(self)(self.config, made)
            group._selections = selections
            for pruner in group.pruners:
                take_over(pruner, owner, begins_again)
        group.scheduler = group.pruners[0].scheduler
        return group

    def release(self, kernels: Sequence[Kernel], reason: str) -> list[Kernel]:
        """Lets kernels stay dense; the target is that of the others from now on.

        Args:
            kernels: List of `Kernel`s of the group. A unit that the pattern couples
                stays dense if all its kernels are in the list.
            reason: Why, for `skipped`.

        Returns:
            List of the `Kernel`s that stay dense.
        """
        ids = set(map(id, kernels))
        with self.beside_training():
            return [k for p in self.pruners for k in release(p, ids, reason)]

    def count_zeros(self) -> int:
        """Counts the pruned kernels' weights that are zero now, whatever masks say."""
        with self.beside_training():
            return sum(count_zeros(k) for p in self.pruners for k in active(p))

    def warn_if_short(self) -> None:
        for pruner in self.pruners:
            pruner.warn_if_short()


def _merged(dicts):
    return {name: value for part in dicts for name, value in part.items()}

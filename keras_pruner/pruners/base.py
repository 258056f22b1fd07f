"""Defines the state machine of a pruner: its hooks and its schedule."""

import abc
from typing import Any

from absl import logging

from keras_pruner.config import AnyConfig, PrunerType, PruningConfig, as_config
from keras_pruner.pruners.loop.hook_order import refuse_in_trace
from keras_pruner.pruners.scheduler import Pace, PruningScheduler, derive_steps

FRAMEWORKS = ("pytorch", "keras")


class BasePruner(PrunerType, abc.ABC):
    """Decides at each training step whether masks change, and keeps them applied.

    A training loop calls the hooks in this order:

    ```
    on_train_begin()
        on_epoch_begin(epoch)
            on_step_begin(local_step)                  updates the masks when due
            ... forward and backward pass ...
            on_before_optimizer_step(gradients)        returns masked gradients
            ... optimizer step ...
            on_after_optimizer_step()                  applies the masks, counts
            on_step_end()
        on_epoch_end()
    on_train_end()
    ```

    Args:
        config: `PruningConfig`, or a dict for `PruningConfig.from_dict`.
        modules: The modules to prune; see the subclass.
        framework: `"pytorch"` (the default) or `"keras"`: the framework of `modules`.
            A subclass accepts only its own.

    Attributes:
        modules: The argument `modules`.
        config: The complete `PruningConfig`, with values for all open fields.
        options: Dict of the pruner's options, with their defaults.
        masks: Dict from a kernel's name to its bool mask, `True` = keep, of the
            kernel's shape.
        scores: Dict from a kernel's name to the scores of its current weights,
            float32, of the kernel's shape.
        pattern: The `Pattern`.
        scheduler: `PruningScheduler`, or `None` while its steps are unknown.
        current_sparsity_ratio: Weights that the masks zero / weights, over all kernels
            of the pruner. A float in [0, 1).
        global_step: Optimizer updates applied since pruning was attached.
        start_step: Step of the first mask update, or `None` while unknown.
        end_step: Step after which masks are frozen, or `None`.
        pruning_frequency: Steps between mask updates, or `None`.
        target_sparsity_ratio: Sparsity at the last update.
        max_sparsity_ratio_per_op: Highest sparsity of any kernel.
    """

    # The framework that a subclass prunes, or `None`.
    framework: str | None = None
    # How it chooses the steps that the config leaves open.
    pace: Any = Pace()
    # Step at which an open `end_step` comes at the latest, or `None`.
    latest_end: int | None = None

    def __init__(
        self, config: AnyConfig, modules: Any, framework: str | None = None
    ) -> None:
        own, known = self.framework, ", ".join(FRAMEWORKS)
        framework = framework or own or "pytorch"
        if framework not in FRAMEWORKS:
            raise ValueError(
                f"`framework` must be one of {known}. Received: framework={framework!r}"
            )
        if own not in (None, framework):
            prunes = {"keras": "Keras models", "pytorch": "torch modules"}
            raise ValueError(
                f"{type(self).__name__} prunes {prunes[own]}: `framework` must be "
                f"'{own}'. Received: framework={framework!r}"
            )
        self.config, self.options = self.complete(config)
        self.modules = modules
        self.framework = framework
        self.pattern = self.config.pattern
        self.scheduler: Any = None
        self._global_step = 0
        # Step of the latest mask update; -1 before the first.
        self._updated_at = -1
        self.build()
        if self.scheduler is None and not self.has_open_steps:
            self.schedule_steps()

    def build(self) -> None:  # noqa: B027 (a hook that may stay empty)
        """Called by the constructor after it sets `config`, `options` and `modules`."""

    @classmethod
    def complete(cls, config: AnyConfig) -> tuple[PruningConfig, dict[str, Any]]:
        """Fills in a config or a dict; see `PrunerType.complete`."""
        return super().complete(as_config(config))

    # Each subclass defines these.

    @property
    @abc.abstractmethod
    def masks(self) -> dict[str, Any]:
        """Dict from name to mask."""

    @property
    @abc.abstractmethod
    def scores(self) -> dict[str, Any]:
        """Dict from name to scores."""

    @property
    @abc.abstractmethod
    def current_sparsity_ratio(self) -> float:
        """Share of weights that the masks zero."""

    @property
    @abc.abstractmethod
    def target_sparsity_ratio(self) -> float:
        """Sparsity at the last update."""

    @abc.abstractmethod
    def update_masks(self, sparsity: float | None = None) -> None:
        """Makes new masks of the given sparsity, or of the target, and applies them."""

    @abc.abstractmethod
    def apply_masks(self) -> None:
        """Sets every pruned weight to exactly zero."""

    @abc.abstractmethod
    def mask_gradients(self, gradients: Any) -> Any:
        """Returns the gradients with those of pruned weights set to zero."""

    # The schedule.

    @property
    def global_step(self) -> int:
        return self._global_step

    @property
    def start_step(self) -> int | None:
        return (
            self.config.begin_step if self.scheduler is None else self.scheduler.begin
        )

    @property
    def end_step(self) -> int | None:
        if self.scheduler is None:
            return self.config.end_step
        return self.scheduler.end

    @property
    def pruning_frequency(self) -> int | None:
        if self.scheduler is None:
            return self.config.frequency
        return self.scheduler.frequency

    @property
    def has_open_steps(self) -> bool:
        """Whether the config leaves `begin_step` or `end_step` open."""
        return None in (self.config.begin_step, self.config.end_step)

    @property
    def max_sparsity_ratio_per_op(self) -> float:
        cap = self.config.max_sparsity
        return 1.0 if cap is None else cap

    def schedule_steps(
        self, total_steps: int | None = None, first_step: int = 0
    ) -> None:
        """Fixes the steps of the schedule.

        Args:
            total_steps: Step at which training ends. Required only if the config
                leaves `begin_step` or `end_step` open.
            first_step: Value of an open `begin_step`.

        Raises:
            ValueError: If steps are open and `total_steps` is missing, or the chosen
                `begin_step` comes after the end.
        """
        config: Any = self.config
        refuse_at_init_only(config)
        if total_steps is None and self.has_open_steps:
            raise ValueError(
                "The config leaves `begin_step` or `end_step` open, which only "
                "`model.fit` can fill in. Set both, or call "
                "`schedule_steps(total_steps)` before training."
            )
        begin = first_step if config.begin_step is None else config.begin_step
        begin, end, frequency = derive_steps(
            total_steps,
            begin,
            config.end_step,
            config.frequency,
            self.pace,
            self.latest_end,
        )
        self.scheduler = config.schedule.own_scheduler() or PruningScheduler(
            config.schedule,
            initial=min(config.initial_sparsity, self.target_sparsity_ratio),
            target=self.target_sparsity_ratio,
            begin=begin,
            end=end,
            frequency=frequency,
        )

    @property
    def next_update(self) -> int | None:
        """Step of the next mask update, or `None` if none is left."""
        if self.scheduler is None:
            return None
        # If a device counts the steps, reading the count waits for the device.
        step = self.global_step
        due = self.scheduler.latest_update(step)
        if due is not None and due > self._updated_at:
            return due
        return self.scheduler.next_update(step)

    @property
    def updated_at(self) -> int:
        """Step of the latest mask update, or -1 before the first."""
        return self._updated_at

    @property
    def is_done(self) -> bool:
        """Whether the last mask update, which reaches the target, was made."""
        if self.scheduler is None:
            return False
        return self._updated_at >= self.scheduler.last_update

    def update_if_due(self) -> bool:
        """Updates the masks if an update step was reached since the latest update.

        Returns:
            Whether the masks were updated.
        """
        refuse_in_trace("update_if_due")
        if self.scheduler is None:
            return False
        # If several update steps were passed at once, only the latest update runs.
        due = self.scheduler.latest_update(self.global_step)
        if due is None or due <= self._updated_at:
            return False
        self.update_masks(self.sparsity_at(due))
        self._set_updated_at(due)
        return True

    def sparsity_at(self, step: int) -> float:
        """Returns the sparsity of the masks after an update.

        Args:
            step: Step of the update.
        """
        return self.scheduler(step)

    def _set_updated_at(self, step):
        self._updated_at = step

    # The hooks.

    def on_train_begin(self) -> None:
        """Called once before training."""
        refuse_in_trace("on_train_begin")
        if self.scheduler is None:
            self.schedule_steps()

    def on_epoch_begin(self, epoch: int) -> None:  # noqa: B027 (a hook that may stay empty)
        """Called before each epoch."""

    def on_step_begin(self, local_step: int) -> None:
        """Called before each step; updates the masks when the schedule says so.

        Args:
            local_step: Number of the step in its epoch. It may be any number, because
                decisions depend on `global_step`.
        """
        refuse_in_trace("on_step_begin")
        if self.scheduler is None:
            raise ValueError(
                "The steps of the schedule are unknown: call `on_train_begin` before "
                "the first step."
            )
        self.update_if_due()

    def on_before_optimizer_step(self, gradients: Any = None) -> Any:
        """Called between the backward pass and the optimizer's step.

        Args:
            gradients: Pairs of a gradient and its variable, as for an optimizer's
                `apply_gradients`; or only the gradients of the pruned kernels, as a
                dict by name or a list in the order of `masks`; or `None`.

        Returns:
            The same form, with zeros for pruned weights, so that they gather no
            momentum; or `None`.
        """
        return None if gradients is None else self.mask_gradients(gradients)

    def on_after_optimizer_step(self) -> None:
        """Called after the optimizer's step: applies the masks, counts the step."""
        self.apply_masks()
        self._global_step += 1

    def on_step_end(self) -> None:  # noqa: B027
        """Called after each step."""

    def on_epoch_end(self) -> None:  # noqa: B027
        """Called after each epoch."""

    def on_train_end(self) -> None:
        """Called once after training; warns if the target was not reached."""
        refuse_in_trace("on_train_end")
        self.update_if_due()
        self.warn_if_short()

    def warn_if_short(self) -> None:
        """Logs a warning if training ended before the target sparsity was reached."""
        if self.is_done:
            return
        last = self.scheduler.last_update if self.scheduler else None
        if last is not None and last <= self.global_step:
            advice = "It failed: an error above says why."
        else:
            advice = (
                "Train longer, lower `end_step`, or leave the steps to PruningCallback."
            )
        logging.warning(
            "Training ended at step %d with sparsity %.4f, before the target %.4f "
            "was reached: the last mask update is due at step %s. %s",
            self.global_step,
            self.current_sparsity_ratio,
            self.target_sparsity_ratio,
            "unknown" if last is None else last,
            advice,
        )

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {len(self.masks)} kernels, pattern "
            f"{self.pattern}, sparsity {self.current_sparsity_ratio:.4f} of "
            f"{self.target_sparsity_ratio:.4f}, step {self.global_step}>"
        )


def refuse_at_init_only(config):
    """Raises an error if a criterion cannot follow a training run."""
    criterion = config.criterion
    if criterion is not None and criterion.needs == "activations":
        raise ValueError(
            f"Criterion '{criterion.name}' needs activations, which no training step "
            "collects. Use a criterion that needs gradients, or 'magnitude'."
        )
    if criterion is not None and criterion.at_init_only:
        raise ValueError(
            f"Criterion '{criterion.name}' scores an untrained model, once: call "
            f"`prune_at_init(model, data, criterion='{criterion.name}')`, compile what "
            "it returns, and train it with "
            "`PruningCallback(pruning_type='pattern_lock')`."
        )

"""Drives pruners during `model.fit`."""

import weakref

import keras
from absl import logging
from keras import ops

from keras_pruner.backend import innermost
from keras_pruner.config import merged_config
from keras_pruner.kernels import check_built, select_in_model
from keras_pruner.pruners import NonFiniteError, PrunerGroup, refuse_at_init_only
from keras_pruner.training.fit_attachment import FitAttachment


class PruningCallback(keras.callbacks.Callback):
    """Prunes a compiled model while `model.fit` trains it.

    ```python
    model.fit(x, y, epochs=20, callbacks=[PruningCallback(target_sparsity=0.9)])
    ```

    If you set only a target, pruning begins at once and ends after three quarters of
    the run, which leaves a quarter to fine-tune. The callback prints the chosen steps.
    Every pruned weight is exactly zero after every optimizer step, from the first
    update to the end of training. `logs` have the key `"sparsity"`: list this callback
    before those that should see it.

    During `fit`, a `PruningOptimizer` wraps the model's optimizer. At the end, also
    after an exception, the model has its own optimizer again, with its state. A second
    `fit` with the same callback continues where the first stopped. During `fit`,
    `model.save` and `save_weights` write a file completely or not at all, and
    `load_weights` loads all or nothing.

    If a weight or a criterion state is not finite at a mask update, the masks stay
    unchanged. The callback logs an error, and training continues.

    If the model has `PrunedLayer`s, only those are pruned, each by its own config, or
    by this one if it has none.

    Args:
        config: `PruningConfig`, or dict for `PruningConfig.from_dict`.
        verbose: Whether to print the chosen steps, and that an update compiles.
        **settings: Fields of `PruningConfig`, in place of a config or on top of it.

    Attributes:
        pruners: List of the pruners, created when training begins: one for the config
            and one for each local config.

    Raises:
        ValueError: If a setting is unknown or invalid; in `fit`, before any weight
            changes, if the model is not compiled or has nothing to prune.
    """

    def __init__(self, config=None, *, verbose=True, **settings):
        super().__init__()
        self.config = merged_config(config, settings)
        for part in (self.config, *self.config.local_configs):
            refuse_at_init_only(part)
        self.verbose = verbose
        self._group = None
        self._pruned_model = lambda: None
        self._attachment = None
        self._cached_step = None
        self._plan_of_run = {}
        self._training = False
        self._first_epoch = True
        # Of a run of unknown length: its first step, and the epochs after the first.
        self._measured = None
        # Most optimizer updates possible so far, and the step of the next mask update.
        self._ceiling = 0
        self._next_update = None

    @property
    def pruners(self):
        """List of the pruners; empty before training begins."""
        return [] if self._group is None else self._group.pruners

    @property
    def sparsity(self):
        """Zeroed weights / weights, over all kernels that are pruned; in [0, 1)."""
        return 0.0 if self._group is None else self._group.current_sparsity_ratio

    @property
    def skipped(self):
        """Tuple of `Skipped`: the kernels that stay dense, and why."""
        return () if self._group is None else self._group.skipped

    def __repr__(self):
        return f"PruningCallback({self.config!r}, sparsity {self.sparsity:.4f})"

    # The hooks of a run.

    def set_model(self, model):
        super().set_model(model)
        # `fit` calls this for all callbacks before it begins. So the masks exist when
        # another callback restores a checkpoint, in any order of callbacks.
        if getattr(model, "optimizer", None) is not None:
            self._attach(model)

    def on_train_begin(self, logs=None):
        model = self.model
        if getattr(model, "optimizer", None) is None:
            raise ValueError(
                "PruningCallback needs a compiled model. Call `model.compile` with an "
                "optimizer before `fit`."
            )
        self._attach(model)
        self._training = True
        self._first_epoch = True

    def on_test_begin(self, logs=None):
        self._detach_if_idle()

    def on_predict_begin(self, logs=None):
        self._detach_if_idle()

    def _detach_if_idle(self):
        """Detaches in `evaluate` and `predict`, but not in `fit`."""
        if not self._training:
            self._detach()

    def on_epoch_begin(self, epoch, logs=None):
        if not self._first_epoch:
            return
        self._first_epoch = False
        self._synchronise()
        # Another callback may have restored the masks and the counts.
        self._attachment.bind()
        params = self.params or {}
        steps = params.get("steps")
        epochs = params.get("epochs", epoch + 1) - epoch
        for pruner, counts in zip(
            self.pruners, self._saved("pinned", ()), strict=False
        ):
            pruner.updater.pinned = counts
        if self._resumes():
            self._plan(None)
        elif steps is None and epochs > 1:
            # For a generator, the first epoch measures the number of steps.
            self._measured = self._read_step(), epochs - 1
        else:
            # A frozen model counts every batch.
            accumulated = 1
            if not self._group.freezes_weights:
                optimizer = innermost(self.model.optimizer)
                accumulated = optimizer.gradient_accumulation_steps or 1
            self._plan(None if steps is None else epochs * steps // accumulated)
        self._group.begin()
        self._remember_plan()
        self._update()

    def on_train_batch_end(self, batch, logs=None):
        # Reading the optimizer's count waits for the device, so it is read only when
        # an update may be due. Each step applies at most one update.
        self._ceiling += getattr(self._attachment.model, "steps_per_execution", 1)
        if self._next_update is not None and self._ceiling >= self._next_update:
            self._update()
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_epoch_end(self, epoch, logs=None):
        replanned = not self._group.is_scheduled
        if replanned:
            self._synchronise()
            begin, epochs_left = self._measured
            now = self._read_step()
            self._plan((now - begin) * epochs_left, first_step=now)
            self._remember_plan()
        # A data set of unknown length may end in a step without a callback.
        if self._next_update is not None or replanned:
            self._update()
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_train_end(self, logs=None):
        self._training = False
        if self._first_epoch:
            # The restored run had already ended.
            self._synchronise()
            self._attachment.bind()
            self._detach()
            return
        self._synchronise()
        self._detach()
        self._group.warn_if_short()

    # Parts of the hooks.

    @property
    def _optimizer(self):
        return self._attachment.optimizer

    def _attach(self, model):
        """Creates the pruners and puts them into the model, unless they are there."""
        if self._attachment is not None:
            is_attached = self._attachment.model is model
            if is_attached and model.optimizer is self._optimizer:
                return
            self._detach()
        group, cached_step = self._group, self._cached_step
        if self._pruned_model() is not model:
            check_built(model)
            selections = select_in_model(model, self.config)
            group, cached_step = PrunerGroup(self.config, selections), None
        self._attachment = FitAttachment(model, group, self._abandon, cached_step)
        if group is not self._group:
            self._plan_of_run = {}
        self._group = group
        self._pruned_model = weakref.ref(model)

    def _detach(self):
        if self._attachment is not None:
            self._cached_step = self._attachment.detach()
            self._attachment = None

    def _abandon(self, model):
        """Detaches after an exception ended the run."""
        self._training = False
        self._detach()
        # The exception may have interrupted the step anywhere.
        self._cached_step = None

    def _read_step(self):
        return int(ops.convert_to_numpy(self._optimizer.step))

    def _saved(self, key, default=None):
        """Returns a value of the saved plan of the run, or the default."""
        return (self._optimizer.run_state.plan or {}).get(key, default)

    def _resumes(self):
        """Whether a saved run continues whose steps were already planned."""
        return self._read_step() < self._saved("total_steps", 0)

    def _plan(self, updates, first_step=0):
        """Fixes open steps, given the number of further updates; `None` if unknown."""
        self._synchronise()
        now = self._read_step()
        total = now + (updates or 0)
        if self._resumes():
            # Batches of an epoch that are repeated must not move the schedule.
            total, first_step = self._saved("total_steps"), self._saved("first_step")
            updates = total - now
        if not self._group.is_scheduled:
            self._group.schedule_open_steps(total, first_step)
            self._plan_of_run = {"total_steps": total, "first_step": first_step}
        end = max(pruner.scheduler.last_update for pruner in self.pruners)
        if updates is None and any(p.config.end_step is None for p in self.pruners):
            logging.warning(
                "The length of the run is unknown and it has one epoch, so pruning is "
                "done in one shot at its start. To prune step by step, give "
                "`steps_per_epoch` to fit, or `end_step` to PruningCallback."
            )
        elif updates is not None and end > now + updates:
            logging.warning(
                "The last mask update is due at step %d, but this run ends at step %d: "
                "the target sparsity will not be reached in it.",
                end,
                now + updates,
            )
        self._announce(now, updates)

    def _remember_plan(self):
        """Passes the plan to the optimizer, which saves it."""
        pinned = [pruner.updater.pinned for pruner in self.pruners]
        self._optimizer.set_plan(self._plan_of_run | {"pinned": pinned})

    def _tell(self, line):
        if self.verbose and keras.config.is_interactive_logging_enabled():
            print(line)
        else:
            logging.info(line)

    def _announce(self, now, updates):
        for pruner in self.pruners:
            pruner.updater.tell = self._tell
            scheduler = pruner.scheduler
            length = "an unknown number of" if updates is None else now + updates
            self._tell(
                f"PruningCallback: {pruner.pattern} pattern, {len(pruner.kernels)} "
                f"kernels ({len(pruner.skipped)} skipped), sparsity "
                f"{scheduler.initial:g} -> {scheduler.target:g}, steps "
                f"{scheduler.begin} to {scheduler.last_update} every "
                f"{scheduler.frequency} of {length} steps"
            )

    def _update(self):
        """Updates the masks that are due, by the optimizer's count of updates."""
        self._synchronise()
        self._ceiling = self._read_step()
        upcoming = []
        for pruner in self.pruners:
            try:
                if pruner.update_if_due():
                    self._optimizer.enforce()
                upcoming.append(pruner.next_update)
            except NonFiniteError as error:
                # Training continues, as it does in Keras with such weights.
                logging.error("Step %d: %s", pruner.global_step, error)
                upcoming.append(pruner.scheduler.next_update(pruner.global_step))
        self._next_update = min(
            (step for step in upcoming if step is not None), default=None
        )

    def _synchronise(self):
        """Updates the variables if the backend trains on copies of them."""
        # Keras does this whenever a callback reads its model.
        return self.model

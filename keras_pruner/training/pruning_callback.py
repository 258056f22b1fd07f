"""Drives pruners during `model.fit`."""

import dataclasses
import functools
import weakref

import keras
from absl import logging
from keras import ops

from keras_pruner.backend import check_strategy, innermost
from keras_pruner.config import as_config, rename_keys
from keras_pruner.pruners import NonFiniteError, refuse_at_init_only
from keras_pruner.training.fit_attachment import (
    IN_FIT,
    accumulation,
    build_optimizer,
    inside,
    pruners_for,
    signature,
)
from keras_pruner.training.fit_guard import forget, guard_fit, on_failed_fit
from keras_pruner.training.pruning_optimizer import PruningOptimizer
from keras_pruner.training.saving.run_state import take_over


class PruningCallback(keras.callbacks.Callback):
    """Prunes a compiled model while `model.fit` trains it.

    ```python
    model.fit(x, y, epochs=20, callbacks=[PruningCallback(target_sparsity=0.9)])
    ```

    With nothing but a target, pruning begins at once and ends after three quarters of
    the run, so that a quarter is left to fine-tune; one line says what was chosen.
    Every pruned weight is exactly zero after every optimizer step, from the first
    update to the end of training. `logs` get the key `"sparsity"`: list this callback
    before those that should see it.

    For the time of `fit` the model's optimizer is wrapped in a `PruningOptimizer`; the
    optimizer that the model was compiled with, with its state, is put back at the end,
    also where an exception ends it. A second `fit` with the same callback goes on where
    the first stopped. In between `model.save` and `save_weights` write a file whole or
    not at all, and `load_weights` loads all or nothing.

    If a weight or a criterion's memory is not finite when the masks shall change, they
    stay as they are, an error is logged, and training goes on.

    If the model has `PrunedLayer`s, those and no others are pruned, each by its own
    config, or by this one if it has none.

    Args:
        config: `PruningConfig`, or dict for `PruningConfig.from_dict`.
        verbose: Whether to print the line on what was chosen.
        **settings: Fields of `PruningConfig`, in place of a config or on top of it.

    Attributes:
        pruners: List of the pruners, made when training begins: one for the config and
            one for each local config.

    Raises:
        ValueError: If a setting is unknown or invalid; in `fit`, before any weight
            changes, if the model is not compiled or has nothing to prune.
    """

    def __init__(self, config=None, *, verbose=True, **settings):
        super().__init__()
        self.config = as_config(settings if config is None else config)
        if config is not None and settings:
            self.config = dataclasses.replace(self.config, **rename_keys(settings))
        for part in (self.config, *self.config.local_configs):
            refuse_at_init_only(part)
        guard_fit()
        self.verbose = verbose
        self.pruners = []
        self._pruned_model = lambda: None
        self._optimizer = None
        self._user_train_function = None
        # What the latest run was compiled for and to, to use it again.
        self._kept = None
        self._plan_of_run = {}
        self._training = False
        self._first_epoch = True
        # Most updates that can have been applied by now, and the next that matters.
        self._ceiling = 0
        self._next_update = None
        self._steps_per_batch = 1

    @property
    def sparsity(self):
        """Zeroed weights / weights, over all kernels that are pruned; in [0, 1)."""
        total = sum(pruner.num_weights for pruner in self.pruners)
        pruned = sum(pruner.num_pruned for pruner in self.pruners)
        return pruned / total if total else 0.0

    @property
    def skipped(self):
        """Tuple of `Skipped`: what is left dense, and why."""
        taken = {kernel.path for p in self.pruners for kernel in p.kernels}
        skipped = {s.path: s for p in self.pruners for s in p.skipped}
        return tuple(s for path, s in skipped.items() if path not in taken)

    def __repr__(self):
        return f"PruningCallback({self.config!r}, sparsity {self.sparsity:.4f})"

    # The course of a run.

    def set_model(self, model):
        super().set_model(model)
        # `fit` calls this for all callbacks before it begins. So the masks are in
        # place when another callback restores a checkpoint, whatever the order.
        if getattr(model, "optimizer", None) is not None:
            self._attach(model)

    def on_train_begin(self, logs=None):
        model = self.model
        if getattr(model, "optimizer", None) is None:
            raise ValueError(
                "PruningCallback needs a compiled model. Call `model.compile` with an "
                "optimizer before `fit`."
            )
        if model.optimizer is not self._optimizer:
            self._attach(model)
        self._training = True
        self._first_epoch = True

    def on_test_begin(self, logs=None):
        self._detach_if_idle()

    def on_predict_begin(self, logs=None):
        self._detach_if_idle()

    def _detach_if_idle(self):
        """`evaluate` and `predict` set the model too, but train nothing."""
        if not self._training and self._optimizer is not None:
            self._detach(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        if not self._first_epoch:
            return
        self._first_epoch = False
        model = self.model
        # Another callback may have restored the masks and the counts.
        self._bind()
        params = self.params or {}
        steps = params.get("steps")
        epochs = params.get("epochs", epoch + 1) - epoch
        for pruner, counts in zip(
            self.pruners, self._saved("pinned", ()), strict=False
        ):
            pruner.pinned = counts
        if self._resumes():
            self._plan(None)
        elif steps is None and epochs > 1:
            # A generator: how long an epoch is shows at its end.
            self._steps_at_start = self._read_step()
            self._epochs_left = epochs - 1
        else:
            # A frozen model counts every batch.
            frozen = any(pruner.freezes_weights for pruner in self.pruners)
            accumulated = 1 if frozen else accumulation(model)
            updates = None if steps is None else epochs * steps // accumulated
            self._plan(updates)
        for pruner in self.pruners:
            pruner.begin()
        self._remember_plan()
        self._update()

    def on_train_batch_end(self, batch, logs=None):
        # Reading the optimizer's count waits for the device, so it is read only when
        # an update may be due: no batch applies more than one update a step.
        self._ceiling += self._steps_per_batch
        if self._next_update is not None and self._ceiling >= self._next_update:
            self._update()
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_epoch_end(self, epoch, logs=None):
        replanned = any(pruner.scheduler is None for pruner in self.pruners)
        if replanned:
            self._synchronise()
            per_epoch = self._read_step() - self._steps_at_start
            self._plan(per_epoch * self._epochs_left, first_step=self._read_step())
            self._remember_plan()
        # A data set of unknown length may have ended in a step without a callback.
        if self._next_update is not None or replanned:
            self._update()
        if logs is not None:
            logs["sparsity"] = self.sparsity

    def on_train_end(self, logs=None):
        self._training = False
        model = self.model
        if self._first_epoch:
            # What was restored had ended already.
            self._bind()
            self._detach(model)
            return
        self._detach(model)
        for pruner in self.pruners:
            pruner.warn_if_short()

    # What the hooks are made of.

    def _attach(self, model):
        """Builds the pruners and puts the masks into the model's optimizer."""
        current = model.optimizer
        restored = current if isinstance(current, PruningOptimizer) else None
        user_optimizer = inside(restored, model) if restored else current
        check_strategy(model, innermost(user_optimizer))
        pruners = self.pruners
        if self._pruned_model() is not model:
            pruners = pruners_for(model, self.config)
        kept = self._kept
        if kept and (restored or kept[0] != signature(model, user_optimizer)):
            kept = self._kept = None
        for pruner in pruners if restored is None else ():
            pruner.take_over_weights()
        optimizer = kept[1] if kept else build_optimizer(model, user_optimizer, pruners)
        if restored is not None and restored.built:
            take_over(optimizer, restored)
        else:
            optimizer.plan = None
            optimizer.step.assign(pruners[0].global_step)
            for pruner, update in zip(pruners, optimizer.updates, strict=True):
                update.assign(pruner.updated_at)
        # Nothing of the model was changed up to here.
        if pruners is not self.pruners:
            self._plan_of_run = {}
        self.pruners = pruners
        self._pruned_model = weakref.ref(model)
        self._optimizer = optimizer
        self._bind()
        train_function = getattr(model, "train_function", None)
        # A function made with an earlier wrapper is of no use afterwards.
        self._user_train_function = None if restored else train_function
        model.optimizer = optimizer
        for name, function in IN_FIT.items():
            model.__dict__[name] = functools.partial(function, model)
        on_failed_fit(model, self._abandon)
        if kept:
            model.train_function = kept[2]
        elif train_function is not None:
            model.make_train_function(force=True)
        self._steps_per_batch = getattr(model, "steps_per_execution", 1)

    def _bind(self):
        """Lets the pruners read masks and counts from the optimizer's variables."""
        updates = self._optimizer.updates
        for pruner, update in zip(self.pruners, updates, strict=True):
            pruner.bind(self._optimizer.step, update, self._optimizer)
            pruner.refresh()

    def _detach(self, model):
        """Puts the optimizer back that the model was compiled with."""
        forget(model)
        if model.optimizer is self._optimizer:
            model.optimizer = self._optimizer.inner_optimizer
            made_for = signature(model, model.optimizer)
            self._kept = made_for, self._optimizer, model.train_function
            model.train_function = self._user_train_function
            for name in IN_FIT:
                model.__dict__.pop(name, None)
        self._optimizer = None
        self._user_train_function = None
        for pruner in self.pruners:
            pruner.bind(None, None)

    def _abandon(self, model):
        """Ends a run that an exception ended."""
        self._training = False
        if self._optimizer is not None:
            self._detach(model)
        # It may have been cut anywhere.
        self._kept = None

    def _read_step(self):
        return int(ops.convert_to_numpy(self._optimizer.step))

    def _saved(self, key, default=None):
        """Returns what is known of the plan of the run that goes on."""
        return (self._optimizer.plan or {}).get(key, default)

    def _resumes(self):
        """Whether a run goes on whose steps were laid out before it was saved."""
        return self._read_step() < self._saved("total_steps", 0)

    def _plan(self, updates, first_step=0):
        """Fixes open steps, given the updates to come, or `None` if not known."""
        self._synchronise()
        now = self._read_step()
        total = now + (updates or 0)
        if self._resumes():
            # Batches of an epoch that are seen once more must not move the schedule.
            total, first_step = self._saved("total_steps"), self._saved("first_step")
            updates = total - now
        for pruner in self.pruners:
            if pruner.scheduler is None:
                pruner.schedule_steps(total, first_step=first_step)
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
        """Has the plan saved with the optimizer."""
        pinned = [pruner.pinned for pruner in self.pruners]
        self._optimizer.plan = self._plan_of_run | {"pinned": pinned}

    def _announce(self, now, updates):
        for pruner in self.pruners:
            scheduler = pruner.scheduler
            length = "an unknown number of" if updates is None else now + updates
            line = (
                f"PruningCallback: {pruner.pattern} pattern, {len(pruner.kernels)} "
                f"kernels ({len(pruner.skipped)} skipped), sparsity "
                f"{scheduler.initial:g} -> {scheduler.target:g}, steps "
                f"{scheduler.begin} to {scheduler.last_update} every "
                f"{scheduler.frequency} of {length} steps"
            )
            if self.verbose and keras.config.is_interactive_logging_enabled():
                print(line)
            else:
                logging.info(line)

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
                # As Keras does with such weights, training goes on.
                logging.error("Step %d: %s", pruner.global_step, error)
                upcoming.append(pruner.scheduler.next_update(pruner.global_step))
        self._next_update = min(
            (step for step in upcoming if step is not None), default=None
        )

    def _synchronise(self):
        """Makes the variables current where the backend trains on copies of them."""
        # Keras does so whenever a callback reads its model.
        return self.model

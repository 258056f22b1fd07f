"""Plans and makes the mask updates of a run, by the optimizer's count of steps."""

import keras
from absl import logging
from keras import ops

from keras_pruner.backend import (
    LOW_RATE,
    highest_rate_in,
    innermost,
    last_step_before_decay,
    rate_schedule_of,
)
from keras_pruner.pruners import NonFiniteError, source_of_scores
from keras_pruner.training.fit.trained_check import TrainedCheck


class PruningRun:
    """Plans and makes the mask updates of a `PrunerGroup`, in one `fit` or in several.

    Every decision depends on the optimizer's count of applied updates. On JAX the
    variables are current only after `synchronise`.

    Args:
        group: `PrunerGroup`.
    """

    def __init__(self, group):
        self.group = group
        self._prints = True
        self._latest_step = 0
        self.attachment = None
        self._check = None
        # Steps of the run, as the optimizer saves them.
        self._chosen = {}
        # Of a run of unknown length: its first step, and the epochs after the first.
        self._measured = None
        # The first step in the saved run, if this one goes on in the same epoch.
        self._replayed_from = None
        # Most optimizer updates possible so far, and the step of the next mask update.
        self._ceiling = 0
        self._next_update = None
        # Step before the first epoch, until that epoch ends.
        self._first_step = None
        # The highest learning rate at the end of an epoch; `None` after the warning.
        self._highest_rate = 0.0
        # Maps the id of a pruner to the error by which its latest update failed.
        self._failures = {}

    @property
    def _optimizer(self):
        return self.attachment.optimizer

    def begin(self, attachment, epochs, steps, batches_done=0, prints=True):
        """Plans the run and makes a mask update that is due at once.

        Args:
            attachment: `FitAttachment` of the group.
            epochs: Number of epochs, this one included.
            steps: Batches of an epoch, or `None` if unknown.
            batches_done: Batches of the first epoch that were trained already.
            prints: Whether to print the chosen steps.
        """
        self._prints = prints
        self.attachment, self._measured = attachment, None
        self._check = TrainedCheck(attachment)
        self._latest_step, self._highest_rate = 0, 0.0
        self._failures = {}
        # Another callback may have restored the masks and the counts.
        self._bind()
        for pruner, counts in zip(
            self.group.pruners, self._saved("pinned", ()), strict=False
        ):
            pruner.updater.pinned = counts
        self._first_step = self._read_step()
        if self._resumes():
            self._plan(None)
        elif steps is None and epochs > 1:
            # For a generator, the first epoch measures the number of steps.
            now = self._read_step()
            self._measured = now, epochs - 1
            self._replayed_from = self._saved("measured_from", now)
        else:
            # A frozen model counts every batch.
            accumulated = 1
            if not self.group.freezes_weights:
                optimizer = innermost(self._optimizer)
                accumulated = optimizer.gradient_accumulation_steps or 1
            batches = None if steps is None else epochs * steps - batches_done
            self._plan(None if batches is None else batches // accumulated)
        self.group.begin()
        self._remember_plan()
        self.update()

    def check_masks(self):
        """Raises an error if other code set the masks and counts to zero."""
        self._read_step()

    def after_batch(self, synchronise):
        """Makes a mask update if one is due.

        Args:
            synchronise: Function that makes the model's variables current.
        """
        # Reading the optimizer's count waits for the device, so it is read only when
        # an update may be due. Each step applies at most one update.
        self._ceiling += getattr(self.attachment.model, "steps_per_execution", 1)
        is_due = self._next_update is not None and self._ceiling >= self._next_update
        if not self._check.is_over:
            synchronise()
            if self._check.after_batch():
                self._update_again()
            elif self._measured and self._check.has_replayed:
                self._measured = self._replayed_from, self._measured[1]
                self._remember_plan()
        if is_due:
            synchronise()
            self.update()

    def after_epoch(self, synchronise):
        """Makes an update if one is due; plans a run of unknown length.

        Args:
            synchronise: Function that makes the model's variables current.
        """
        synchronise()
        now = self._read_step()
        if self._check.after_epoch():
            self._update_again()
        if now == self._first_step and self._check.has_trained:
            logging.warning(
                "The optimizer has applied no step in this epoch, and masks follow the "
                "steps that it applies. Does the training step skip it, does an epoch "
                "have fewer batches than `gradient_accumulation_steps`, or does loss "
                "scaling meet gradients that are not finite?"
            )
        if self._check.has_trained:
            self._first_step = None
        replanned = not self.group.is_scheduled
        if replanned:
            begin, epochs_left = self._measured
            self._plan((now - begin) * epochs_left, first_step=now)
            self._remember_plan()
        # A data set of unknown length may end in a step without a callback.
        if self._next_update is not None or replanned:
            self.update()
        if self._highest_rate is not None and self._next_update is not None:
            self._warn_of_low_rate()

    def _warn_of_low_rate(self):
        """Warns once if the learning rate is low before the target, and stays low."""
        optimizer = innermost(self._optimizer)
        rate = float(ops.convert_to_numpy(optimizer.learning_rate))
        self._highest_rate = max(rate, self._highest_rate)
        lowest = LOW_RATE * self._highest_rate
        open_ended = [p for p in self.group.pruners if p.config.end_step is None]
        # A rate of zero at the beginning is no fall.
        if rate > lowest or not self._highest_rate or not open_ended:
            return
        end = max(pruner.scheduler.last_update for pruner in open_ended)
        # A schedule may rise again, also because it is set back.
        has_schedule = rate_schedule_of(optimizer) is not None
        if has_schedule and any(p.rewinds_schedule for p in open_ended):
            return
        if highest_rate_in(optimizer, end - self._read_step()) > lowest:
            return
        logging.warning(
            "The learning rate fell from %.3g to %.3g, and masks change until step %d. "
            "The weights that are left need a learning rate to recover by. Lower it "
            "after that step, or give PruningCallback an earlier `end_step`.",
            self._highest_rate,
            rate,
            end,
        )
        self._highest_rate = None

    def _update_again(self):
        """Repeats the latest update, for the kernels that are left."""
        for pruner in self.group.pruners:
            if not (pruner.plan.idle and pruner.num_weights and pruner.updated_at >= 0):
                continue
            try:
                pruner.update_masks(pruner.sparsity_at(pruner.updated_at))
            except NonFiniteError as error:
                self._log_failure(pruner, error)
        self._optimizer.enforce()

    def update(self):
        """Updates the masks that are due, by the optimizer's count of updates."""
        self._ceiling = self._read_step()
        self._check.keep_weights()
        upcoming = []
        for pruner in self.group.pruners:
            try:
                if pruner.update_if_due():
                    self._optimizer.enforce()
                    self._failures.pop(id(pruner), None)
                upcoming.append(pruner.next_update)
            except NonFiniteError as error:
                # Training continues, as it does in Keras with such weights.
                self._log_failure(pruner, error)
                upcoming.append(pruner.scheduler.next_update(pruner.global_step))
        self._next_update = min(
            (step for step in upcoming if step is not None), default=None
        )

    def _log_failure(self, pruner, error):
        """Logs an error of an update, unless the update before it failed alike."""
        if self._failures.get(id(pruner)) != str(error):
            logging.error("Step %d: %s", pruner.global_step, error)
        self._failures[id(pruner)] = str(error)

    def _read_step(self):
        step = int(ops.convert_to_numpy(self._optimizer.step))
        if step < self._latest_step:
            # Other code assigned the count: a checkpoint, or zeros.
            self._bind()
        self._latest_step = step
        return step

    def _bind(self):
        self.attachment.bind()
        if self.group.num_pruned == self.group.num_weights:
            raise ValueError(
                "Other code assigned zeros to the masks, which would prune every "
                "weight. During `fit`, `model.optimizer.variables` holds them: to "
                "reset the state of your optimizer, assign only "
                "`model.optimizer.inner_optimizer.variables`. Before the next `fit`, "
                "call `reset()` of the callback, and load saved weights if the kernels "
                "are zero."
            )

    def _saved(self, key, default=None):
        """Returns a value of the saved plan of the run, or the default."""
        return (self._optimizer.run_state.plan or {}).get(key, default)

    def _resumes(self):
        """Whether a saved run continues whose steps were already planned."""
        return self._read_step() < self._saved("total_steps", 0)

    def _plan(self, updates, first_step=0):
        """Fixes open steps, given the number of further updates; `None` if unknown."""
        group, now = self.group, self._read_step()
        total = now + (updates or 0)
        if self._resumes():
            # Batches of an epoch that are repeated must not move the schedule.
            total, first_step = self._saved("total_steps"), self._saved("first_step")
            updates = total - now
        if not group.is_scheduled:
            latest_end = last_step_before_decay(self._optimizer, now, first_step, total)
            group.schedule_open_steps(total, first_step, latest_end)
            self._chosen = {"total_steps": total, "first_step": first_step}
        end = max(pruner.scheduler.last_update for pruner in group.pruners)
        if updates is None and any(p.config.end_step is None for p in group.pruners):
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
        pinned = [pruner.updater.pinned for pruner in self.group.pruners]
        plan = self._chosen | {"pinned": pinned}
        if self._measured and not self.group.is_scheduled:
            plan["measured_from"] = self._measured[0]
        self._optimizer.set_plan(plan)

    def _tell(self, line):
        if self._prints and keras.config.is_interactive_logging_enabled():
            print(line)
        else:
            logging.info(line)

    def _announce(self, now, updates):
        for pruner in self.group.pruners:
            pruner.updater.tell.show = self._tell
            scheduler = pruner.scheduler
            length = "an unknown number of" if updates is None else now + updates
            scored = sum(kernel.is_scored for kernel in pruner.kernels)
            units = f" in {len(pruner.units)} groups" if pruner.pattern.overlaps else ""
            source = source_of_scores(pruner)
            scored_by = f", scored by {source}" if source else ""
            if scheduler.end == pruner.latest_end and pruner.config.end_step is None:
                scored_by += "; the learning rate is low after that"
            self._tell(
                f"PruningCallback: {pruner.pattern} pattern, {scored} kernels{units} ("
                f"{len(pruner.skipped)} skipped), sparsity "
                f"{scheduler.initial:g} -> {scheduler.target:g} by "
                f"{scheduler.schedule!r}, steps "
                f"{scheduler.begin} to {scheduler.last_update} every "
                f"{scheduler.frequency} of {length} steps{scored_by}"
            )
            gain = pruner.config.capability()
            if gain is not None:
                self._tell(f"PruningCallback: {gain}")

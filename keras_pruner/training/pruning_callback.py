"""Drives pruners during `model.fit`."""

import typing
import weakref
from typing import Any

import keras

from keras_pruner.config import AnyConfig, Settings, merged_config, takes_settings
from keras_pruner.kernels import Skipped, check_built, select_in_model
from keras_pruner.pruners import PrunerGroup, refuse_at_init_only
from keras_pruner.training.fit.at_target import AtTarget
from keras_pruner.training.fit.fit_attachment import FitAttachment
from keras_pruner.training.fit.fit_guard import (
    forget,
    is_running,
    running_fit,
    watch_fit,
    watcher_of,
)
from keras_pruner.training.fit.lost_zeros import (
    check_zeros_at_end,
    remember_pruned,
    warn_of_assigned_weights,
)
from keras_pruner.training.fit.pruning_run import PruningRun
from keras_pruner.types import Logs


class PruningCallback(keras.callbacks.Callback):
    """Prunes a compiled model while `model.fit` trains it.

    ```python
    model.fit(x, y, epochs=20, callbacks=[PruningCallback(target_sparsity=0.9)])
    ```

    If you set only a target, pruning begins at once and ends after three quarters of
    the run, which leaves a quarter to fine-tune. The callback prints the chosen steps.
    Every pruned weight is exactly zero after every optimizer step, from the first
    update to the end of training. `logs` have the key `"sparsity"`, or
    `"kernel_sparsity"` if the model has a metric of that name: list this callback
    before those that should see it.

    During `fit`, a `PruningOptimizer` wraps the model's optimizer. At the end, also
    after an exception, the model has its own optimizer again, with its state. During
    `fit`, `model.save` and `save_weights` write a file completely or not at all, and
    `load_weights` loads all or nothing. A model that is not built yet is built by the
    first batch, as Keras does, and pruned from then on.

    A second `fit` with the same callback continues where the first stopped. If other
    layers are trainable then, the kernels that stay keep their masks. If some are new,
    pruning begins again at step 0, for all of them. `reset` starts with new masks.

    If another callback assigns weights after the last step, as
    `EarlyStopping(restore_best_weights=True)` does, the zeros of these weights count.
    If they are fewer than the masks', a warning at the end of `fit` says so. Wrap such
    a callback by `at_target` to keep the best epoch at the target sparsity.

    If a weight or a criterion state is not finite at a mask update, the masks stay
    unchanged. The callback logs an error, once until an update succeeds, and training
    continues.

    If the model has `PrunedLayer`s, only those are pruned, each by its own config, or
    by this one if it has none.

    A copy by `copy.deepcopy` or `pickle` has the settings, and has pruned nothing.

    Args:
        config: `PruningConfig`, or dict for `PruningConfig.from_dict`.
        verbose: Whether to print the chosen steps, and that an update compiles.
            `fit(verbose=0)` prints nothing.
        reapply_masks: Whether to apply the masks again at the end of `fit`, if another
            callback assigned weights without their zeros.
        **settings: Fields of `PruningConfig`, in place of a config or on top of it.

    Attributes:
        pruners: List of the pruners, created when training begins: one for the config
            and one for each local config.

    Raises:
        ValueError: If a setting is unknown or invalid; in `fit`, before any weight
            changes, if the model is not compiled, has nothing to prune, or another
            PruningCallback prunes it; after the first batch, if the training step does
            not use `model.optimizer`.
    """

    # `fit` looks for a callback with this attribute.
    prunes_in_fit = True

    @takes_settings
    def __init__(
        self,
        config: AnyConfig = None,
        *,
        verbose: bool = True,
        reapply_masks: bool = False,
        **settings: typing.Unpack[Settings],
    ) -> None:
        super().__init__()
        self.config = merged_config(config, settings)
        for part in (self.config, *self.config.local_configs):
            refuse_at_init_only(part)
        self.verbose = verbose
        self.reapply_masks = reapply_masks
        self._forget_all()

    def _forget_all(self):
        self._group = None
        self._run = None
        self._pruned_model = None
        self._attachment = None
        self._cached_step = None
        # Token of the `fit` in which the attachment was made.
        self._fit = None
        self._training = False
        self._has_begun = False
        self._log_key = None

    def reset(self) -> None:
        """Forgets masks and counts, so that the next `fit` starts with new ones.

        Call it after you set the weights back, e.g. for the next fold of a
        cross-validation. The weights of a model are not changed.

        Raises:
            ValueError: If `fit` runs with this callback.
        """
        if self._is_busy:
            raise ValueError(
                "This PruningCallback is in use by a running `fit`. Call `reset` "
                "between two calls of `fit`."
            )
        self._detach()
        self._forget_all()

    def at_target(self, callback: keras.callbacks.Callback) -> keras.callbacks.Callback:
        """Makes another callback ignore the epochs before the target sparsity.

        ```python
        pruning = PruningCallback(target_sparsity=0.9)
        best = keras.callbacks.EarlyStopping(patience=5, restore_best_weights=True)
        model.fit(x, y, epochs=40, callbacks=[pruning, pruning.at_target(best)])
        ```

        Args:
            callback: `keras.callbacks.Callback`, e.g. `EarlyStopping`, or
                `ModelCheckpoint` with `save_best_only`.

        Returns:
            Callback to list in place of the given one.
        """
        return AtTarget(self, callback)

    @property
    def pruners(self) -> list[Any]:
        """List of the pruners; empty before training begins."""
        return [] if self._group is None else self._group.pruners

    @property
    def sparsity(self) -> float:
        """Share of the pruned kernels' weights that are pruned and zero; in [0, 1].

        It is the number of zeros now, at most that of the masks, over all weights.
        """
        group = self._group
        if group is None:
            return 0.0
        self._synchronise()
        return min(group.count_zeros(), group.num_pruned) / max(1, group.num_weights)

    @property
    def is_done(self) -> bool:
        """Whether the last mask update, which reaches the target, was made."""
        return self._group is not None and self._group.is_done

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Tuple of `Skipped`: the kernels that stay dense, and why."""
        return () if self._group is None else self._group.skipped

    def __repr__(self) -> str:
        return f"PruningCallback({self.config!r}, sparsity {self.sparsity:.4f})"

    def __getstate__(self) -> dict[str, Any]:
        new = type(self).__new__(type(self))
        new._forget_all()
        # Keras' own attributes belong to a run, too.
        own = set(vars(new)) | set(vars(keras.callbacks.Callback()))
        return {key: value for key, value in vars(self).items() if key not in own}

    def __setstate__(self, state: Any) -> None:
        keras.callbacks.Callback.__init__(self)
        self._forget_all()
        self.__dict__.update(state)

    # The hooks of a run.

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        # `fit` calls this for all callbacks before it begins. So the masks exist when
        # another callback restores a checkpoint, in any order of callbacks.
        if getattr(model, "optimizer", None) is not None and model.built:
            self._attach(model)

    def on_train_begin(self, logs: Logs = None) -> None:
        model = self.model
        if getattr(model, "optimizer", None) is None:
            raise ValueError(
                "PruningCallback needs a compiled model. Call `model.compile` with an "
                "optimizer before `fit`; in a loop of your own, also "
                "`callback.set_model(model)`."
            )
        if model.built:
            self._attach(model)
        self._training = True
        self._has_begun = False
        self._log_key = None

    def on_test_begin(self, logs: Logs = None) -> None:
        self._detach_if_idle()

    def on_predict_begin(self, logs: Logs = None) -> None:
        self._detach_if_idle()

    def _detach_if_idle(self):
        """Detaches in `evaluate` and `predict`, but not in `fit`."""
        if not self._training:
            self._detach()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._ensure_run(epoch)
        if self._has_begun:
            self._run.check_masks()

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._ensure_run(0, batch)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._has_begun:
            self._run.after_batch(self._synchronise)
        else:
            # The batch was trained without pruning, and may have built the model.
            self._ensure_run(0, batch + 1)
        # The step that just ended has set the pruned weights to zero.
        group = self._group
        self._log(logs, 0.0 if group is None else group.current_sparsity_ratio)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._ensure_run(epoch)
        if self._has_begun:
            self._run.after_epoch(self._synchronise)
        self._log(logs, self.sparsity)

    def _log(self, logs, sparsity):
        if logs is None:
            return
        if self._log_key is None:
            # A metric of the model may have the name.
            self._log_key = "kernel_sparsity" if "sparsity" in logs else "sparsity"
        logs[self._log_key] = sparsity

    def on_train_end(self, logs: Logs = None) -> None:
        self._training = False
        if self._attachment is None:
            return
        self._synchronise()
        if self._has_begun:
            self._run.check_masks()
        else:
            # The restored run had already ended.
            self._attachment.bind()
        model = self._attachment.model
        self._detach()
        remember_pruned(model)
        if self._has_begun:
            self._group.warn_if_short()
        if running_fit(model) is None:
            # A loop calls the hooks, and no `fit` tells of its end.
            forget(model)
            self.on_fit_end(model)

    def on_fit_end(self, model: keras.Model) -> None:
        """Compares the zeros with the masks, after `on_train_end` of all callbacks."""
        check_zeros_at_end(self._group, self.reapply_masks)

    def on_fit_failed(self, model: keras.Model) -> None:
        """Detaches after an exception ended the run."""
        self._training = False
        self._detach()
        # The exception may have interrupted the step anywhere.
        self._cached_step = None

    # Parts of the hooks.

    @property
    def _is_busy(self):
        """Whether a `fit`, or a custom loop, trains with this callback."""
        if self._attachment is None or not self._training:
            return False
        model = self._attachment.model
        return self._fit is running_fit(model) or is_running(model, self._fit)

    def _ensure_run(self, epoch, batches_done=0):
        """Begins the run, unless it has begun; attaches again if Keras' state changed.

        Args:
            epoch: Number of the current epoch.
            batches_done: Batches of this epoch that were trained already.
        """
        if not self._training:
            # A loop calls the hooks, and left this one out.
            self.on_train_begin()
        is_attached = self._attachment is not None and self._attachment.is_in_place
        if is_attached and self._has_begun and not self._attachment.is_outdated:
            return
        if is_attached and self._attachment.is_outdated:
            self._detach()
            is_attached = False
        if not is_attached:
            if not self.model.built:
                # The first batch builds it.
                return
            self._attach(self.model)
        self._synchronise()
        self._has_begun = True
        params = self.params or {}
        self._run.begin(
            self._attachment,
            epochs=params.get("epochs", epoch + 1) - epoch,
            steps=params.get("steps"),
            batches_done=batches_done,
            prints=self.verbose and params.get("verbose", 1) != 0,
        )

    def _attach(self, model):
        """Creates the pruners and puts them into the model, unless they are there."""
        if self._attachment is not None:
            is_here = self._attachment.model is model
            if self._is_busy and not (is_here and self._fit is running_fit(model)):
                raise ValueError(
                    f"This PruningCallback prunes '{self._attachment.model.name}' in a "
                    "`fit` that still runs. Use one callback for each `fit`, e.g. "
                    "`copy.deepcopy(callback)` for another model."
                )
            if is_here and self._attachment.is_in_place:
                return
            self._detach()
        self._make_way(model)
        check_built(model)
        selections = select_in_model(model, self.config)
        group, run, cached_step = self._group, self._run, self._cached_step
        is_known = self._pruned_model is not None and self._pruned_model() is model
        if not is_known:
            group = self.make_group(selections)
        elif not group.prunes(selections):
            group = group.moved_to(selections)
        elif not self._training:
            warn_of_assigned_weights(group)
        if group is not self._group:
            run, cached_step = PruningRun(group), None
        self._attachment = FitAttachment(model, group, cached_step)
        self._group, self._run = group, run
        self._pruned_model = weakref.ref(model)
        self._fit = running_fit(model)
        watch_fit(model, self)

    def make_group(self, selections: Any) -> PrunerGroup:
        """Returns the `PrunerGroup` of a model that is new to the callback.

        Args:
            selections: List of `Selection`s.
        """
        return PrunerGroup(self.config, selections)

    def _make_way(self, model):
        """Detaches what a failed run left in a model; refuses a second callback."""
        other = watcher_of(model)
        if other is None or other is self or other._attachment is None:
            return
        here = running_fit(model)
        if other._fit is here and (here is not None or other._training):
            raise ValueError(
                "Another PruningCallback prunes this model already. To prune layers "
                "differently, use one callback with `local_configs`, e.g. "
                'PruningCallback(target_sparsity=0.5, local_configs=[{"include": '
                '"head", "target_sparsity": 0.9}]). If a loop of your own was '
                "interrupted, call `on_train_end()` of its callback."
            )
        other.on_fit_failed(model)

    def _detach(self):
        if self._attachment is not None:
            self._cached_step = self._attachment.detach()
            self._attachment = None

    def _synchronise(self):
        """Updates the variables if the backend trains on copies of them."""
        # Keras does this whenever a callback reads its model.
        return self.model

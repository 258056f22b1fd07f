"""The callbacks of tfmot, over the callbacks and pruners of this package."""

from typing import Any

import keras

from keras_pruner.compat.loop_callback import LoopCallback
from keras_pruner.compat.tfmot.pruning_wrapper import collect_prunable_layers
from keras_pruner.pruners import PrunerGroup
from keras_pruner.reporting import PruningSummaries as Summaries
from keras_pruner.training import running_fit
from keras_pruner.types import Logs, Path


class UpdatePruningStep(LoopCallback):
    """Updates the masks of the `PruneLowMagnitude` layers while a model trains.

    In `fit` it is a `PruningCallback` that prunes by the schedules of the layers. In a
    loop of your own, call `set_model(model)`, `on_train_begin()`,
    `on_train_batch_begin(batch)` before each step of the optimizer, and
    `on_epoch_end(batch)`.

    Attributes:
        prunable_layers: List of the `PruneLowMagnitude` layers of the model.
    """

    def __init__(self) -> None:
        super().__init__(verbose=False)

    def _forget_all(self):
        super()._forget_all()
        self.prunable_layers = []
        self._has_open_step = False

    @property
    def _is_idle(self):
        """Whether the model has no mask, as one that is not wrapped."""
        return self.model.built and not any(w.masks for w in self.prunable_layers)

    def set_model(self, model: keras.Model) -> None:
        self.prunable_layers = collect_prunable_layers(model)
        keras.callbacks.Callback.set_model(self, model)
        if not self._is_idle:
            super().set_model(model)

    def make_group(self, selections: Any) -> PrunerGroup:
        group = super().make_group(selections)
        for pruner in group.pruners:
            step = _begun(pruner.kernels[0].wrapper)
            updated_at = None
            if pruner.num_pruned:
                updated_at = pruner.scheduler.latest_update(step)
            pruner.restore_counts(step, -1 if updated_at is None else updated_at)
        return group

    def on_train_begin(self, logs: Logs = None) -> None:
        self.prunable_layers = collect_prunable_layers(self.model)
        for layer in self.prunable_layers:
            layer.set_pruning_step(_begun(layer))
        if self._is_idle:
            return
        if self.is_in_fit:
            super().on_train_begin(logs)
        else:
            self._has_open_step = False
            self.begin_loop()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self.loop is None and not self._is_idle:
            super().on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self.loop is not None:
            self._close_step()
            self.in_loop("on_train_batch_begin").on_step_begin(batch)
            self._has_open_step = True
        elif not self._is_idle:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self.loop is not None:
            self._close_step()
        elif not self._is_idle:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, batch: int, logs: Logs = None) -> None:
        if self.loop is not None:
            self._close_step()
            self.loop.update_if_due()
        elif not self._is_idle:
            super().on_epoch_end(batch, logs)
        self._write_steps()

    def on_train_end(self, logs: Logs = None) -> None:
        if self.loop is not None:
            self._close_step()
            self.end_loop()
            self._write_steps()
        elif not self._is_idle:
            # Afterwards the pruners do not count by the optimizer.
            self._write_steps()
            super().on_train_end(logs)

    def _close_step(self):
        """Counts the step that the loop has taken since `on_train_batch_begin`."""
        if self._has_open_step:
            self.in_loop("on_train_batch_end").on_after_optimizer_step()
        self._has_open_step = False

    def _write_steps(self):
        for pruner in self.pruners:
            for kernel in pruner.kernels:
                kernel.wrapper.set_pruning_step(pruner.global_step)


class PruningSummaries(Summaries):
    """Writes the sparsity of every kernel for TensorBoard.

    Args:
        log_dir: Folder of the files.
        update_freq: As `keras.callbacks.TensorBoard` takes it.
        **kwargs: Further arguments of `keras.callbacks.TensorBoard`.

    Raises:
        ValueError: If `log_dir` is no string, or empty.
        ImportError: If TensorBoard is not installed.
    """

    def __init__(
        self, log_dir: Path, update_freq: str = "epoch", **kwargs: Any
    ) -> None:
        if not isinstance(log_dir, str) or not log_dir:
            raise ValueError(
                f"`log_dir` must be a non-empty string. Received: {log_dir!r}"
            )
        super().__init__(log_dir=log_dir, update_freq=update_freq, **kwargs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if running_fit(self.model) is None:
            # A loop of one's own calls only this hook.
            self.write_sparsities(int(_value(self.model.optimizer.iterations)))


def _begun(layer):
    """Returns a wrapper's number of steps, 0 before training."""
    return max(0, int(_value(layer.pruning_step)))


def _value(variable):
    return keras.ops.convert_to_numpy(variable)

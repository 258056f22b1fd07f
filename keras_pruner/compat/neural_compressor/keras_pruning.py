"""Intel's hooks for a Keras model: a callback for `fit` and for loops of one's own."""

from typing import Any

import keras

from keras_pruner.compat.loop_callback import LoopCallback
from keras_pruner.compat.neural_compressor.hooks import UnusedHooks
from keras_pruner.types import Logs


class KerasPruning(LoopCallback, UnusedHooks):
    """Prunes a Keras model in `fit`, as a callback, or in a loop that calls its hooks.

    A loop calls `on_train_begin()`; in each step `on_step_begin(batch)`,
    `on_before_optimizer_step(gradients)` and `on_after_optimizer_step()`; and
    `on_train_end()`.

    Args:
        model: Built Keras model.
        config: `PruningConfig`.
    """

    def __init__(self, model: keras.Model, config: Any) -> None:
        super().__init__(config)
        self.set_model(model)

    @property
    def callbacks(self) -> Any:
        return self

    def save(self, path: str) -> None:
        """Saves the model, as `model.save`."""
        self.model.save(path)

    def on_train_begin(self, dataloader: Any = None, logs: Logs = None) -> None:
        if self.is_in_fit:
            super().on_train_begin(logs)
        else:
            self.begin_loop()

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        if self.loop is None:
            super().on_epoch_begin(epoch, logs)

    def on_step_begin(self, batch_id: int = 0) -> None:
        """Called before each step: makes a mask update that is due."""
        self.in_loop("on_step_begin").on_step_begin(batch_id)

    def on_before_optimizer_step(self, gradients: Any = None) -> Any:
        """Called before each step of the optimizer.

        Args:
            gradients: List of the gradients of `model.trainable_variables`, or another
                form that `BasePruner.on_before_optimizer_step` takes. Criteria such as
                `"snip_momentum"` need them.

        Returns:
            The same form, with zeros for pruned weights.
        """
        loop = self.in_loop("on_before_optimizer_step")
        variables = self.model.trainable_variables
        is_whole = isinstance(gradients, list | tuple) and len(gradients) == len(
            variables
        )
        if not is_whole or isinstance(gradients[0], list | tuple):
            return loop.on_before_optimizer_step(gradients)
        pairs = loop.on_before_optimizer_step(
            list(zip(gradients, variables, strict=True))
        )
        return [gradient for gradient, _ in pairs]

    def on_after_optimizer_step(self, learning_rate: Any = None) -> None:
        """Called after each step of the optimizer: sets pruned weights to zero."""
        self.in_loop("on_after_optimizer_step").on_after_optimizer_step(learning_rate)

    def on_epoch_end(self, epoch: Any = None, logs: Logs = None) -> None:
        if self.loop is None:
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Logs = None) -> None:
        if self.loop is None:
            super().on_train_end(logs)
        else:
            self.end_loop()

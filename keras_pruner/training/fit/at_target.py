"""Hides the epochs before the target sparsity from a callback."""

import keras


class AtTarget(keras.callbacks.CallbackList):
    """Passes `on_epoch_end` to another callback once the target sparsity is reached.

    An epoch counts if all of it was trained with the final masks. All other hooks are
    passed on always. See `PruningCallback.at_target`.

    Args:
        pruning: `PruningCallback` of the same `fit`.
        callback: `keras.callbacks.Callback`.
    """

    def __init__(self, pruning, callback):
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(
                f"`at_target` takes a keras.callbacks.Callback. Received: {callback!r}"
            )
        super().__init__([callback])
        self.pruning = pruning
        self.callback = callback
        self._counts = False

    def __repr__(self):
        return f"AtTarget({self.callback!r})"

    def on_epoch_begin(self, epoch, logs=None):
        self._counts = self.pruning.is_done
        super().on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self._counts:
            super().on_epoch_end(epoch, logs)

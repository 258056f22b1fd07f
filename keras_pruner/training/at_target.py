"""Hides the epochs before the target sparsity from a callback."""

import keras


class AtTarget(keras.callbacks.Callback):
    """Passes `on_epoch_end` to another callback once the target sparsity is reached.

    An epoch counts if all of it was trained with the final masks. All other hooks are
    passed on always. See `PruningCallback.at_target`.

    Args:
        pruning: `PruningCallback` of the same `fit`.
        callback: `keras.callbacks.Callback`.
    """

    def __init__(self, pruning, callback):
        super().__init__()
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(
                f"`at_target` takes a keras.callbacks.Callback. Received: {callback!r}"
            )
        self.pruning = pruning
        self.callback = callback
        self._counts = False

    def __repr__(self):
        return f"AtTarget({self.callback!r})"

    def set_params(self, params):
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model):
        super().set_model(model)
        self.callback.set_model(model)

    def on_epoch_begin(self, epoch, logs=None):
        self._counts = self.pruning.is_done
        self.callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self._counts:
            self.callback.on_epoch_end(epoch, logs)


def _passes(name):
    def hook(self, *args, **kwargs):
        return getattr(self.callback, name)(*args, **kwargs)

    hook.__name__ = name
    return hook


for _name in dir(keras.callbacks.Callback):
    if _name.startswith("on_") and _name not in vars(AtTarget):
        setattr(AtTarget, _name, _passes(_name))

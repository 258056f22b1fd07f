"""Tells a callback how the `fit` of its model ends.

Keras calls `on_train_end` only if a run succeeds, and of all callbacks in their order.
So this module wraps `fit` of Keras' trainer when the package is imported. The wrapper
tells the callback that watches a model about an exception, or about the end of `fit`
after every `on_train_end`. For models without such a callback it only checks that
`fit` does not lose the zeros of a pruned model.
"""

import functools
import inspect
import weakref

import keras

from keras_pruner.backend import Patch, class_with_fit
from keras_pruner.training.fit.lost_zeros import warn_of_lora, warn_of_plain_fit

# Maps a model to the tokens of its runs of `fit`, the innermost last.
_running = weakref.WeakKeyDictionary()
_watchers = weakref.WeakKeyDictionary()


def guard_fit():
    """Wraps `fit` of the class from which `keras.Model` inherits it, once."""
    trainer = class_with_fit()
    if not hasattr(trainer.fit, "is_guarded"):
        # It stays, because Python looks up `model.fit` before it evaluates arguments.
        Patch(trainer, fit=_guarded(trainer.fit))


def watch_fit(model, callback):
    """Registers the callback that prunes a model.

    Args:
        model: Keras model.
        callback: Object with the methods `on_fit_failed(model)` and
            `on_fit_end(model)`; it is not kept alive.
    """
    # Another library may have replaced `fit`.
    guard_fit()
    _watchers[model] = weakref.ref(callback)


def watcher_of(model):
    """Returns the callback that watches a model, or `None`."""
    return _watchers.get(model, lambda: None)()


def forget(model):
    """Undoes `watch_fit`."""
    _watchers.pop(model, None)


def running_fit(model):
    """Returns a token of the run of `fit` that trains a model now, or `None`."""
    tokens = _running.get(model)
    return tokens[-1] if tokens else None


def is_running(model, token):
    """Whether the run of `fit` with a token still trains a model."""
    return token in _running.get(model, ())


def _guarded(fit):
    signature = inspect.signature(fit)

    @functools.wraps(fit)
    def guarded(self, *args, **kwargs):
        try:
            given = signature.bind(self, *args, **kwargs)
        except TypeError:
            # It raises the same error.
            return fit(self, *args, **kwargs)
        callbacks = flat(given.arguments.get("callbacks"))
        _list_if_alone(given)
        _detach_if_left(self, callbacks)
        warn_of_plain_fit(self, callbacks)
        warn_of_lora(self)
        tokens = _running.setdefault(self, [])
        tokens.append(object())
        try:
            result = fit(*given.args, **given.kwargs)
        except BaseException as error:
            _tell_of_failure(self, error)
            raise
        finally:
            tokens.pop()
        watcher = watcher_of(self)
        forget(self)
        if watcher is not None:
            watcher.on_fit_end(self)
        return result

    guarded.is_guarded = True
    return guarded


def _list_if_alone(given):
    """Puts a callback that is given without a list into one.

    Keras calls a lone callback on another thread, beside the training step.
    """
    callback = given.arguments.get("callbacks")
    is_list = hasattr(callback, "callbacks")
    if isinstance(callback, keras.callbacks.Callback) and not is_list:
        given.arguments["callbacks"] = [callback]


def _detach_if_left(model, callbacks):
    """Detaches a callback that was attached to a model by hand, and never begun."""
    watcher = watcher_of(model)
    if watcher is None or watcher in callbacks or running_fit(model) is not None:
        return
    forget(model)
    watcher.on_fit_failed(model)


def flat(callbacks):
    """Returns the callbacks in an argument of `fit` as a list."""
    if callbacks is None:
        return []
    if hasattr(callbacks, "callbacks"):
        callbacks = callbacks.callbacks
    if isinstance(callbacks, list | tuple):
        return [one for part in callbacks for one in flat(part)]
    return [callbacks]


def _tell_of_failure(model, error):
    watcher = watcher_of(model)
    forget(model)
    if watcher is None:
        return
    try:
        watcher.on_fit_failed(model)
    except Exception as second:
        # The first error must not be lost.
        name = type(watcher).__name__
        error.add_note(f"Afterwards {name}.on_fit_failed failed: {second!r}")


guard_fit()

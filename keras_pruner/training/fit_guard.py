"""A hook that Keras lacks: what to do when `fit` is ended by an exception.

Callbacks hear of the end of a run only if it ends well. So `guard_fit` wraps
`keras.Model.fit`, once, by a `try` that calls what a callback asked for and raises on.
It does nothing else, and nothing at all for models that no callback named.
"""

import functools
import weakref

import keras

_hooks = weakref.WeakKeyDictionary()


def guard_fit():
    """Wraps `keras.Model.fit`. A callback calls it before it is given to a `fit`."""
    if not hasattr(keras.Model.fit, "is_guarded"):
        keras.Model.fit = _guarded(keras.Model.fit)


def on_failed_fit(model, method):
    """Has a method called when the `fit` of a model is ended by an exception.

    Args:
        model: Keras model.
        method: Bound method that takes the model; it is not kept alive.
    """
    _hooks[model] = weakref.WeakMethod(method)


def forget(model):
    """Takes back `on_failed_fit`."""
    _hooks.pop(model, None)


def _guarded(fit):
    @functools.wraps(fit)
    def guarded(self, *args, **kwargs):
        try:
            return fit(self, *args, **kwargs)
        except BaseException as error:
            _call_hook(self, error)
            raise

    guarded.is_guarded = True
    return guarded


def _call_hook(model, error):
    method = _hooks.pop(model, lambda: None)()
    if method is None:
        return
    try:
        method(model)
    except Exception as second:
        # The first is what went wrong; it must not be lost.
        error.add_note(f"Afterwards {method.__qualname__} failed: {second!r}")

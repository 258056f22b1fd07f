"""Tells callbacks that an exception ended `fit`.

Keras has no hook for that: callbacks hear of the end of a run only if it ends well. So
`fit` of Keras' trainer is wrapped in a `try` when this package is imported. For models
that no callback named, it does nothing else than raise on.
"""

import functools
import weakref

from keras_pruner.backend import Patch, class_with_fit

_hooks = weakref.WeakKeyDictionary()


def guard_fit():
    """Wraps `fit` of the class that `keras.Model` has it from, once."""
    trainer = class_with_fit()
    if not hasattr(trainer.fit, "is_guarded"):
        # It stays: Python looks `model.fit` up before its arguments are made.
        Patch(trainer, fit=_guarded(trainer.fit))


def on_failed_fit(model, method):
    """Has a method called when an exception ends the `fit` of a model.

    Args:
        model: Keras model.
        method: Bound method that takes the model; it is not kept alive.
    """
    # Another library may have put its own `fit` in place.
    guard_fit()
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
        # The first error must not be lost.
        error.add_note(f"Afterwards {method.__qualname__} failed: {second!r}")


guard_fit()

"""Tells callbacks that an exception ended `fit`.

Keras has no hook for exceptions: it calls `on_train_end` only if a run succeeds. So
this module wraps `fit` of Keras' trainer in a `try` when the package is imported. For
other models, without such a callback, the wrapper only raises the exception again.
"""

import functools
import weakref

from keras_pruner.backend import Patch, class_with_fit

_hooks = weakref.WeakKeyDictionary()


def guard_fit():
    """Wraps `fit` of the class from which `keras.Model` inherits it, once."""
    trainer = class_with_fit()
    if not hasattr(trainer.fit, "is_guarded"):
        # It stays, because Python looks up `model.fit` before it evaluates arguments.
        Patch(trainer, fit=_guarded(trainer.fit))


def on_failed_fit(model, method):
    """Registers a method that is called when an exception ends the `fit` of a model.

    Args:
        model: Keras model.
        method: Bound method with the model as argument; it is not kept alive.
    """
    # Another library may have replaced `fit`.
    guard_fit()
    _hooks[model] = weakref.WeakMethod(method)


def forget(model):
    """Undoes `on_failed_fit`."""
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

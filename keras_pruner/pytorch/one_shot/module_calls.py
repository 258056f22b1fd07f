"""Shows the calls of some parts of a torch module during one pass."""

import contextlib

import keras

from keras_pruner.backend import Patch
from keras_pruner.pytorch.forward import fixed_pass
from keras_pruner.pytorch.one_shot.inner_calls import inner_calls
from keras_pruner.pytorch.tensors import as_keras


class _Stop(BaseException):
    """Ends a pass. No `except Exception` in between catches it."""


class ModuleCalls:
    """Calls a function at every call of some parts, while a torch module runs.

    It is to a torch module what `Watch` is to a Keras model. Hooks see the arguments
    before each call. They are copied: a later part may change a tensor in place.

    Args:
        view: `OneShotModule`.
        watched: List of `(part, base)`: parts of the module. If `base` is a class, the
            calls that count are those of its `forward`, which the part's own makes.
        on_call: Function from a part, the positional and keyword arguments of its call
            as tensors of Keras' backend, and `False`. The arguments of a recurrent part
            or an attention are those of `inner_calls`.
    """

    def __init__(self, view, watched, on_call):
        self._view = view
        self._bases = {id(part): base for part, base in watched}
        self._on_call = on_call

    def run(self, forward, state_mapping=None):
        """Runs a pass of the module, and changes nothing.

        Args:
            forward: Function without arguments that runs the module.
            state_mapping: List of `(variable, value)` to use in place of the module's.
        """
        copies, running = _Copies(), []

        def hook(part, args, kwargs):
            if part in running:
                # An attention runs once more to tell what it gives to `out_proj`.
                return
            running.append(part)
            for inner, *arguments in inner_calls(part, args, kwargs, self._is_watched):
                shown = keras.tree.map_structure(copies.of, arguments)
                self._on_call(inner, *shown, False)
            running.pop()

        with contextlib.ExitStack() as stack:
            stack.enter_context(fixed_pass(self._view.module))
            stack.enter_context(self._view.values(state_mapping))
            for part in self._parts():
                handle = part.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            for base in set(self._bases.values()) - {None}:
                patch = Patch(base, forward=self._forward_of(base, hook))
                stack.enter_context(patch)
            with contextlib.suppress(_Stop):
                forward()

    def _is_watched(self, part):
        return id(part) in self._bases

    def _parts(self):
        """Returns the parts whose own calls count."""
        return [
            part
            for part in self._view.module.modules()
            # An attention does not call its `out_proj`.
            if self._is_watched(part)
            or self._is_watched(getattr(part, "out_proj", None))
            if self._bases.get(id(part)) is None
        ]

    def _forward_of(self, base, hook):
        forward = base.forward

        def watched_forward(part, *args, **kwargs):
            if self._bases.get(id(part)) is base:
                hook(part, args, kwargs)
            return forward(part, *args, **kwargs)

        return watched_forward

    def stop(self):
        """Ends the pass. Call it from `on_call`."""
        raise _Stop

    def mask_of(self, part, args, kwargs):
        """Returns `None`: no mask travels with a torch tensor."""

    def samples(self):
        """Returns `[]`: all samples take part."""
        return []

    def tensors_behind(self, part, args, kwargs):
        """Returns the tensors on which the inputs of a call depend."""
        return [x for x in keras.tree.flatten((args, kwargs)) if hasattr(x, "shape")]


class _Copies:
    """Copies tensors, each once as long as it lives and does not change."""

    def __init__(self):
        from torch.utils.weak import WeakTensorKeyDictionary

        self._known = WeakTensorKeyDictionary()

    def of(self, value):
        """Returns the copy of a tensor; anything else unchanged."""
        import torch

        if not isinstance(value, torch.Tensor):
            return value
        if value.is_inference():
            # It does not tell changes.
            return as_keras(value)
        version, copy = self._known.get(value, (None, None))
        if version != value._version:
            copy = as_keras(value)
            self._known[value] = value._version, copy
        return copy

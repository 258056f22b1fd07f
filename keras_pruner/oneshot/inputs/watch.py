"""Shows the calls of some layers during one eager pass of a model."""

import contextlib

import keras
from keras import ops

from keras_pruner.backend import (
    Patch,
    all_layers,
    is_tracing,
    keras_mask_of,
    no_gradients,
    recomputes,
    without_recomputation,
)
from keras_pruner.oneshot.inputs import containers
from keras_pruner.pytorch import ModuleCalls, OneShotModule


class _Stop(BaseException):
    """Ends a pass. No `except Exception` in between catches it."""


def watch_calls(model, watched, on_call):
    """Returns the `Watch` of a Keras model, or the `ModuleCalls` of a torch module."""
    kind = ModuleCalls if isinstance(model, OneShotModule) else Watch
    return kind(model, watched, on_call)


def forward_of(model, batch):
    """Returns a function that runs a model on a batch, in inference mode.

    Args:
        model: Built Keras model, or `OneShotModule`.
        batch: The model's inputs, nested as it takes them, as NumPy arrays.
    """
    if isinstance(model, OneShotModule):
        return lambda: model.run(batch)
    inputs = keras.tree.map_structure(ops.convert_to_tensor, batch)
    return lambda: model(inputs, training=False)


class Watch:
    """Calls a function at every call of some layers, while a model runs.

    It replaces `call` of the layers themselves, so it also sees calls that bypass
    `__call__`, e.g. those of `TimeDistributed`. Recurrent layers first run their cells
    step by step in Python, and then as usual.

    Args:
        model: Built Keras model.
        watched: List of `(layer, base)`. If `base` is a class, the calls that count are
            those of its `call`, which the layer's own `call` makes.
        on_call: Function from a layer, the positional and keyword arguments of its
            call, and whether the call is inside a compiled function.
    """

    def __init__(self, model, watched, on_call):
        self._model = model
        self._watched = watched
        self._on_call = on_call
        # Ids of layers whose calls are not meant, e.g. of cells in a compiled loop.
        self._closed = set()
        # For each running step of a loop: the samples that are not masked, or `None`.
        self._samples = []
        # Id of a part of a running attention layer -> mask of its input.
        self._part_masks = {}
        # Id of the first cell of a running recurrent layer -> arguments of its call.
        self._origins = {}

    def run(self, forward, state_mapping=None):
        """Runs a pass of the model, without changing a variable.

        Args:
            forward: Function without arguments that runs the model in inference mode.
            state_mapping: List of `(variable, value)` to use in place of the model's.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(no_gradients())
            stack.enter_context(keras.StatelessScope(state_mapping or []))
            for layer in filter(recomputes, all_layers(self._model)):
                # It would compute the layer in a trace.
                stack.enter_context(without_recomputation(layer))
            for layer, base in self._watched:
                if base is None:
                    stack.enter_context(Patch(layer, call=self._hook(layer)))
            for base in {base for _, base in self._watched} - {None}:
                stack.enter_context(Patch(base, call=self._hook_of_class(base)))
            for layer in all_layers(self._model):
                for patch in containers.patches_for(layer, self):
                    stack.enter_context(patch)
            with contextlib.suppress(_Stop):
                forward()

    def stop(self):
        """Ends the pass. Call it from `on_call`."""
        raise _Stop

    def mask_of(self, layer, args, kwargs):
        """Returns the mask of a layer's input in the call that runs, or `None`."""
        if id(layer) in self._part_masks:
            return self._part_masks[id(layer)]
        tensors = keras.tree.flatten((args, kwargs))
        return keras_mask_of(tensors[0]) if tensors else None

    def samples(self):
        """Returns which samples take part in each step that runs.

        They are NumPy bool arrays (batch,), one for each loop with a mask.
        """
        return [mask for mask in self._samples if mask is not None]

    @contextlib.contextmanager
    def step(self, samples):
        """Lets only some samples take part: a bool array (batch,), `None` for all."""
        self._samples.append(samples)
        try:
            yield
        finally:
            self._samples.pop()

    @contextlib.contextmanager
    def part_masks(self, masks):
        """Gives parts of an attention layer their masks: a dict by the parts' ids."""
        before, self._part_masks = self._part_masks, self._part_masks | masks
        try:
            yield
        finally:
            self._part_masks = before

    def tensors_behind(self, layer, args, kwargs):
        """Returns the tensors on which the inputs of a layer's call depend.

        They are those of the call, or of the call of a recurrent layer around it.
        """
        behind = self._origins.get(id(layer), (args, kwargs))
        return [x for x in keras.tree.flatten(behind) if hasattr(x, "shape")]

    @contextlib.contextmanager
    def origin_of_part(self, part, arguments):
        """Says that the inputs of a part are made of nothing but these arguments."""
        self._origins[id(part)] = arguments
        try:
            yield
        finally:
            del self._origins[id(part)]

    def close(self, closed):
        """Ignores the calls of layers from now on, except in `opened`."""
        self._closed |= {id(layer) for layer in closed}

    @contextlib.contextmanager
    def opened(self, closed):
        """Shows the calls of closed layers."""
        ids = {id(layer) for layer in closed}
        self._closed -= ids
        try:
            yield
        finally:
            self._closed |= ids

    def _hook(self, layer):
        call = layer.call

        def hook(*args, **kwargs):
            if id(layer) not in self._closed:
                self._on_call(layer, args, kwargs, is_tracing())
            return call(*args, **kwargs)

        return hook

    def _hook_of_class(self, base):
        call = base.call
        ids = {id(layer) for layer, own in self._watched if own is base}

        def hook(layer, *args, **kwargs):
            if id(layer) in ids and id(layer) not in self._closed:
                self._on_call(layer, args, kwargs, is_tracing())
            return call(layer, *args, **kwargs)

        return hook

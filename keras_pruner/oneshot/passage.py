"""Runs a model from where the last pass stopped, instead of from its inputs."""

import copy
import math

import keras
from keras import ops

from keras_pruner.backend import functional_steps, no_gradients
from keras_pruner.comparison import compare_outputs
from keras_pruner.oneshot.activation_store import ActivationStore
from keras_pruner.oneshot.inputs import forward_of


class Passage:
    """Runs a model on batches, and keeps the activations of each where you ask.

    A Functional or Sequential model is run step by step, nested models included. So
    pruning layer after layer takes each step once, not once for each later layer. A
    model with a `call` of its own is run from its inputs each time.

    Args:
        model: Built Keras model, or `OneShotModule`.
        batches: List of batches of inputs.
        max_memory: Most bytes of activations to keep in memory. Others are written to
            temporary files.

    Attributes:
        peak_memory: Most bytes of activations that were in memory.
        peak_disk: Most bytes of activations that were in files.
    """

    def __init__(self, model, batches, max_memory):
        self._model = model
        self._batches = batches
        self._steps, self._outputs = functional_steps(model) or (None, ())
        self._last_use = _last_uses(self._steps or (), self._outputs)
        self._store = ActivationStore(max_memory)
        # Number of a batch -> step before which it is kept, and the kept values.
        self._kept = {}
        if self._steps is not None and not self._has_outputs_of_model():
            self._steps = None

    @property
    def keeps_activations(self):
        """Whether passes begin where the last one was kept."""
        return self._steps is not None

    @property
    def peak_memory(self):
        return self._store.peak_memory

    @property
    def peak_disk(self):
        return self._store.peak_disk

    def first_step(self, variables):
        """Returns the number of the first step that reads one of some variables."""
        wanted = set(map(id, variables))
        for number, step in enumerate(self._steps or ()):
            own = getattr(step.operation, "variables", ())
            if not wanted.isdisjoint(map(id, own)):
                return number
        return 0

    def run(self, number, keep_at=0):
        """Runs the model on a batch, in inference mode, from where it was kept.

        Args:
            number: Number of the batch.
            keep_at: Step before which its activations are kept from now on.

        Returns:
            The flat list of outputs, unless a hook in the model ends the pass.
        """
        if self._steps is None:
            return self._call_model(number)
        begin, kept = self._kept.get(number, (0, None))
        if kept is None or begin > keep_at:
            begin, values = 0, {"inputs": self._batches[number]}
        else:
            values = self._store.load(kept)
        for index in range(begin, len(self._steps)):
            if index == keep_at and index > begin:
                self._keep(number, index, values)
            step = self._steps[index]
            values |= zip(step.writes, step.compute(values), strict=False)
            for key in (*step.reads, *step.writes):
                if self._last_use[key] <= index:
                    values.pop(key, None)
        return [values[key] for key in self._outputs]

    def _has_outputs_of_model(self):
        """Whether the steps give what the model gives, on the first batch."""
        with no_gradients(), keras.StatelessScope():
            pair = self._call_model(0), self.run(0)
        arrays = (list(map(ops.convert_to_numpy, outputs)) for outputs in pair)
        return compare_outputs(*arrays).is_equal

    def _call_model(self, number):
        return keras.tree.flatten(forward_of(self._model, self._batches[number])())

    def fork(self):
        """Returns a passage that starts where this one is, for other weights."""
        other = copy.copy(self)
        other._kept = dict(self._kept)
        for _, values in other._kept.values():
            self._store.share(values)
        return other

    def forget(self):
        """Frees all activations, so that passes begin at the inputs."""
        for _, values in self._kept.values():
            self._store.free(values)
        self._kept = {}

    def _keep(self, number, index, values):
        if any(map(_is_text, values.values())):
            # Text is not worth a format: the next pass begins where the last one did.
            return
        if number in self._kept:
            self._store.free(self._kept[number][1])
        self._kept[number] = index, self._store.save(values)


def _last_uses(steps, outputs):
    """Returns the last step that reads each key; outputs are never freed."""
    last = {}
    for index, step in enumerate(steps):
        last |= dict.fromkeys((*step.writes, *step.reads), index)
    return last | dict.fromkeys(outputs, math.inf)


def _is_text(value):
    return keras.backend.standardize_dtype(value.dtype) == "string"

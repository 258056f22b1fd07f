"""Says which part of each variable and tensor of a model stays."""

import keras
import numpy as np
from keras import ops

from keras_pruner.kernels import own_variables
from keras_pruner.training import Whole


class Part(Whole):
    """The part of a model's variables and tensors that stays.

    Args:
        kept: Object with `indices(variable)`, e.g. from `ChannelGraph.kept`. It returns
            a tuple with an entry for each axis: an int64 array of the indices that
            stay, or `None` for all of them. If there are calls, it also has
            `indices_of(labels)`, the same for a recorded tensor.
        calls: Recorded `Call`s of the model's layers and operations.
        constants: Tuples of a `Consumer` and an array, which is added to the outputs
            of the consumer's layer, before channels of these are removed.

    Attributes:
        new_biases: Dict from the id of a layer without a bias to the one that it gets.
        factors: Dict from the id of a variable to the factor and the offset of
            `scale`.
    """

    def __init__(self, kept, calls=(), constants=()):
        self._kept = kept
        self._calls = {}
        self.factors, self._changes = {}, {}
        self._added, self.new_biases = {}, {}
        for consumer, array in constants:
            outputs = self.indices(consumer.variable)[-1]
            array = array if outputs is None else array[outputs]
            if consumer.bias is None:
                self.new_biases[id(consumer.watched)] = array
            else:
                self._added[id(consumer.bias)] = array
        for call in calls:
            self._calls.setdefault(id(call.operation), []).append(call)

    def indices(self, variable):
        """Returns the indices that stay on each axis, or `None` for all."""
        if not keras.backend.is_float_dtype(variable.dtype):
            # States of random generators have no channels.
            return (None,) * len(variable.shape)
        return self._kept.indices(variable)

    def shape_of(self, variable):
        return _smaller(variable.shape, self.indices(variable))

    def is_whole(self, variable):
        """Whether a variable loses nothing."""
        return all(kept is None for kept in self.indices(variable))

    def changes(self, layer):
        """Whether a variable of a layer, or of its sublayers, gets smaller."""
        return not all(map(self.is_whole, layer.variables))

    def takes_fewer(self, layer):
        """Whether a layer without variables reads or makes fewer channels."""
        tensors = self.tensors_of(layer)
        if tensors is None or layer.variables:
            return False
        return any(i is not None for t in (*tensors[0], *tensors[1]) for i in t[1])

    def shapes(self, layer):
        """Returns a dict from the names of a layer's own variables to their shapes."""
        return {v.name: self.shape_of(v) for v in own_variables(layer)}

    def scale(self, variable, factor, offset=0):
        """Multiplies a variable's value plus an offset in the smaller model."""
        self.factors[id(variable)] = factor, offset

    def part_of(self, variable, value):
        indices = self.indices(variable)
        if id(variable) not in self.factors | self._added and self.is_whole(variable):
            return value
        array = ops.convert_to_numpy(value)
        for axis, kept in enumerate(indices):
            if kept is not None:
                array = np.take(array, kept, axis)
        dtype = array.dtype
        if id(variable) in self.factors:
            factor, offset = self.factors[id(variable)]
            wide = (array.astype("float64") + offset) * factor - offset
            array = wide.astype(dtype)
        if id(variable) in self._added:
            array = (array.astype("float64") + self._added[id(variable)]).astype(dtype)
        return array

    @property
    def has_constants(self):
        """Whether constants are added to biases."""
        return bool(self._added or self.new_biases)

    def call_of(self, operation):
        """Returns the first recorded `Call` of a layer or operation, or `None`."""
        return next(iter(self._calls.get(id(operation), ())), None)

    def sizes_in(self, layer):
        """Returns what numbers mean sizes in a layer: a dict from old to a set of new.

        Sizes are those of axes, and how often axes are repeated, in all calls of the
        layer, of its sublayers and of operations in their calls.
        """
        call = self.call_of(layer)
        within = () if call is None else (call.path, f"{call.path}/" * bool(call.path))
        found = {}
        for one in (call for calls in self._calls.values() for call in calls):
            if call is None or not (
                one.path == within[0] or one.path.startswith(within[1])
            ):
                continue
            pairs = []
            for labels in self.labels_in((one.args, one.kwargs, one.outputs)):
                pairs += zip(labels.shape, self._smaller(labels), strict=True)
            repeats = getattr(one.operation, "repeats", None)
            if isinstance(repeats, int):
                (before,) = self.labels_in(one.args)
                axis = one.operation.axis
                if axis is not None:
                    new = [self._smaller(x)[axis] for x in (one.outputs, before)]
                    pairs.append((repeats, new[0] // new[1]))
            for old, new in pairs:
                if old != new:
                    found.setdefault(old, set()).add(new)
        return found

    def remember(self, layer, change):
        """Keeps a change of sizes that worked: that of the next block is likely it.

        Args:
            layer: Keras layer.
            change: Dict from the name of an attribute or of a config's entry to its
                new value.
        """
        self._changes[self._kind_of(layer)] = change

    def remembered(self, layer):
        """Returns a list with the change that worked in a layer of the kind, if any."""
        change = self._changes.get(self._kind_of(layer))
        return [] if change is None else [change]

    def _kind_of(self, layer):
        return type(layer), repr(sorted(self.sizes_in(layer).items()))

    def _smaller(self, labels):
        return _smaller(labels.shape, self._kept.indices_of(labels))

    def kept_of(self, labels):
        """Returns which indices of a recorded tensor stay, as `indices` does."""
        return self._kept.indices_of(labels)

    @staticmethod
    def is_labels(value):
        """Whether a value of a recorded call stands for a tensor."""
        return hasattr(value, "axes") and hasattr(value, "shape")

    @staticmethod
    def labels_in(value):
        """Returns what stands for tensors in nested containers, in Keras' order."""
        return [x for x in keras.tree.flatten(value) if Part.is_labels(x)]

    def tensors_of(self, operation, call=0):
        """Returns the inputs and outputs of a call: lists of `(shape, indices)`.

        Args:
            operation: Layer or operation.
            call: Number of the call among those of the operation.

        Returns:
            Tuple of two lists, or `None` if the call was not recorded.
        """
        calls = self._calls.get(id(operation), ())
        if call >= len(calls):
            return None
        one = calls[call]
        inputs, outputs = (one.args, one.kwargs), one.outputs
        return tuple(
            [self._tensor(x) for x in self.labels_in(value)]
            for value in (inputs, outputs)
        )

    def _tensor(self, labels):
        return tuple(labels.shape), self._kept.indices_of(labels)


def _smaller(shape, indices):
    pairs = zip(shape, indices, strict=True)
    return tuple(size if kept is None else len(kept) for size, kept in pairs)

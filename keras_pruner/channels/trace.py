"""What rules see of a model that runs on symbolic tensors."""

import contextlib

import keras
import numpy as np

from keras_pruner.backend import is_view
from keras_pruner.channels.index_classes import IndexClasses
from keras_pruner.channels.labels import Labels
from keras_pruner.channels.records import Contraction
from keras_pruner.channels.rules.zeros import keeps_zeros

# A larger constant array is not searched for axes along which it is constant.
_LARGEST_SEARCHED = 1 << 22
# Not all of them run on symbolic tensors.
_ELEMENTWISE_ACTIVATIONS = {
    getattr(keras.activations, name)
    for name in """celu elu exponential gelu hard_shrink hard_sigmoid hard_silu
    hard_tanh leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu
    soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh
    tanh_shrink""".split()
    if hasattr(keras.activations, name)
}


class Trace:
    """Holds an id for each index of each axis of each tensor, and what rules add.

    Attributes:
        classes: `IndexClasses`.
        contractions: List of `Contraction`s.
        divided: List of arrays of ids. Indices in different ones have different roles,
            e.g. both halves of an axis that is split.
        heads: List of arrays of ids of the heads of attention layers.
        layer: Layer whose call runs.
        path: Path of this layer; `""` for the model.
        mean_squares: Dict from the ids of layers to the `MeanSquare`s they compute.
    """

    def __init__(self):
        self.classes = IndexClasses()
        self.contractions, self.divided, self.heads = [], [], []
        self.mean_squares, self._zeros_needed = {}, []
        self._loops = []
        # Labels of each symbolic tensor, which is kept so that its id stays its own.
        self._labels = {}
        self._of_variable = {}

    @property
    def layer(self):
        raise NotImplementedError

    @property
    def path(self):
        raise NotImplementedError

    def fresh(self, size):
        """Returns new ids."""
        return self.classes.fresh(size)

    def pinned(self, size, reason):
        """Returns ids of indices that are never removed."""
        return self.classes.pinned(size, self._located(reason))

    def pin(self, ids, reason):
        """Pins ids for a reason."""
        self.classes.pin(ids, self._located(reason))

    def need_zeros(self, ids, reason):
        """Pins ids for a reason, unless tensors are zero where the weights are."""
        self._zeros_needed.append((ids, self._located(reason)))

    def pin_unless_zero(self):
        """Pins the ids that `need_zeros` was told, once all calls are seen."""
        for ids, reason in self._zeros_needed:
            if not self.classes.vanish(ids):
                self.classes.pin(ids, reason)

    def unify(self, first, second):
        """Lets each id of one array be removed exactly if that of the other is."""
        self.classes.unify(first, second)

    def variable(self, variable):
        """Returns the `Labels` of a variable, also of one that a wrapper masks."""
        if is_view(variable):
            variable = variable.variable
        if id(variable) not in self._of_variable:
            raise ValueError(f"'{variable.path}' is no variable of the model")
        return self._of_variable[id(variable)]

    def same_shape(self, *tensors):
        """Unifies tensors of equal shape, axis by axis, and returns the first."""
        for other in tensors[1:]:
            if other.shape != tensors[0].shape:
                raise ValueError(f"Shapes {tensors[0].shape} and {other.shape} differ.")
            for ours, theirs in zip(tensors[0].axes, other.axes, strict=True):
                self.unify(ours, theirs)
        return Labels(tensors[0].axes)

    def broadcast(self, *tensors):
        """Unifies tensors as broadcasting aligns them; returns the result's labels.

        Numbers are allowed in place of `Labels`.
        """
        tensors = [t for t in tensors if isinstance(t, Labels)]
        axes = []
        for axis in range(-max(t.ndim for t in tensors), 0):
            there = [t.axes[axis] for t in tensors if t.ndim >= -axis]
            large = [ids for ids in there if len(ids) > 1]
            if large:
                for ids in there:
                    if len(ids) == 1:
                        self.pin(ids, "an axis of size 1 is broadcast")
            chosen = large or there
            for ids in chosen[1:]:
                if len(ids) != len(chosen[0]):
                    raise ValueError("Shapes cannot be broadcast.")
                self.unify(chosen[0], ids)
            axes.append(chosen[0])
        return Labels(tuple(axes))

    def constant(self, value):
        """Returns the `Labels` of an array of numbers.

        Along an axis on which it is constant, indices can be removed.
        """
        # Tensors of another trace have no values, so they raise an error here.
        value = keras.ops.convert_to_numpy(value)
        shape = value.shape
        axes = [self.pinned(size, "a constant of fixed size") for size in shape]
        if any(size > 1 for size in shape) and np.prod(shape) <= _LARGEST_SEARCHED:
            for axis, size in enumerate(shape):
                if size > 1 and (value == value.take([0], axis=axis)).all():
                    axes[axis] = self.fresh(size)
                    self.classes.mark_alive(axes[axis])
        return Labels(tuple(axes))

    def activate(self, activation, labels):
        """Returns the labels of an activation, a function or `None`."""
        if activation is None or activation in _ELEMENTWISE_ACTIVATIONS:
            if not keeps_zeros(activation):
                for ids in labels.axes:
                    self.classes.mark_alive(ids)
            return Labels(labels.axes)
        symbol = self.symbol_for(labels, self.layer.compute_dtype)
        return self.labelled(activation(symbol))

    def call(self, layer, *args, **kwargs):
        """Calls a layer on `Labels`, by its rule or by its own `call`."""
        args, kwargs = self._symbolic(layer, args, kwargs)
        return self.labelled(layer(*args, **kwargs))

    def open(self, layer, *args, **kwargs):
        """Runs the own `call` of a layer on `Labels`, for a rule that adds to it."""
        args, kwargs = self._symbolic(layer, args, kwargs)
        return self.labelled(layer.call(*args, **kwargs))

    def _symbolic(self, layer, args, kwargs):
        return keras.tree.map_structure(
            lambda x: (
                self.symbol_for(x, layer.compute_dtype) if isinstance(x, Labels) else x
            ),
            (args, kwargs),
        )

    def is_of_weights(self, labels):
        """Whether a tensor is a variable, or made of variables only."""
        return labels.variable is not None

    def contract(self, *axes):
        """Records products that are summed, by the axes of the loop over them."""
        axes = (*self._loops, *axes)
        self.contractions.append(Contraction(self.path, self.layer, axes))

    @contextlib.contextmanager
    def loop(self, ids):
        """Lets contractions be repeated for each index of an axis."""
        self._loops.append(ids)
        try:
            yield
        finally:
            self._loops.pop()

    def labels_of(self, value):
        """Returns the `Labels` of a symbolic or concrete tensor."""
        if isinstance(value, Labels):
            return value
        if isinstance(value, keras.Variable):
            return self.variable(value.variable if is_view(value) else value)
        if isinstance(value, keras.KerasTensor):
            if id(value) not in self._labels:
                raise ValueError(f"Tensor {value} does not come from the inputs.")
            return self._labels[id(value)][1]
        return self.constant(value)

    def labelled(self, structure):
        """Returns a structure of arguments with `Labels` in place of tensors."""
        return keras.tree.map_structure(
            lambda x: self.labels_of(x) if is_tensor(x) else x, structure
        )

    def symbol_for(self, labels, dtype):
        symbol = keras.KerasTensor(labels.shape, dtype)
        self._labels[id(symbol)] = symbol, labels
        return symbol

    def _located(self, reason):
        path = self.path
        return f"{path}: {reason}" if path else reason


def is_tensor(value):
    return isinstance(
        value, keras.KerasTensor | keras.Variable | np.ndarray
    ) or keras.ops.is_tensor(value)

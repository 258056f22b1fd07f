"""Lets the attributes of a layer read a function of a variable in place of it."""

import contextlib
import threading

import keras
import numpy as np

from keras_pruner.backend.keras_private import (
    all_layers,
    own_non_trainables_of,
    trainables_in,
)
from keras_pruner.backend.patch import Patch

# A view's own attributes. All others are those of the variable.
_OWN = {"function", "numpy", "value", "variable"}
_STATE = threading.local()


class VariableView(keras.Variable):
    """Stands for a Keras variable, but its value is a function of the variable's value.

    Everything except reading the value is the variable's: shape, dtype, `assign`,
    attributes. Gradients flow through the function to the variable. The function sees
    the value as a layer reads it, e.g. autocast, or replaced by a stateless scope.

    Args:
        variable: `keras.Variable`.
        function: Function from a tensor to a tensor of equal shape and dtype.

    Example:

    >>> variable = keras.Variable([1.0, 2.0])
    >>> view = VariableView(variable, lambda value: 10 * value)
    >>> view.assign([3.0, 4.0]) is not None
    True
    >>> ops.convert_to_numpy(view + 1).tolist()
    [31.0, 41.0]
    >>> ops.convert_to_numpy(variable).tolist()
    [3.0, 4.0]
    """

    def __init__(self, variable, function):
        object.__setattr__(self, "variable", variable)
        object.__setattr__(self, "function", function)

    @property
    def value(self):
        if getattr(_STATE, "as_stored", False):
            return self.variable.value
        known = getattr(_STATE, "values", {}).get(id(self))
        return self.function(self.variable.value) if known is None else known

    def numpy(self):
        return np.array(self)

    def __getattribute__(self, name):
        if name in _OWN or name.startswith("__"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "variable"), name)

    def __setattr__(self, name, value):
        self.variable.__setattr__(name, value)

    def __repr__(self):
        return f"<View of {self.variable!r}>"


@contextlib.contextmanager
def views_as_stored():
    """Lets views have the variables' values in this thread, e.g. to save a layer."""
    before = getattr(_STATE, "as_stored", False)
    _STATE.as_stored = True
    try:
        yield
    finally:
        _STATE.as_stored = before


@contextlib.contextmanager
def computed_once(views):
    """Computes the values of views now, and lets them keep these in this thread.

    A loop that reads a view in every step, with gradients, otherwise keeps a value in
    memory for every step.
    """
    before = getattr(_STATE, "values", {})
    _STATE.values = before | {id(view): view.value for view in views}
    try:
        yield
    finally:
        _STATE.values = before


def is_view(variable):
    return isinstance(variable, VariableView)


def holders_of(variable, layer):
    """Returns where a layer and its sublayers hold a variable.

    Args:
        variable: `keras.Variable`.
        layer: Keras layer.

    Returns:
        List of pairs of a layer and the name of its attribute that is the variable, or
        a list, tuple or dict with the variable in it, at any depth.
    """
    return [
        (owner, name)
        for owner in all_layers(layer)
        for name, held in _attributes_of(owner)
        if _holds(held, variable)
    ]


def show_view(view, holders):
    """Puts a view in place of its variable into attributes of layers.

    Keras and TensorFlow go on tracking the variable: it stays in the layers' lists of
    variables, in files, and in the optimizer.

    Args:
        view: `VariableView`.
        holders: As returned by `holders_of` for its variable.
    """
    for owner, name in holders:
        Patch(owner, **{name: _exchange(vars(owner)[name], view)})


def _attributes_of(layer):
    """Returns pairs of name and value, without the lists for tracking."""
    tracked = id(trainables_in(layer)), id(own_non_trainables_of(layer))
    return [
        (name, held)
        for name, held in vars(layer).items()
        # TensorFlow's own attributes begin with `_self_`.
        if id(held) not in tracked and not name.startswith("_self_")
    ]


def _holds(held, variable):
    if isinstance(held, dict):
        held = list(held.values())
    if isinstance(held, list | tuple):
        return any(_holds(item, variable) for item in held)
    return held is variable


def _exchange(held, view):
    """Exchanges a variable, also in lists and dicts, which stay the same objects."""
    if held is view.variable:
        return view
    if isinstance(held, dict):
        for key, item in held.items():
            dict.__setitem__(held, key, _exchange(item, view))
    elif isinstance(held, list):
        for index, item in enumerate(held):
            list.__setitem__(held, index, _exchange(item, view))
    elif isinstance(held, tuple) and _holds(held, view.variable):
        items = [_exchange(item, view) for item in held]
        return type(held)(*items) if hasattr(held, "_fields") else type(held)(items)
    return held

"""Copies layers object by object, for those whose configs do not say what they are."""

import collections
import copy
import functools
import types

import keras

from keras_pruner.backend.keras_private import all_layers, functional_of
from keras_pruner.backend.variable_view import is_view

# Attributes that Keras' constructors make, or that belong to Keras' tracking or to a
# wrapper layer.
_NOT_COPIED = {
    "build",
    "enable_lora",
    "quantize",
    "save_own_variables",
    "_tracked",
    "_torch_params",
}
# Those of a compiled model.
_OF_COMPILED = {
    "optimizer",
    "compiled",
    "loss",
    "_loss_tracker",
    "_jit_compile",
    "_run_eagerly",
    "steps_per_execution",
    "train_function",
    "test_function",
    "predict_function",
}
# Attribute of a layer whose copies are duplicates.
_MARK = "_config_has_other_sizes"
_PRIVATE = (
    *("_compile", "_jax_state"),
    *("_self_name_based", "_self_saveable", "_self_setattr", "_self_unconditional"),
    "_self_update",
)
_SIMPLE = (bool, int, float, str, type(None), keras.DTypePolicy)


def duplicate(layer, clone_graph):
    """Returns a copy of a layer or model with its state, made without its config.

    Each layer, variable and seed generator of the copy is a new object of the same
    class; lists, tuples, dicts and sets of them are made again. Other objects are
    shared. A wrapper layer gives place to its layer. A model is not compiled.

    Args:
        layer: Built Keras layer or model.
        clone_graph: Function of a Sequential or Functional model and of a function
            that copies one of its layers. It returns the copy of the model.

    Raises:
        TypeError: If an attribute is a function that holds a part of the layer, because
            it would go on using the old one.

    Example:

    >>> class Net(keras.Model):
    ...     def __init__(self, units):  # Keras cannot pass `name` or `trainable`.
    ...         super().__init__()
    ...         self.parts = [keras.layers.Dense(units), keras.layers.Dense(1)]
    ...     def call(self, x):
    ...         return self.parts[1](self.parts[0](x))
    >>> net = Net(4)
    >>> x = ops.ones((2, 3))
    >>> y = net(x)
    >>> other = duplicate(net, clone_graph=None)
    >>> other.parts[0].units, other.parts[0] is net.parts[0]
    (4, False)
    >>> bool(ops.all(other(x) == y))
    True
    """
    return duplicator(layer, clone_graph)(layer)


def duplicator(model, clone_graph):
    """Returns a function that duplicates layers of a model, each once.

    So its copies share what the layers share. See `duplicate`.
    """
    return _Duplicator(model, clone_graph).layer


def let_be_duplicated(layer):
    """Says that copies of a layer are duplicates: its config has other sizes."""
    setattr(layer, _MARK, True)


def is_duplicated(operation):
    """Whether `let_be_duplicated` was called for an operation or what it copies."""
    return vars(operation).get(_MARK, False)


class _Duplicator:
    def __init__(self, layer, clone_graph):
        self._clone_graph = clone_graph
        self._parts = {id(part) for part in (*all_layers(layer), *layer.variables)}
        # Maps the id of an old object to it and to the new one.
        self._made = {}

    def layer(self, old):
        while hasattr(old, "mask_of"):
            old = old.layer
        if id(old) not in self._made:
            if functional_of(old) is not None:
                new = self._clone_graph(old, self.layer)
                self._made[id(old)] = old, new
            else:
                self._fill(old, self._empty(old))
        return self._made[id(old)][1]

    def _empty(self, old):
        """Makes an object of the class by Keras' constructor, not by the class' own."""
        new = type(old).__new__(type(old))
        base = keras.Model if isinstance(old, keras.Model) else keras.Layer
        base.__init__(new, name=old.name, dtype=old.dtype_policy)
        # Layers may hold each other.
        self._made[id(old)] = old, new
        return new

    def _fill(self, old, new):
        """Gives a new layer the attributes of the old one."""
        made_by_keras = {k for k, v in vars(new).items() if v is not None}
        left_out = _NOT_COPIED
        if isinstance(old, keras.Model):
            left_out = left_out | _OF_COMPILED
        # torch keeps layers apart from other attributes.
        for name, value in (vars(old) | vars(old).get("_modules", {})).items():
            if name in left_out or name.startswith(_PRIVATE):
                continue
            if name in made_by_keras and not isinstance(value, _SIMPLE):
                continue
            setattr(new, name, self._value(value))
        tracker = new._tracker
        for store, (_, parts) in tracker.config.items():
            # Also those that no attribute holds, and in the old order. Metrics that no
            # attribute holds are those of the compiled model.
            parts[:] = [
                self._value(part)
                for part in old._tracker.config[store][1]
                if id(part) in self._made or not isinstance(part, keras.metrics.Metric)
            ]
            tracker.stored_ids[store] = {id(part) for part in parts}
        if old.built:
            new._post_build()
        if old._tracker.locked:
            new._lock_state()

    def _value(self, old):
        if id(old) in self._made:
            return self._made[id(old)][1]
        if isinstance(old, keras.metrics.Metric):
            return self._keep(old, type(old).from_config(old.get_config()))
        if isinstance(old, keras.Layer):
            return self.layer(old)
        if isinstance(old, keras.Variable):
            if is_view(old):
                return self._value(old.variable)
            return self._keep(old, copy.deepcopy(old))
        if isinstance(old, keras.random.SeedGenerator):
            new = copy.copy(old)
            new.state = self._value(old.state)
            return self._keep(old, new)
        if isinstance(old, tuple) and hasattr(old, "_fields"):
            # TensorFlow wraps tuples in attributes.
            return old.__class__(*map(self._value, old))
        for kind in (tuple, list, set):
            if isinstance(old, kind):
                return kind(map(self._value, old))
        if isinstance(old, dict):
            kind = dict
            if isinstance(old, collections.OrderedDict):
                kind = collections.OrderedDict
            return kind((key, self._value(item)) for key, item in old.items())
        if isinstance(old, types.MethodType):
            return types.MethodType(old.__func__, self._value(old.__self__))
        if isinstance(old, functools.partial):
            parts = (old.func, old.args, old.keywords)
            function, args, keywords = map(self._value, parts)
            return functools.partial(function, *args, **keywords)
        self._check_function(old)
        return old

    def _keep(self, old, new):
        self._made[id(old)] = old, new
        return new

    def _check_function(self, function):
        """Raises an error if a function holds a part of the old layer."""
        inner = getattr(function, "python_function", function)
        inner = getattr(inner, "__wrapped__", inner)
        held = [getattr(inner, "__self__", None)]
        for cell in getattr(inner, "__closure__", None) or ():
            held.append(cell.cell_contents)
        if any(id(part) in self._parts for part in held):
            raise TypeError(f"{function} holds a part of the layer that it belongs to.")

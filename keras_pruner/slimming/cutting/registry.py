"""Registers how a layer's config says that the layer has fewer channels."""

from collections.abc import Callable
from typing import Any, overload

from keras import Layer, Model
from keras.backend import is_float_dtype
from keras.layers import Lambda

from keras_pruner.backend import all_layers, class_of_keras_operation
from keras_pruner.types import Classes, FunctionT

_CUTTERS = []


Kind = Classes | str | Callable[[Layer], bool]


@overload
def register_cutter(
    kind: Kind, cutter: None = None
) -> Callable[[FunctionT], FunctionT]: ...
@overload
def register_cutter(kind: Kind, cutter: FunctionT) -> FunctionT: ...
def register_cutter(kind: Kind, cutter: Any = None) -> Any:
    """Registers how the config of a layer class says the sizes of its variables.

    `shrink` and `cut` create each smaller layer from the config of the old one. They
    look cutters up by `isinstance`, the latest first, so that a cutter for a subclass
    wins. A layer without one, whose sizes are integers in its config, needs none.

    Args:
        kind: Class of layers, tuple of classes, name of a class of operations in
            `keras.ops`, e.g. `"Reshape"`, or function that tells whether it is for a
            layer.
        cutter: Function of a layer and a `Part` that returns a dict of the changes to
            the layer's config. Omit it to use the function as a decorator.

    Example:

    >>> class Mixer(keras.layers.Layer):
    ...     def __init__(self, width, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.width = width
    ...     def build(self, input_shape):
    ...         self.mix = self.add_weight(shape=(self.width,), name="mix")
    >>> @register_cutter(Mixer)
    ... def cut_mixer(layer, part):
    ...     return {"width": part.shapes(layer)["mix"][0]}
    """
    if cutter is None:
        return lambda cutter: register_cutter(kind, cutter)
    _CUTTERS.insert(0, (kind, cutter))
    return cutter


def cutter_of(operation):
    """Returns the cutter of a layer or operation, or `None`."""
    for kind, cutter in _CUTTERS:
        if isinstance(kind, str):
            if class_of_keras_operation(operation) == kind:
                return cutter
        elif isinstance(kind, type | tuple):
            if isinstance(operation, kind):
                return cutter
        elif isinstance(operation, Layer) and kind(operation):
            return cutter
    return None


def has_unknown_layers(model):
    """Whether a model has layers with variables that no cutter knows."""
    return any(
        any(is_float_dtype(variable.dtype) for variable in layer.variables)
        for layer in all_layers(model, include_self=False)
        if cutter_of(layer) is None and not isinstance(layer, Model)
    )


def runs_own_code(model):
    """Whether layers of a model, or the model, run code that is not of Keras.

    Such code may hold sizes, also in a layer without variables.
    """
    return any(map(is_own_code, all_layers(model)))


def is_own_code(layer):
    """Whether a layer runs code that no cutter knows and that is not of Keras."""
    if isinstance(layer, Lambda):
        return True
    return cutter_of(layer) is None and not is_of_keras(layer)


def is_of_keras(layer):
    """Whether Keras defines the class of a layer."""
    return type(layer).__module__.startswith("keras.")

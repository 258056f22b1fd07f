"""Registers how layers and operations pass on the indices of their tensors."""

from collections.abc import Callable
from typing import Any, overload

from keras_pruner.types import Classes, FunctionT

_LAYERS = []
_OPERATIONS = {}


@overload
def register_channel_rule(
    layer_class: Classes, rule: None = None
) -> Callable[[FunctionT], FunctionT]: ...
@overload
def register_channel_rule(layer_class: Classes, rule: FunctionT) -> FunctionT: ...
def register_channel_rule(layer_class: Classes, rule: Any = None) -> Any:
    """Registers a rule that tells which indices a layer's tensors share.

    Layers without a rule are opened: their `call` runs on symbolic tensors. A rule is
    needed where this fails or takes long. A subclass that overrides `call` is opened.

    Args:
        layer_class: Class, or tuple of classes, of layers.
        rule: Function of a `Trace`, the layer, and the arguments of its call with
            `Labels` in place of tensors. It returns the outputs as `Labels`. Omit it to
            use the function as a decorator.

    Example:

    >>> class Scale(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.scale = self.add_weight(shape=input_shape[-1:], name="scale")
    ...     def call(self, inputs):
    ...         return inputs * self.scale
    >>> @register_channel_rule(Scale)
    ... def scale_rule(trace, layer, inputs):
    ...     trace.unify(inputs.axes[-1], trace.variable(layer.scale).axes[0])
    ...     return inputs
    """
    if rule is None:
        return lambda rule: register_channel_rule(layer_class, rule)
    classes = layer_class if isinstance(layer_class, tuple) else (layer_class,)
    _LAYERS[:0] = [(cls, rule) for cls in classes]
    return rule


def operation_rule(*names):
    """Registers a rule for operations of `keras.ops`, by the names of their classes."""

    def decorate(rule):
        _OPERATIONS.update(dict.fromkeys(names, rule))
        return rule

    return decorate


def rule_for_layer(layer):
    """Returns the rule for a layer, or `None` if it must be opened."""
    for cls, rule in _LAYERS:
        if isinstance(layer, cls) and _computes_like(layer, cls):
            return rule
    return None


def _computes_like(layer, cls):
    """Whether a layer's call is that of a class, not of a subclass or the object."""
    names = ("call", "convolution_op", "_apply_activation")
    return not any(
        name in vars(layer)
        or getattr(type(layer), name, None) is not getattr(cls, name, None)
        for name in names
    )


def rule_for_operation(name):
    """Returns the rule for an operation.

    Raises:
        ValueError: If there is none.
    """
    if name not in _OPERATIONS:
        raise ValueError("no rule tells how it moves channels")
    return _OPERATIONS[name]

"""Defines which variables of a layer are kernels, by the class of the layer."""

from collections.abc import Callable
from typing import Any, overload

from keras import layers

from keras_pruner.backend import sublayers_of
from keras_pruner.kernels.layouts import (
    conv_layout,
    conv_transpose_layout,
    dense_layout,
    depthwise_layout,
    einsum_layout,
)
from keras_pruner.types import Classes, FunctionT

_RULES = []


@overload
def register_kernel_rule(
    layer_class: Classes, rule: None = None
) -> Callable[[FunctionT], FunctionT]: ...
@overload
def register_kernel_rule(layer_class: Classes, rule: FunctionT) -> FunctionT: ...
def register_kernel_rule(layer_class: Classes, rule: Any = None) -> Any:
    """Registers a rule for the prunable variables of a layer class.

    The search looks rules up by `isinstance`, the latest first, so that a user's rule
    for a subclass wins. A layer may instead have a method `prunable_kernels()` that
    returns the same dict as a rule.

    Args:
        layer_class: Class, or tuple of classes, of layers.
        rule: Function from a layer to a dict from the names of its own variables to
            their `KernelLayout`. Omit it to use the function as a decorator.

    Example:

    >>> class Mixer(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         self.mix = self.add_weight(shape=(2, 4), name="mix")
    >>> @register_kernel_rule(Mixer)
    ... def mixer_rule(layer):
    ...     return {"mix": dense_layout(layer.mix.shape)}
    >>> mixer = Mixer(name="mixer")
    >>> mixer.build((None, 2))
    >>> find_kernels(mixer).kernels
    (<Kernel 'mixer/mix' (2, 4)>,)
    """
    if rule is None:
        return lambda rule: register_kernel_rule(layer_class, rule)
    _RULES.insert(0, (layer_class, rule))
    return rule


def own_variables(layer):
    """Returns the variables of a layer that none of its sublayers owns."""
    inner = {id(v) for child in sublayers_of(layer) for v in child.variables}
    return [v for v in layer.variables if id(v) not in inner]


def _shape_of(layer, name):
    for variable in own_variables(layer):
        if variable.name == name:
            return tuple(variable.shape)
    return None


def named_rule(layout, *names):
    def rule(layer):
        shapes = {name: _shape_of(layer, name) for name in names}
        return {name: layout(s) for name, s in shapes.items() if s is not None}

    return rule


register_kernel_rule(layers.Dense, named_rule(dense_layout, "kernel"))
register_kernel_rule(
    layers.Embedding, named_rule(dense_layout, "embeddings", "reverse_embeddings")
)


register_kernel_rule(
    (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell),
    named_rule(dense_layout, "kernel", "recurrent_kernel"),
)


register_kernel_rule(
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    named_rule(conv_transpose_layout, "kernel"),
)


register_kernel_rule(
    (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    named_rule(depthwise_layout, "kernel"),
)


@register_kernel_rule((layers.Conv1D, layers.Conv2D, layers.Conv3D))
def _conv_rule(layer):
    shape = _shape_of(layer, "kernel")
    return {} if shape is None else {"kernel": conv_layout(shape, layer.groups)}


@register_kernel_rule((layers.SeparableConv1D, layers.SeparableConv2D))
def _separable_rule(layer):
    depthwise = named_rule(depthwise_layout, "depthwise_kernel")(layer)
    return depthwise | named_rule(conv_layout, "pointwise_kernel")(layer)


@register_kernel_rule(layers.EinsumDense)
def _einsum_rule(layer):
    # A packed kernel has two axes, whatever the equation says.
    shape = getattr(layer, "original_kernel_shape", None) or _shape_of(layer, "kernel")
    return {} if shape is None else {"kernel": einsum_layout(layer.equation, shape)}


@register_kernel_rule((layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D))
def _conv_lstm_rule(layer):
    # Keras does not export the cell's class. Its kernels are the cell's variables.
    return {
        variable.name: conv_layout(variable.shape)
        for variable in own_variables(layer.cell)
        if variable.name in ("kernel", "recurrent_kernel")
    }


def registered_layouts(layer):
    """Returns `{variable name: layout}` by the registered rules, or `None` without one.

    Args:
        layer: Keras layer, or a `torch.nn.Module` of a class with a rule.
    """
    for layer_class, rule in _RULES:
        if isinstance(layer, layer_class):
            return rule(layer)
    return None

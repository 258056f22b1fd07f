"""Defines what multiplies the kernels of a layer, by the class of the layer."""

import dataclasses
from collections.abc import Callable
from typing import Any, overload

import numpy as np

from keras_pruner.backend import all_layers
from keras_pruner.kernels import dense_layout, own_variables
from keras_pruner.oneshot.inputs.rows import KernelInputs, dense_inputs
from keras_pruner.pytorch import is_torch_module, module_kind, overridden_class
from keras_pruner.types import Classes, FunctionT

NEVER_CALLED = "the data never reaches the layer: the model did not call it"
COMPILED = (
    "the layer runs inside a compiled function, e.g. `tf.function` or `jax.jit`, so "
    "its inputs are not seen: remove the decorator"
)
_RULES = []
# Kind of torch's own modules -> rule.
_MODULE_RULES = {}


@overload
def register_kernel_inputs(
    layer_class: Classes, rule: None = None
) -> Callable[[FunctionT], FunctionT]: ...
@overload
def register_kernel_inputs(layer_class: Classes, rule: FunctionT) -> FunctionT: ...
def register_kernel_inputs(layer_class: Classes, rule: Any = None) -> Any:
    """Registers a rule that tells what multiplies the kernels of a layer class.

    The search looks rules up by `isinstance`, the latest first. It mirrors
    `register_kernel_rule`, which tells which variables are kernels. A layer needs no
    rule if it has one kernel, of two axes, that multiplies the last axis of the first
    argument of `call`.

    Args:
        layer_class: Class, or tuple of classes, of layers or torch modules.
        rule: Function from `(layer, *args, **kwargs)`, with the arguments of the
            layer's `call`, e.g. `training`, to a dict from the names of its kernels to
            their inputs: a tensor (..., K); a `KernelInputs`; a list of
            `KernelInputs` if some columns of the kernel see other inputs; or a string,
            the reason why nobody can tell the inputs of this call. Omit it to use the
            function as a decorator.

    Example:

    >>> class Gated(keras.layers.Layer):
    ...     def build(self, input_shape):
    ...         shape = (input_shape[-1], input_shape[-1])
    ...         self.gate = self.add_weight(shape=shape, name="gate")
    ...         self.mix = self.add_weight(shape=shape, name="mix")
    ...     def call(self, x):
    ...         gate = ops.sigmoid(ops.matmul(x, self.gate))
    ...         return ops.matmul(gate * x, self.mix)
    >>> @register_kernel_inputs(Gated)
    ... def gated_inputs(layer, x):
    ...     return {"gate": x, "mix": ops.sigmoid(ops.matmul(x, layer.gate)) * x}
    """
    if rule is None:
        return lambda rule: register_kernel_inputs(layer_class, rule)
    _RULES.insert(0, (layer_class, rule))
    return rule


def register_module_inputs(kind):
    """Registers the rule of a kind of torch's own modules; see `module_kind`."""

    def register(rule):
        _MODULE_RULES[kind] = rule
        return rule

    return register


@dataclasses.dataclass(eq=False)
class Reader:
    """A layer whose calls are watched, and its kernels.

    Args:
        layer: The layer that reads the kernels in its `call`.
        rule: Function from the layer and the arguments of a call to inputs by name.
        kernels: List of the layer's `Kernel`s.
        base: Class whose `call` the rule describes, if the layer has another one. The
            arguments are then those that the `call` of the base class gets.
    """

    layer: object
    rule: object
    kernels: list
    base: type | None = None

    @property
    def reason_if_not_called(self):
        """Why the kernels stay dense if nobody saw a call."""
        if self.base is None:
            return NEVER_CALLED
        name, base = type(self.layer).__name__, self.base.__name__
        call = _call_of(self.base).__name__
        return (
            f"{name}.{call} does not run {base}.{call}, whose inputs are known, or the "
            "data never reaches the layer: tell what multiplies its kernels by "
            "`register_kernel_inputs`"
        )

    def inputs_of_call(self, args, kwargs):
        """Returns each kernel's list of `KernelInputs` in a call, or a reason."""
        told = self.rule(self.layer, *args, **kwargs)
        return {
            kernel: self._checked(kernel, told[kernel.variable.name])
            for kernel in self.kernels
            if kernel.variable.name in told
        }

    def _checked(self, kernel, inputs):
        if isinstance(inputs, str):
            return inputs
        parts = inputs if isinstance(inputs, list) else [inputs]
        parts = [p if isinstance(p, KernelInputs) else dense_inputs(p) for p in parts]
        rows, outputs = kernel.layout.rows, kernel.layout.outputs
        parts = [_with_columns(part, outputs) for part in parts]
        lengths = {part.row_length for part in parts}
        columns = np.concatenate([part.columns.reshape(-1) for part in parts])
        is_whole = np.array_equal(np.sort(columns), np.arange(outputs))
        if lengths != {rows} or not is_whole:
            raise ValueError(
                f"The inputs of '{kernel.path}' do not fit its matrix of shape "
                f"({rows}, {outputs}): they have rows of length "
                f"{', '.join(map(str, sorted(lengths)))} for {len(columns)} columns. "
                f"Correct the rule of layer class {type(self.layer).__name__} that "
                "`register_kernel_inputs` was given."
            )
        return parts


def _with_columns(part, outputs):
    if part.columns is not None:
        return part
    columns = np.arange(outputs).reshape(part.groups, -1)
    return dataclasses.replace(part, columns=columns)


def find_readers(kernels):
    """Finds the layers that read kernels, and the rules for their inputs.

    Args:
        kernels: Iterable of `Kernel`s.

    Returns:
        List of `Reader`s, and a dict from each kernel without a rule to the reason.
    """
    readers, left_out = {}, {}
    for kernel in kernels:
        rule, base = _rule_for(kernel)
        if rule is None:
            left_out[kernel] = (
                f"no rule tells what multiplies the kernels of layer class "
                f"{type(kernel.layer).__name__}: register one with "
                "`register_kernel_inputs`"
            )
            continue
        layer = _owner_of(kernel)
        reader = readers.setdefault(id(layer), Reader(layer, rule, [], base))
        reader.kernels.append(kernel)
    return list(readers.values()), left_out


def _rule_for(kernel):
    """Returns the rule of a kernel's layer, or `None`, and the `base` of a `Reader`."""
    layer = kernel.layer
    for layer_class, rule in _RULES:
        if isinstance(layer, layer_class):
            known = layer_class if isinstance(layer_class, tuple) else (layer_class,)
            base = next(each for each in type(layer).__mro__ if each in known)
            has_own_call = _call_of(type(layer)) is not _call_of(base)
            return rule, base if has_own_call and _owner_of(kernel) is layer else None
    if is_torch_module(layer):
        return _MODULE_RULES.get(module_kind(layer)), overridden_class(layer)
    kernels = [v for v in own_variables(layer) if len(v.shape) > 1]
    shape = tuple(kernel.variable.shape)
    is_default = len(shape) == 2 and kernel.layout == dense_layout(shape)
    return _default_rule(kernel) if len(kernels) == 1 and is_default else None, None


def _call_of(layer_class):
    """Returns the `call` of a Keras layer's class, or the `forward` of a module's."""
    return getattr(layer_class, "call", None) or layer_class.forward


def _default_rule(kernel):
    """For a layer with one kernel (K, N), of which nothing more is known."""
    name, length = kernel.variable.name, kernel.layout.rows

    def rule(layer, inputs, *args, **kwargs):
        shape = getattr(inputs, "shape", ())
        if len(shape) and shape[-1] == length:
            return {name: inputs}
        return {
            name: f"the last axis of the layer's input is no {length}, so no rule "
            f"tells what multiplies the kernel of layer class {type(layer).__name__}: "
            "register one with `register_kernel_inputs`"
        }

    return rule


def _owner_of(kernel):
    """Returns the sublayer whose `call` reads a kernel."""
    if is_torch_module(kernel.layer):
        return kernel.layer
    for layer in all_layers(kernel.layer):
        if any(variable is kernel.variable for variable in own_variables(layer)):
            return layer
    return kernel.layer

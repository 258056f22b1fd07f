"""Which variables of a Keras model are prunable, through all nesting."""

import dataclasses
import math

import keras
from keras import layers

from keras_pruner.hub_rules import hub_layouts
from keras_pruner.layouts import (
    KernelLayout,
    conv_layout,
    conv_transpose_layout,
    dense_layout,
    depthwise_layout,
    einsum_layout,
)

_RULES = []
# Keras' own layers whose weights may have several axes, and what those are.
_NO_MATRICES = {
    layers.PReLU: "a slope for each input",
    layers.SpectralNormalization: "the vector of a power iteration",
    layers.STFTSpectrogram: "the fixed waves of a transform",
    (
        layers.BatchNormalization,
        layers.GroupNormalization,
        layers.LayerNormalization,
        layers.Normalization,
        layers.RMSNormalization,
    ): "a number for each feature",
}
_MAX_KERNEL_SIZE = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """One prunable variable of a model.

    Args:
        path: Names from the model's child down to the variable, joined by `/`.
        variable: `keras.Variable`.
        layout: `KernelLayout`.
        layer: The layer that owns the variable, or `None`.
        owner: The wrapper layer that masks the variable, or `None`.
        attention: Path of the attention layer whose heads the kernel holds, or `None`.
    """

    path: str
    variable: keras.Variable
    layout: KernelLayout
    layer: keras.layers.Layer | None = None
    owner: keras.layers.Layer | None = None
    attention: str | None = None

    @property
    def wrapper_mask(self):
        """The mask variable of the wrapper layer around the kernel, or `None`."""
        return None if self.owner is None else self.owner.mask_of(self.variable)

    def __repr__(self):
        return f"<Kernel '{self.path}' {tuple(self.variable.shape)}>"


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A matrix-like variable that is not pruned, and why."""

    path: str
    shape: tuple
    reason: str

    @property
    def size(self):
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class KernelSearch:
    """What a search found: `kernels` that can be pruned and those `skipped`."""

    kernels: tuple
    skipped: tuple


def register_kernel_rule(layer_class, rule=None):
    """Tells the search which variables of a layer class are prunable.

    Rules are looked up by `isinstance`; the one registered last is asked first, so a
    user's rule for a subclass wins. A layer may instead have a method
    `prunable_kernels()` that returns what a rule returns.

    Args:
        layer_class: Class, or tuple of classes, of layers.
        rule: Function from a layer to a dict from the names of its own variables to
            their `KernelLayout`. Omitted when used as a decorator.
    """
    if rule is None:
        return lambda rule: register_kernel_rule(layer_class, rule)
    _RULES.insert(0, (layer_class, rule))
    return rule


def own_variables(layer):
    """Returns the variables of a layer that none of its sublayers owns."""
    inner = {id(v) for child in _children(layer) for v in child.variables}
    return [v for v in layer.variables if id(v) not in inner]


def _children(layer):
    return layer._flatten_layers(include_self=False, recursive=False)


def _shape_of(layer, name):
    for variable in own_variables(layer):
        if variable.name == name:
            return tuple(variable.shape)
    return None


def _simple_rule(layout, *names):
    def rule(layer):
        shapes = {name: _shape_of(layer, name) for name in names}
        return {name: layout(s) for name, s in shapes.items() if s is not None}

    return rule


register_kernel_rule(layers.Dense, _simple_rule(dense_layout, "kernel"))
register_kernel_rule(
    (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell),
    _simple_rule(dense_layout, "kernel", "recurrent_kernel"),
)
register_kernel_rule(
    (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    _simple_rule(conv_transpose_layout, "kernel"),
)
register_kernel_rule(
    (layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    _simple_rule(depthwise_layout, "kernel"),
)


@register_kernel_rule((layers.Conv1D, layers.Conv2D, layers.Conv3D))
def _conv_rule(layer):
    shape = _shape_of(layer, "kernel")
    return {} if shape is None else {"kernel": conv_layout(shape, layer.groups)}


@register_kernel_rule((layers.SeparableConv1D, layers.SeparableConv2D))
def _separable_rule(layer):
    depthwise = _simple_rule(depthwise_layout, "depthwise_kernel")(layer)
    return depthwise | _simple_rule(conv_layout, "pointwise_kernel")(layer)


@register_kernel_rule(layers.EinsumDense)
def _einsum_rule(layer):
    shape = _shape_of(layer, "kernel")
    return {} if shape is None else {"kernel": einsum_layout(layer.equation, shape)}


@register_kernel_rule((layers.ConvLSTM1D, layers.ConvLSTM2D, layers.ConvLSTM3D))
def _conv_lstm_rule(layer):
    # Keras does not export the cell's class; its kernels are the cell's variables.
    return {
        variable.name: conv_layout(variable.shape)
        for variable in own_variables(layer.cell)
        if variable.name in ("kernel", "recurrent_kernel")
    }


def _refusal(layer):
    """Returns why a layer of a known class cannot be pruned now, or `None`."""
    if getattr(layer, "quantization_mode", None) is not None:
        return (
            f"the layer is quantized ({layer.quantization_mode}), so its kernel is "
            "computed: prune before `quantize`"
        )
    if getattr(layer, "lora_enabled", False):
        return "LoRA is enabled, so the kernel is frozen: merge LoRA before pruning"
    return None


def _layouts(layer, embeddings):
    """Returns a layer's `{variable name: layout}`, or `None` for an unknown class."""
    if hasattr(layer, "prunable_kernels"):
        return layer.prunable_kernels()
    if isinstance(layer, layers.Embedding):
        rule = _simple_rule(dense_layout, "embeddings", "reverse_embeddings")
        return rule(layer) if embeddings else None
    layouts = registered_layouts(layer)
    return hub_layouts(layer, own_variables(layer)) if layouts is None else layouts


def registered_layouts(layer):
    """Returns `{variable name: layout}` by the registered rules, or `None` if none is.

    Args:
        layer: Keras layer, or a `torch.nn.Module` of a class with a rule.
    """
    for layer_class, rule in _RULES:
        if isinstance(layer, layer_class):
            return rule(layer)
    return None


def find_kernels(model, *, embeddings=False, name=None):
    """Finds the prunable kernels of a model or layer, through all nesting.

    Layers are known by `isinstance`, variables by name. A layer or variable that is
    shared appears once. Paths are made of layer names from the model's children on, so
    they are equal for a model and its saved copy; wrapper layers of this package add
    nothing to the path.

    Args:
        model: Built `keras.Model` or `keras.layers.Layer`.
        embeddings: Whether embedding tables count as prunable.
        name: First part of every path, if given.

    Returns:
        `KernelSearch`. Every variable of two or more axes is in one of its two lists,
        or belongs to a class that has none to prune.
    """
    found, skipped, seen_layers, seen_variables = [], [], set(), set()
    # From the id of an attention layer's part to the layer's path and heads.
    attention, num_attention = {}, {}

    def visit(layer, prefix, owner):
        if id(layer) in seen_layers:
            return
        seen_layers.add(id(layer))
        is_wrapper = hasattr(layer, "mask_of")
        owner = layer if is_wrapper else owner
        heads = _num_heads(layer)
        if heads:
            path = "/".join(prefix)
            number = num_attention[path] = num_attention.get(path, 0) + 1
            path = _numbered(path, number)
            attention.update({id(part): (path, heads) for part in _children(layer)})
        layouts = {} if is_wrapper else _layouts(layer, embeddings)
        refusal = None if is_wrapper else _refusal(layer)
        pool = own_variables(layer)
        if layouts and not {v.name for v in pool} >= set(layouts):
            # A rule may name variables of a sublayer that has no public class.
            pool = layer.variables
        for variable in [] if is_wrapper else pool:
            if id(variable) in seen_variables:
                continue
            layout = (layouts or {}).get(variable.name)
            path = "/".join([*prefix, variable.name])
            shape = tuple(variable.shape)
            if layout is not None and refusal is None:
                _check_layout(layout, shape, path, layer)
                reason = None
                if math.prod(shape) > _MAX_KERNEL_SIZE:
                    reason = "more than 2^31 - 1 weights in one kernel"
            elif len(shape) < 2 or (layouts is not None and refusal is None):
                continue
            else:
                reason = refusal or _unknown_reason(layer)
            seen_variables.add(id(variable))
            if reason is None:
                kernel = Kernel(path, variable, layout, layer, owner)
                if id(layer) in attention:
                    kernel = _with_heads(kernel, *attention[id(layer)])
                found.append(kernel)
            else:
                skipped.append(Skipped(path, shape, reason))
        for child in _children(layer):
            visit(child, [*prefix, *_own_name(child)], owner)

    def _own_name(layer):
        return [] if hasattr(layer, "mask_of") else [layer.name]

    prefix = [] if name is None else [name]
    if name is None and not isinstance(model, keras.Model):
        prefix = _own_name(model)
    visit(model, prefix, None)
    return KernelSearch(_with_unique_paths(found), tuple(skipped))


def _check_layout(layout, shape, path, layer):
    if layout.shape != shape:
        raise ValueError(
            f"The kernel rule of layer class {type(layer).__name__} gives '{path}' a "
            f"layout of shape {layout.shape}, but the variable has shape {shape}. "
            "Correct the rule, or the layer's `prunable_kernels()`."
        )


def _num_heads(layer):
    """Returns how many heads of an attention layer can be cut, or 0 for another."""
    if isinstance(layer, layers.GroupQueryAttention):
        # Query heads that share one key and value head go together.
        return layer.num_key_value_heads
    return layer.num_heads if isinstance(layer, layers.MultiHeadAttention) else 0


def _with_heads(kernel, path, heads):
    """Marks a kernel of an attention layer with the heads that its matrix holds."""
    axes = {"query": 1, "key": 1, "value": 1, "gate": 1, "attention_output": 0}
    axis = axes.get(kernel.layer.name)
    if axis is None:
        return kernel
    layout = dataclasses.replace(kernel.layout, heads=heads, head_axis=axis)
    return dataclasses.replace(kernel, layout=layout, attention=path)


def _unknown_reason(layer):
    if isinstance(layer, layers.Embedding):
        return (
            "embeddings are pruned only when asked for: add 'Embedding' to layer_types"
        )
    for layer_class, held in _NO_MATRICES.items():
        if isinstance(layer, layer_class):
            return f"not multiplied by as a matrix: {held}"
    return (
        f"no rule for layer class {type(layer).__name__}: register one with "
        "`register_kernel_rule`, or give the layer `prunable_kernels()`"
    )


def _with_unique_paths(kernels):
    """Numbers the paths of layers that share a name, as subclassed models allow."""
    counts, unique = {}, []
    for kernel in kernels:
        counts[kernel.path] = counts.get(kernel.path, 0) + 1
        path = _numbered(kernel.path, counts[kernel.path])
        unique.append(dataclasses.replace(kernel, path=path))
    return tuple(unique)


def _numbered(path, number):
    """Tells the second and further layers of one path apart."""
    return path if number == 1 else f"{path}#{number}"

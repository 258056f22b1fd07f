"""Finds the prunable variables of a Keras model, through all nesting."""

import dataclasses
import math

import keras
from keras import layers

from keras_pruner.backend import all_layers, is_view, sublayers_of
from keras_pruner.kernels.keras_hub import hub_layouts
from keras_pruner.kernels.kernel import (
    NOT_A_MATRIX,
    Coupling,
    Kernel,
    KernelSearch,
)
from keras_pruner.kernels.outputs import output_variables
from keras_pruner.kernels.rules import (
    own_variables,
    registered_layouts,
)

# Weights of these Keras layers may have several axes, but are no matrices.
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
NO_WEIGHTS = "the kernel has no weights: an axis has size 0"
# Part of an attention layer -> axis of its matrix along which the heads lie.
_HEAD_AXES = {"query": 1, "key": 1, "value": 1, "gate": 1, "attention_output": 0}
_EMBEDDING = "embeddings are pruned only when asked for: add 'Embedding' to layer_types"


def _refusal(layer):
    """Returns why you cannot prune a layer of a known class now, or `None`."""
    # In float8 layers the kernel is a float variable, which trains.
    if getattr(layer, "quantization_mode", None) not in (None, "float8"):
        return (
            f"the layer is quantized ({layer.quantization_mode}), so its kernel is "
            "computed: prune before `quantize`"
        )
    if getattr(layer, "lora_enabled", False):
        return "LoRA is enabled, so the kernel is frozen: merge LoRA before pruning"
    return None


def _layouts(layer):
    """Returns a layer's `{variable name: layout}`, or `None` for an unknown class."""
    if hasattr(layer, "prunable_kernels"):
        return layer.prunable_kernels()
    layouts = registered_layouts(layer)
    return hub_layouts(layer, own_variables(layer)) if layouts is None else layouts


def find_kernels(
    model: keras.Model | keras.layers.Layer,
    *,
    embeddings: bool = False,
    name: str | None = None,
) -> KernelSearch:
    """Finds the prunable kernels of a model or layer, through all nesting.

    `isinstance` identifies layers, and names identify variables. A shared layer or
    variable appears once. Paths consist of layer names from the model's children on, so
    a model and its saved copy have equal paths. Wrapper layers of this package add
    nothing to the path.

    Args:
        model: Built `keras.Model` or `keras.layers.Layer`.
        embeddings: Whether embedding tables count as prunable.
        name: First part of every path, if given.

    Returns:
        `KernelSearch`. Every variable of two or more axes is in one of its two lists,
        unless a rule for its layer omits it.

    Example:

    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((5, 2)),
    ...         keras.layers.Conv1D(4, 3, name="conv"),
    ...         keras.layers.PReLU(name="slopes"),
    ...         keras.layers.Dense(2, name="head"),
    ...     ]
    ... )
    >>> kernels, skipped = find_kernels(model).kernels, find_kernels(model).skipped
    >>> kernels
    (<Kernel 'conv/kernel' (3, 2, 4)>, <Kernel 'head/kernel' (4, 2)>)
    >>> [(variable.path, variable.reason) for variable in skipped]
    [('slopes/alpha', 'not multiplied by as a matrix: a slope for each input')]
    """
    found = find_all_kernels(model, name=name)
    if embeddings:
        return found
    kernels = tuple(kernel for kernel in found.kernels if not kernel.on_request)
    asked_for = tuple(k.skip(k.on_request) for k in found.kernels if k.on_request)
    return KernelSearch(kernels, (*found.skipped, *asked_for))


def find_all_kernels(model, *, name=None):
    """As `find_kernels`, but also with the kernels that are pruned on request only."""
    found, skipped, seen_layers, seen_variables = [], [], set(), set()
    # Maps the id of an attention layer's part to the layer's path and heads.
    attention, num_attention = {}, {}

    def visit(layer, prefix, wrapper):
        if id(layer) in seen_layers:
            return
        seen_layers.add(id(layer))
        is_wrapper = hasattr(layer, "mask_of")
        wrapper = layer if is_wrapper else wrapper
        heads = _num_heads(layer)
        if heads:
            path = "/".join(prefix)
            number = num_attention[path] = num_attention.get(path, 0) + 1
            path = _numbered(path, number)
            attention.update({id(part): (path, heads) for part in sublayers_of(layer)})
        layouts = {} if is_wrapper else _layouts(layer)
        refusal = None if is_wrapper else _refusal(layer)
        pool = own_variables(layer)
        if layouts and not {v.name for v in pool} >= set(layouts):
            # A rule may name variables of a sublayer that has no public class.
            pool = layer.variables
        for variable in [] if is_wrapper else pool:
            if id(variable) in seen_variables:
                continue
            if is_view(variable):
                raise ValueError(
                    f"Layer '{layer.name}' was assigned '{variable.path}', the "
                    "kernel of a wrapped layer, which would be trained twice. Assign "
                    "that layer to the attribute, and read its kernel in `call`."
                )
            layout = (layouts or {}).get(variable.name)
            path = "/".join([*prefix, variable.name])
            shape = tuple(variable.shape)
            if layout is not None and refusal is None:
                _check_layout(layout, shape, path, layer)
                reason = None
                if math.prod(shape) > _MAX_KERNEL_SIZE:
                    reason = "more than 2^31 - 1 weights in one kernel"
                elif math.prod(shape) == 0:
                    reason = NO_WEIGHTS
            elif len(shape) < 2 or (layouts is not None and layout is None):
                continue
            else:
                reason = refusal or _unknown_reason(layer)
            seen_variables.add(id(variable))
            kernel = Kernel(path, variable, layout, layer, wrapper)
            if reason is None:
                if _is_plain_embedding(layer):
                    kernel = dataclasses.replace(kernel, on_request=_EMBEDDING)
                if id(layer) in attention:
                    kernel = _with_heads(kernel, *attention[id(layer)])
                found.append(kernel)
            else:
                skipped.append((kernel, reason))
        for child in sublayers_of(layer):
            visit(child, [*prefix, *_own_name(child)], wrapper)

    def _own_name(layer):
        return [] if hasattr(layer, "mask_of") else [layer.name]

    prefix = [] if name is None else [name]
    if name is None and not isinstance(model, keras.Model):
        prefix = _own_name(model)
    visit(model, prefix, None)
    outputs = output_variables(model, found)
    found = [
        dataclasses.replace(kernel, is_output=id(kernel.variable) in outputs)
        for kernel in found
    ]
    return KernelSearch(
        _with_unique_paths(found),
        tuple(kernel.skip(reason) for kernel, reason in skipped),
        tuple(kernel for kernel, _ in skipped),
    )


def _check_layout(layout, shape, path, layer):
    if layout.shape != shape:
        raise ValueError(
            f"The kernel rule of layer class {type(layer).__name__} gives '{path}' a "
            f"layout of shape {layout.shape}, but the variable has shape {shape}. "
            "Correct the rule, or the layer's `prunable_kernels()`."
        )


def _is_plain_embedding(layer):
    has_own_rule = hasattr(layer, "prunable_kernels")
    return isinstance(layer, layers.Embedding) and not has_own_rule


def _num_heads(layer):
    """Returns the number of prunable heads of an attention layer, or 0 for another."""
    if isinstance(layer, layers.GroupQueryAttention):
        # Query heads that share one key and value head are pruned together.
        return layer.num_key_value_heads
    return layer.num_heads if isinstance(layer, layers.MultiHeadAttention) else 0


def _with_heads(kernel, path, heads):
    """Adds the heads of its attention layer to a kernel."""
    role = kernel.layer.name
    axis = _HEAD_AXES.get(role)
    if axis is None:
        return kernel
    coupling = Coupling("heads", path, role, axis, heads)
    return dataclasses.replace(kernel, couplings=(*kernel.couplings, coupling))


def _unknown_reason(layer):
    for layer_class, held in _NO_MATRICES.items():
        if isinstance(layer, layer_class):
            return f"{NOT_A_MATRIX}: {held}"
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
    """Adds a number to a path from its second layer on."""
    return path if number == 1 else f"{path}#{number}"


def find_wrapped(model):
    """Returns the `PrunedLayer`s of a model, through all nesting."""
    return [layer for layer in all_layers(model) if hasattr(layer, "mask_of")]


def masks_of(layer):
    """Returns a dict from the id of each wrapped variable in a layer to its mask."""
    found = {}
    for wrapper in find_wrapped(layer):
        for variable in wrapper.layer.variables:
            mask = wrapper.mask_of(variable)
            if mask is not None:
                found[id(variable)] = mask
    return found


def check_built(model):
    """Raises an error if `model` is no Keras model, or has no weights yet."""
    if not isinstance(model, keras.Model):
        raise TypeError(f"Expected a Keras model. Received: {model!r}")
    if not model.built:
        raise ValueError(
            f"'{model.name}' is not built, so its weights do not exist yet. Begin it "
            "with `keras.Input`, call it on data once, or `build(input_shape)`."
        )

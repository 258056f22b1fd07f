"""What multiplies the kernels of dense layers and embeddings."""

import math

from keras import layers, ops

from keras_pruner.oneshot.inputs.rows import KernelInputs, dense_inputs
from keras_pruner.oneshot.inputs.rules import register_kernel_inputs

_MAX_CLASSES = 4096


@register_kernel_inputs(layers.Dense)
def _dense(layer, inputs, *args, **kwargs):
    return {"kernel": dense_inputs(inputs)}


@register_kernel_inputs(layers.EinsumDense)
def _einsum_dense(layer, inputs, *args, **kwargs):
    return {"kernel": einsum_inputs(layer.equation, inputs)}


def einsum_inputs(equation, inputs):
    """Returns the `KernelInputs` of an einsum kernel, as `einsum_layout` views it.

    Args:
        equation: As of `EinsumDense`, e.g. `"abc,cde->abde"`.
        inputs: Tensor, the layer's input.
    """
    left, output = equation.replace(" ", "").split("->")
    letters, kernel = left.split(",")
    kernel = [*kernel]
    # An ellipsis becomes numbers, one an axis, which no kernel has.
    head, dots, tail = letters.partition("...")
    extra = len(inputs.shape) - len(head) - len(tail)
    axes = [*head, *(range(extra) if dots else ()), *tail]
    kept = {*output, *range(extra)}
    reduced = [a for a in kernel if a in axes and a not in output]
    shared = [a for a in kernel if a in axes and a in output]
    alone = [a for a in axes if a not in kernel and a not in kept]
    rest = [a for a in axes if a not in kernel and a in kept]
    source = inputs
    if alone:
        inputs = ops.sum(inputs, [axes.index(a) for a in alone])
        axes = [a for a in axes if a not in alone]
    order = [axes.index(a) for a in (*rest, *shared, *reduced)]
    if order != list(range(len(axes))):
        inputs = ops.transpose(inputs, order)
    shape = tuple(inputs.shape)
    positions = shape[: len(rest)]
    groups = math.prod(shape[len(rest) : len(rest) + len(shared)])
    channels = math.prod(shape[len(rest) :])
    is_plain = not alone and order == sorted(order) and not shared
    form = ("einsum", tuple(order), tuple(alone), len(rest), len(shared))
    return KernelInputs(
        ops.reshape(inputs, (-1, channels)),
        positions or (1,),
        groups,
        source=source,
        form=("dense",) if is_plain and len(reduced) == 1 else form,
        is_pointwise=rest == axes[: len(rest)],
    )


# Keras 3.12 has no reversible ones.
_EMBEDDINGS = (
    layers.Embedding,
    getattr(layers, "ReversibleEmbedding", layers.Embedding),
)


@register_kernel_inputs(_EMBEDDINGS)
def _embedding(layer, inputs, *args, **kwargs):
    """A table multiplies one-hot rows; what reads it backwards, rows of embeddings."""
    is_reversed = kwargs.get("reverse", args[0] if args else False)
    if is_reversed and getattr(layer, "tie_weights", False):
        reason = "the layer also multiplies by the transposed table, so no rows fit it"
        return {"embeddings": reason}
    if is_reversed:
        return {"reverse_embeddings": dense_inputs(inputs)}
    return {"embeddings": class_inputs(inputs, layer.input_dim)}


def class_inputs(inputs, num_classes):
    """Returns the `KernelInputs` of a table, or a reason if it has too many rows.

    Args:
        inputs: Integer tensor of classes.
        num_classes: Number of rows of the table.
    """
    if num_classes > _MAX_CLASSES:
        return f"the table has more than {_MAX_CLASSES} rows: one-hot inputs are long"
    return KernelInputs(
        ops.reshape(ops.cast(inputs, "int32"), (-1, 1)),
        tuple(inputs.shape),
        num_classes=num_classes,
        source=inputs,
        form=("classes", num_classes),
        is_pointwise=True,
    )

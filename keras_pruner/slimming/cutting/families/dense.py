"""Cutters of dense and embedding layers."""

from keras import layers

from keras_pruner.slimming.cutting.registry import register_cutter


@register_cutter(layers.Dense)
def _cut_dense(layer, part):
    return {"units": part.shapes(layer)["kernel"][-1]}


@register_cutter(layers.EinsumDense)
def _cut_einsum(layer, part):
    shape = part.shapes(layer)["kernel"]
    inputs, letters, outputs = _letters(layer.equation)
    sizes = dict(zip(letters, shape, strict=True))
    old = layer.partial_output_shape
    # The config leaves out the batch, and axes that an ellipsis stands for.
    named = outputs[len(outputs) - len(old) :]
    new = [
        size if size is None else sizes.get(letter, size)
        for letter, size in zip(named, old, strict=True)
    ]
    return {"output_shape": new}


def _letters(equation):
    """Returns the letters of inputs, kernel and outputs, without ellipses.

    Example:

    >>> _letters("...x,xy->...y")
    ('x', 'xy', 'y')
    """
    left, outputs = equation.replace(" ", "").replace("...", "").split("->")
    inputs, kernel = left.split(",")
    return inputs, kernel, outputs


@register_cutter(layers.Embedding)
def _cut_embedding(layer, part):
    rows, columns = part.shapes(layer)["embeddings"]
    return {"input_dim": rows, "output_dim": columns}

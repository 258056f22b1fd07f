"""How the parameters of torch's modules are seen as matrices of inputs by outputs.

torch puts outputs first, and a convolution's window last. The matrix that a layout
makes of a parameter is that of the same Keras layer, so all maths gives equal masks.
"""

import functools
import math
import re

from keras_pruner.kernels import KernelLayout, dense_layout


def linear_layout(shape):
    """Layout of `(outputs, inputs)`."""
    outputs, inputs = shape
    return KernelLayout((outputs, inputs), (), inputs, outputs, permutation=(1, 0))


def conv_layout(shape, groups=1):
    """Layout of `(outputs, inputs / groups, *window)`, depthwise ones too."""
    outputs, inputs, *window = shape
    order = (*range(2, len(shape)), 1, 0)
    return KernelLayout(
        tuple(shape), tuple(window), inputs, outputs, groups, permutation=order
    )


def conv_transpose_layout(shape, groups=1):
    """Layout of `(inputs, outputs / groups, *window)`.

    Inputs are divided by groups, too: of the matrix (K, N) the inputs of one group run
    along K, and the outputs of one group stand together along N.
    """
    inputs, outputs, *window = shape
    rank = len(window)
    # Axes of the split kernel: groups, inputs of a group, outputs of a group, window.
    order = (*range(3, 3 + rank), 1, 0, 2)
    return KernelLayout(
        tuple(shape),
        tuple(window),
        inputs // groups,
        outputs * groups,
        groups,
        permutation=order,
        split=(groups, inputs // groups, outputs, *window),
    )


def bilinear_layout(shape):
    """Layout of `(outputs, inputs_1, inputs_2)`: K are the pairs of inputs."""
    outputs, *inputs = shape
    return KernelLayout(
        tuple(shape), (), math.prod(inputs), outputs, permutation=(1, 2, 0)
    )


def variable_layout(shape):
    """Layout of a parameter by itself: as of a linear or a convolutional layer."""
    return linear_layout(shape) if len(shape) == 2 else conv_layout(shape)


def _named(layout, pattern):
    """Returns a rule: the parameters whose name matches have this layout."""

    def rule(module, shapes):
        return {n: layout(s) for n, s in shapes.items() if re.fullmatch(pattern, n)}

    return rule


def _conv_rule(module, shapes):
    layout = conv_transpose_layout if module.transposed else conv_layout
    return {n: layout(s, module.groups) for n, s in shapes.items() if n == "weight"}


@functools.cache
def module_rules():
    """Returns pairs of a torch class and its rule.

    A rule is a function from a module and a dict of the shapes of its own parameters to
    a dict from a parameter's name to its layout.
    """
    from torch import nn

    recurrent = r"weight_(ih|hh|hr)_l\d+(_reverse)?"
    attention = "in_proj_weight|[qkv]_proj_weight"
    return (
        (nn.Linear, _named(linear_layout, "weight")),
        (nn.modules.conv._ConvNd, _conv_rule),
        (nn.Bilinear, _named(bilinear_layout, "weight")),
        (nn.RNNBase, _named(linear_layout, recurrent)),
        (nn.RNNCellBase, _named(linear_layout, "weight_(ih|hh)")),
        (nn.MultiheadAttention, _named(linear_layout, attention)),
    )


@functools.cache
def embedding_rule():
    """Returns the classes of embeddings and their rule."""
    from torch import nn

    return (nn.Embedding, nn.EmbeddingBag), _named(dense_layout, "weight")

"""Maps the parameters of torch modules to matrices of inputs by outputs.

torch puts outputs first, and a convolution's window last. A layout converts a parameter
to the matrix of the same Keras layer, so masks are equal.
"""

import functools
import math
import re

from keras_pruner.kernels import KernelLayout, dense_layout


def linear_layout(shape):
    """Returns the layout of `(outputs, inputs)`."""
    outputs, inputs = shape
    return KernelLayout((outputs, inputs), (), inputs, outputs, permutation=(1, 0))


def conv_layout(shape, groups=1):
    """Returns the layout of `(outputs, inputs / groups, *window)`, also depthwise."""
    outputs, inputs, *window = shape
    order = (*range(2, len(shape)), 1, 0)
    return KernelLayout(
        tuple(shape), tuple(window), inputs, outputs, groups, permutation=order
    )


def conv_transpose_layout(shape, groups=1):
    """Returns the layout of `(inputs, outputs / groups, *window)`.

    Groups also divide the inputs. In the matrix (K, N), K holds the inputs of one
    group, and the outputs of one group are adjacent along N.
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
    """Returns the layout of `(outputs, inputs_1, inputs_2)`: K has pairs of inputs."""
    outputs, *inputs = shape
    return KernelLayout(
        tuple(shape), (), math.prod(inputs), outputs, permutation=(1, 2, 0)
    )


def variable_layout(shape):
    """Returns the layout of a bare parameter: that of a linear or convolution layer."""
    return linear_layout(shape) if len(shape) == 2 else conv_layout(shape)


def _named(layout, pattern):
    """Returns a rule with this layout for the parameters whose name matches."""

    def rule(module, shapes):
        return {n: layout(s) for n, s in shapes.items() if re.fullmatch(pattern, n)}

    return rule


def _conv_rule(module, shapes):
    layout = conv_transpose_layout if module.transposed else conv_layout
    return {n: layout(s, module.groups) for n, s in shapes.items() if n == "weight"}


@functools.cache
def module_rules():
    """Returns pairs of a torch class and its rule.

    A rule is a function of a module and a dict of the shapes of its own parameters. It
    returns a dict from a parameter's name to its layout.
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


# Pattern of a kernel's name -> name of its bias.
_BIASES = {
    "in_proj_weight": "in_proj_bias",
    "weight": "bias",
    r"weight_(ih|hh)(.*)": r"bias_\1\2",
}


def bias_name(name):
    """Returns the name under which torch's modules keep the bias of a kernel."""
    for pattern, bias in _BIASES.items():
        found = re.fullmatch(pattern, name)
        if found:
            return found.expand(bias)
    return None


@functools.cache
def _kinds():
    from torch import nn

    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return {
        "linear": nn.Linear,
        "conv_transpose": transposed,
        "conv": (nn.Conv1d, nn.Conv2d, nn.Conv3d),
        "bilinear": nn.Bilinear,
        "recurrent": nn.RNNBase,
        "cell": nn.RNNCellBase,
        "attention": nn.MultiheadAttention,
        "embedding": nn.Embedding,
    }


def module_kind(module):
    """Returns `"linear"`, `"conv"` or another kind of torch's modules, or `None`."""
    for kind, classes in _kinds().items():
        if isinstance(module, classes):
            return kind
    return None


def overridden_class(module):
    """Returns torch's class whose `forward` a module overrides, or `None`."""
    classes = [c for c in type(module).__mro__ if "forward" in vars(c)]
    of_torch = [c for c in classes if c.__module__.startswith("torch.")]
    return None if classes[0] in of_torch else of_torch[0]


@functools.cache
def embedding_rule():
    """Returns the classes of embeddings and their rule."""
    from torch import nn

    return (nn.Embedding, nn.EmbeddingBag), _named(dense_layout, "weight")

"""Without the channels of a group, the rest of a model computes the same."""

import keras
import numpy as np
import pytest
from followed_models import LAYERS, RandomGraph, layer_model

from keras_pruner import ChannelGraph

# Axes of kernels along which inputs are multiplied, by the name of the layer's class.
# All other axes are computed by the kernel.
INPUT_AXES = {
    "Dense": [0],
    "Conv1D": [-2],
    "Conv2D": [-2],
    "Conv3D": [-2],
    "Conv2DTranspose": [-1],
    "ConvLSTMCell": [-2],
    "LSTMCell": [0],
    "GRUCell": [0],
    "SimpleRNNCell": [0],
    "SpectralNormalization": [-2],
}


# Attention multiplies two activations; one of them must be zero. A mean of squares
# counts what it reads.
FACTORS = {
    "rms_normalization": "before",
    "attention": "query",
    "grouped_attention": "query",
    "dot_attention": "before",
}


def input_axes(member):
    """Returns the axes of the member's variable along which inputs are multiplied."""
    name, layer = member.variable.name, member.layer
    if name == "pointwise_kernel":
        return [member.variable.ndim - 2]
    if name not in ("kernel", "recurrent_kernel"):
        return []
    if isinstance(layer, keras.layers.EinsumDense):
        given, kernel = layer.equation.split("->")[0].split(",")
        return [axis for axis, letter in enumerate(kernel) if letter in given]
    axes = INPUT_AXES.get(type(layer).__name__, [])
    return [axis % member.variable.ndim for axis in axes]


def randomize(model, random):
    for variable in model.weights:
        if "float" in str(variable.dtype):
            values = random.normal(0, 0.5, variable.shape)
            values = np.abs(values) + 0.5 if "variance" in variable.name else values
            variable.assign(values)


def removed_elements(group, channels):
    """Yields each member's variable, and an index of all elements that are removed."""
    for member in group.members:
        index = [slice(None)] * member.variable.ndim
        index[member.axis] = member.removed_by(channels)
        yield member, tuple(index)


def outputs_without(model, inputs, removals, random, zeroed):
    """Returns the outputs with random numbers in all that is removed.

    Args:
        model: Keras model, whose weights are the same afterwards.
        inputs: Array.
        removals: List of pairs of a group and its removed channels.
        random: NumPy generator.
        zeroed: Function that tells whether the rows of a member are zero.
    """
    before = model.get_weights()
    values = {id(v): np.array(v) for v in model.weights}
    variables = {id(v): v for v in model.weights}
    elements = [
        (member, index)
        for group, channels in removals
        for member, index in removed_elements(group, channels)
    ]
    for member, index in elements:
        value = values[id(member.variable)]
        value[index] = random.uniform(0.5, 1, value[index].shape)
    for member, index in elements:
        if zeroed(member):
            values[id(member.variable)][index] = 0
    for key, value in values.items():
        variables[key].assign(value)
    outputs = keras.ops.convert_to_numpy(model(inputs, training=False))
    model.set_weights(before)
    return outputs


def check_that_removal_is_exact(model, seed=0, factor=None):
    random = np.random.default_rng(seed)
    randomize(model, random)
    inputs = random.normal(size=(2, *model.input_shape[1:])).astype("float32")
    removals = [
        (group, random.permutation(group.size)[: group.size // 2])
        for group in ChannelGraph(model).groups
        if group.size > 1
    ]

    def outputs(left=None):
        def zeroed(member):
            is_factor = factor is not None and factor in member.path
            is_input = member.axis in input_axes(member)
            return member is not left and (is_input or is_factor)

        return outputs_without(model, inputs, removals, random, zeroed)

    first = outputs()
    for _ in range(2):
        np.testing.assert_allclose(outputs(), first, rtol=1e-4, atol=1e-4)
    # Without the zeros of a member, the removed channels show.
    consumers = [
        member
        for group, _ in removals
        for member in group.members
        if member.axis in input_axes(member)
    ]
    return [np.abs(outputs(left) - first).max() for left in consumers]


# JAX compiles each call of an operation, and `test_second_opinion` runs on it.
IS_JAX = keras.backend.backend() == "jax"


@pytest.mark.parametrize("name", sorted(LAYERS)[:: 12 if IS_JAX else 1])
def test_removed_channels_of_layers_are_not_seen(name):
    factor = FACTORS.get(name)
    changes = check_that_removal_is_exact(layer_model(name), factor=factor)
    assert factor or all(change > 1e-3 for change in changes)


@pytest.mark.parametrize("seed", range(1 if IS_JAX else 6))
def test_removed_channels_of_random_graphs_are_not_seen(seed):
    changes = check_that_removal_is_exact(RandomGraph(seed).build(), seed)
    assert np.median(changes) > 1e-3

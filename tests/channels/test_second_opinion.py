"""The classes of channels are those that rules for the primitives of a jaxpr find."""

import keras
import numpy as np
import pytest
from followed_models import LAYERS, RandomGraph, layer_model

from keras_pruner import ChannelGraph

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="traces Keras' JAX backend"
)


def assert_equal_classes(model):
    from jaxpr_labels import classes_by_jaxpr, classes_of

    inputs = np.zeros((1, *model.input_shape[1:]), model.inputs[0].dtype)
    ours, theirs = classes_of(ChannelGraph(model)), classes_by_jaxpr(model, inputs)
    assert ours - theirs == set()
    assert theirs - ours == set()


# Rules of layers that no primitive shows: both directions lose units together, a mean
# of squares knows zeros, keys and values have equal sizes.
RULES = {"bidirectional", "rms_normalization", "attention", "grouped_attention"}


@pytest.mark.parametrize("name", sorted(set(LAYERS) - RULES))
def test_classes_of_layers_agree_with_their_primitives(name):
    assert_equal_classes(layer_model(name))


@pytest.mark.parametrize("seed", range(6))
def test_classes_of_random_graphs_agree_with_their_primitives(seed):
    assert_equal_classes(RandomGraph(seed).build())


@pytest.mark.parametrize("name", sorted(RULES))
def test_classes_of_primitives_lie_within_those_of_layers(name):
    from jaxpr_labels import classes_by_jaxpr, classes_of

    model = layer_model(name)
    inputs = np.zeros((1, *model.input_shape[1:]), model.inputs[0].dtype)
    ours, theirs = classes_of(ChannelGraph(model)), classes_by_jaxpr(model, inputs)
    if name == "grouped_attention":
        # Its outputs are as wide as its queries.
        pinned = ("attention_output",)
        theirs = {fine for fine in theirs if not any(p in str(fine) for p in pinned)}
    # Each class of the primitives lies within one of ours.
    assert all(any(fine <= coarse for coarse in ours) for fine in theirs)
    assert ours != theirs

"""Which kernels compute the outputs of a model, and that channels spare them."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_pruner import KerasBasePruner, PruningConfig, find_kernels
from keras_pruner.kernels import select_kernels

CHANNELS = {"pattern": "1xchannel", "target_sparsity": 0.5}


def config_of(**changes):
    return PruningConfig(**(CHANNELS | changes))


def inputs_of(*shape):
    return keras.Input(shape)


def outputs_of(model):
    """Names of the layers, without those around them, whose kernels are outputs."""
    kernels = find_kernels(model).kernels
    return [kernel.path.split("/")[-2] for kernel in kernels if kernel.is_output]


def two_heads():
    inputs = inputs_of(4)
    x = layers.Dense(8, activation="relu", name="hidden")(inputs)
    policy = layers.Softmax()(layers.Dense(3, name="policy")(x))
    return keras.Model(inputs, [policy, layers.Dense(1, name="value")(x)])


def sum_of_branches():
    inputs = inputs_of(4)
    deep = layers.Dense(1, name="deep")(layers.Dense(8, name="hidden")(inputs))
    wide = layers.Dense(1, name="wide")(inputs)
    return keras.Model(inputs, ops.sigmoid(deep + wide))


def sequential():
    last = [layers.Dense(6, name="last"), layers.Reshape((2, 3)), layers.ReLU()]
    return keras.Sequential([inputs_of(4), layers.Dense(8, name="hidden"), *last])


def unbuilt_sequential():
    model = keras.Sequential([layers.Dense(8, name="hidden"), layers.Dense(2)])
    model.layers[1].name = "last"
    model.build((None, 4))
    return model


def nested_head():
    inputs = inputs_of(4)
    inner = keras.Sequential([inputs_of(8), layers.ReLU(), layers.Dense(2, name="in")])
    return keras.Model(inputs, inner(layers.Dense(8, name="out")(inputs)))


def nested_activation():
    inputs = inputs_of(4)
    inner = keras.Sequential([inputs_of(8), layers.ReLU(), layers.Dropout(0.5)])
    return keras.Model(inputs, inner(layers.Dense(8, name="out")(inputs)))


def attention():
    inputs = inputs_of(5, 4)
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    return keras.Model(inputs, attention(inputs, inputs))


def recurrent():
    inputs = inputs_of(5, 4)
    return keras.Model(inputs, layers.LSTM(3)(inputs))


def separable():
    layer = layers.SeparableConv1D(2, 3, name="separable")
    return keras.Sequential([inputs_of(5, 4), layer])


def wrapped():
    layer = layers.TimeDistributed(layers.Dense(2, name="each"))
    return keras.Sequential([inputs_of(5, 4), layer])


def identity():
    inputs = inputs_of(4)
    return keras.Model(inputs, [layers.Dense(2, name="side")(inputs), inputs])


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (two_heads, ["policy", "value"]),
        (sum_of_branches, ["deep", "wide"]),
        (sequential, ["last"]),
        (unbuilt_sequential, ["last"]),
        (nested_head, ["in"]),
        (nested_activation, ["out"]),
        (attention, ["attention_output"]),
        (recurrent, []),
        (separable, ["separable"]),
        (wrapped, ["each"]),
        (identity, ["side"]),
    ],
)
def test_output_kernels_of_a_model(build, names):
    assert sorted(outputs_of(build())) == sorted(names)


def test_last_kernel_of_a_layer_with_two_is_its_output():
    kernels = find_kernels(separable()).kernels
    assert [k.path.split("/")[-1] for k in kernels if k.is_output] == [
        "pointwise_kernel"
    ]


def test_output_of_a_subclassed_model_is_not_known():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3, name="head")

        def call(self, x):
            return self.head(x)

    model = Subclassed()
    model(np.zeros((1, 4)))
    assert outputs_of(model) == []


def test_a_shared_nested_model_is_walked_at_each_call():
    inner = keras.Sequential([inputs_of(8), layers.ReLU()])
    inputs = inputs_of(4)
    first = inner(layers.Dense(8, name="first")(inputs))
    second = inner(layers.Dense(8, name="second")(inputs))
    model = keras.Model(inputs, [first, second])
    assert sorted(outputs_of(model)) == ["first", "second"]


def test_channels_spare_the_outputs_of_a_model():
    (selection,) = select_kernels(two_heads(), config_of())
    assert [kernel.path for kernel in selection.kernels] == ["hidden/kernel"]
    assert [skip.path for skip in selection.skipped] == [
        "policy/kernel",
        "value/kernel",
    ]
    assert selection.skipped[0].reason == (
        "pattern '1xchannel' would remove outputs of the model: to prune them too, "
        "name the layer in `include`"
    )


@pytest.mark.parametrize("pattern", ["1x1", "4x1", "channelx1", "2:4"])
def test_other_patterns_prune_the_last_kernel(pattern):
    (selection,) = select_kernels(nested_activation(), config_of(pattern=pattern))
    assert [kernel.path for kernel in selection.kernels] == ["out/kernel"]


def test_channels_take_the_outputs_that_include_names():
    config = config_of(include=["hidden", "policy"])
    (selection,) = select_kernels(two_heads(), config)
    paths = [kernel.path for kernel in selection.kernels]
    assert paths == ["hidden/kernel", "policy/kernel"]
    config = config_of(local_configs=[{"include": "value"}])
    main, local = select_kernels(two_heads(), config)
    assert [kernel.path for kernel in main.kernels] == ["hidden/kernel"]
    assert [kernel.path for kernel in local.kernels] == ["value/kernel"]


def test_model_with_outputs_only_says_how_to_prune_them():
    model = keras.Sequential([inputs_of(4), layers.Dense(6, name="only")])
    with pytest.raises(ValueError, match="only/kernel .*name the layer in `include`"):
        KerasBasePruner(CHANNELS, model)
    # A layer that you hand over yourself is asked for.
    pruner = KerasBasePruner(CHANNELS, {"fc": model.layers[0]})
    pruner.update_masks()
    assert pruner.num_pruned == 12


def test_kernel_without_weights_is_skipped():
    model = keras.Sequential([inputs_of(0), layers.Dense(3, name="a"), layers.Dense(2)])
    (skipped,) = find_kernels(model).skipped
    reason = "the kernel has no weights: an axis has size 0"
    assert (skipped.path, skipped.shape, skipped.reason) == ("a/kernel", (0, 3), reason)
    pruner = KerasBasePruner({"target_sparsity": 0.5}, model)
    assert [kernel.shape for kernel in pruner.skipped] == [(0, 3)]
    variable = keras.Variable(np.zeros((0, 4)), name="empty")
    with pytest.raises(ValueError, match=rf"x \(0, 4\): {reason}"):
        KerasBasePruner({"target_sparsity": 0.5}, {"x": variable})

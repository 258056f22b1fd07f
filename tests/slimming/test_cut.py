"""`cut` returns a plain smaller model that computes as if channels were zero."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import slow_where_compiled
from keras import layers, ops
from models_to_cut import (
    IS_JAX,
    Scale,
    Subclassed,
    model_names,
    model_of,
    randomize,
    removed_half,
    with_zeros,
)

from keras_pruner.backend import all_layers
from keras_pruner.channels import ChannelGraph
from keras_pruner.comparison import outputs_of, runnable_inputs
from keras_pruner.slimming import cut, register_cutter, verify
from keras_pruner.slimming.cutting.part import Part
from keras_pruner.slimming.cutting.rebuild import rebuild


def cut_half(model, share=0.5):
    graph = ChannelGraph(model)
    kept = graph.kept(removed_half(graph, share=share))
    return cut(model, graph, kept), kept


def check(model, smaller, kept):
    """Smaller equals zeroed, and zeroed differs from the model and over inputs."""
    zeros = with_zeros(model, kept)
    result = verify(model, smaller, values=zeros)
    assert result.reason is None
    arguments, before, _ = runnable_inputs(model)
    after = outputs_of(smaller, arguments)
    for old, new in zip(before, after, strict=True):
        assert np.abs(old - new).max() > 1e-3
        assert new.std(axis=0).max() > 1e-4


@pytest.mark.parametrize("name", model_names())
def test_half_of_every_group_is_cut_exactly(name):
    model = model_of(name)
    values = [ops.convert_to_numpy(v) for v in model.variables]
    nodes = [len(layer.get_config()) for layer in all_layers(model)]
    smaller, kept = cut_half(model)
    check(model, smaller, kept)
    assert smaller.count_params() < model.count_params()
    for variable, value in zip(model.variables, values, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(variable), value)
    assert nodes == [len(layer.get_config()) for layer in all_layers(model)]
    assert not smaller.compiled


def test_swapped_channels_are_found():
    model = model_of("residual_convolutions")
    smaller, kept = cut_half(model)
    kernel = smaller.layers[1].kernel
    kernel.assign(ops.flip(kernel, -1))
    with pytest.raises(ValueError, match="computes other outputs"):
        verify(model, smaller, values=with_zeros(model, kept))


LOAD = """
import json, sys
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
assert not any(name.startswith("keras_pruner") for name in sys.modules)
inputs = np.load(sys.argv[2])
outputs = keras.tree.flatten(model(inputs, training=False))
print(json.dumps([keras.ops.convert_to_numpy(y).tolist() for y in outputs]))
"""


@slow_where_compiled
@pytest.mark.parametrize(
    "name",
    [
        "residual_convolutions",
        pytest.param("recurrent", marks=pytest.mark.slow),
        pytest.param("chunked_qkv", marks=pytest.mark.slow),
    ],
)
def test_smaller_model_loads_without_this_package(name, tmp_path):
    model = model_of(name)
    smaller, _ = cut_half(model)
    smaller.save(tmp_path / "smaller.keras")
    ((inputs,), _), expected, _ = runnable_inputs(smaller)
    np.save(tmp_path / "inputs.npy", ops.convert_to_numpy(inputs))
    paths = [str(tmp_path / name) for name in ("smaller.keras", "inputs.npy")]
    command = [sys.executable, "-c", LOAD, *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    for one, other in zip(expected, made, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_names_policies_and_flags_stay():
    model = model_of("mixed_precision")
    model.layers[1].trainable = False
    smaller, _ = cut_half(model)
    assert [x.name for x in smaller.layers] == [x.name for x in model.layers]
    assert smaller.layers[1].dtype_policy.name == "mixed_bfloat16"
    assert [x.trainable for x in smaller.layers] == [x.trainable for x in model.layers]


@pytest.mark.parametrize(
    "name",
    ["residual_convolutions", pytest.param("recurrent", marks=pytest.mark.slow)],
)
def test_smaller_model_is_created_from_its_config_and_cut_again(name):
    model = model_of(name)
    smaller, _ = cut_half(model)
    again = keras.Model.from_config(smaller.get_config())
    again.set_weights(smaller.get_weights())
    randomize(again, seed=2)
    smallest, kept = cut_half(again, share=0.34)
    check(again, smallest, kept)
    assert smallest.count_params() < smaller.count_params()


def test_one_channel_is_left():
    model = model_of("residual_convolutions")
    graph = ChannelGraph(model)
    kept = graph.kept({g.name: range(1, g.size) for g in graph.groups})
    smaller = cut(model, graph, kept)
    verify(model, smaller, values=with_zeros(model, kept))
    assert smaller.layers[1].filters == 1


def test_nothing_removed_is_a_copy():
    model = model_of("attention")
    graph = ChannelGraph(model)
    copy = cut(model, graph, graph.kept({}))
    assert copy.count_params() == model.count_params()
    assert verify(model, copy).difference == 0


def test_subclassed_model_is_cut_in_a_copy(tmp_path):
    model = Subclassed()
    model(np.zeros((1, 6, 6, 3), "float32"))
    randomize(model)
    smaller, kept = cut_half(model)
    check(model, smaller, kept)
    assert smaller.stem.filters == 4
    assert type(smaller) is Subclassed
    smaller.compile("sgd", "mse")
    smaller.fit(np.zeros((4, 6, 6, 3)), np.zeros((4, 3)), verbose=0)
    smaller.save_weights(tmp_path / "w.weights.h5")
    smaller.load_weights(tmp_path / "w.weights.h5")


class Fixed(layers.Layer):
    """Has a size that its config does not say."""

    def build(self, input_shape):
        self.gain = self.add_weight(shape=(8,), name="gain")

    def call(self, x):
        return x * self.gain


def test_layer_whose_config_says_no_size_is_named():
    inputs = keras.Input((5,))
    x = Fixed(name="fixed")(layers.Dense(8)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ValueError, match="'fixed' \\(Fixed\\).*register_cutter"):
        cut_half(model)


def test_registered_cutter_is_used():
    class Own(Scale):
        def __init__(self, size="8", **kwargs):
            super().__init__(int(size), **kwargs)

        def get_config(self):
            config = layers.Layer.get_config(self)
            return config | {"size": str(self.width)}

    @register_cutter(Own)
    def cut_own(layer, part):
        return {"size": str(part.shapes(layer)["gain"][0])}

    inputs = keras.Input((5,))
    x = Own(name="own")(layers.Dense(8)(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    randomize(model)
    smaller, kept = cut_half(model)
    check(model, smaller, kept)
    assert smaller.get_layer("own").width == 4


class HandMade:
    """Says which indices stay, by the names of layers and variables."""

    def __init__(self, model, kept):
        self._kept = {
            id(variable): kept.get(f"{layer.name}/{variable.name}")
            for layer in model.layers
            for variable in layer.variables
        }

    def indices(self, variable):
        return self._kept[id(variable)] or (None,) * len(variable.shape)


def test_normalization_by_root_mean_square_is_scaled():
    inputs = keras.Input((5,))
    x = layers.Dense(8, name="a")(inputs)
    x = layers.RMSNormalization(epsilon=0.1, name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2, name="b")(x))
    randomize(model)
    stays = np.array([0, 2, 3, 7])
    kept = HandMade(
        model,
        {
            "a/kernel": (None, stays),
            "a/bias": (stays,),
            "norm/scale": (stays,),
            "b/kernel": (stays, None),
        },
    )
    smaller = rebuild(model, Part(kept))
    check(model, smaller, kept)
    assert smaller.get_layer("norm").epsilon == pytest.approx(0.2)


def test_one_channel_of_each_group_is_removed():
    model = model_of("normalized_groups")
    graph = ChannelGraph(model)
    kept = graph.kept({group.name: [1] for group in graph.groups})
    smaller = cut(model, graph, kept)
    check(model, smaller, kept)


def test_branch_of_another_output_is_not_needed():
    whole = model_of("one_split_used_by_several")
    model = keras.Model(whole.input, whole.outputs[0])
    smaller, kept = cut_half(model)
    check(model, smaller, kept)
    assert len(smaller.outputs) == 1


@pytest.mark.skipif(IS_JAX, reason="takes a minute; runs on two other backends")
def test_model_of_applications_is_cut():
    model = keras.applications.MobileNetV3Small(
        (32, 32, 3), alpha=0.35, minimalistic=True, weights=None, classes=3
    )
    randomize(model)
    smaller, kept = cut_half(model)
    verify(model, smaller, values=with_zeros(model, kept))
    assert smaller.count_params() < 0.4 * model.count_params()


def test_shape_that_a_lambda_says_gets_smaller():
    inputs = keras.Input((5,))
    x = layers.Dense(8, name="hidden")(inputs)
    x = layers.Lambda(lambda x: 2 * x, output_shape=(8,))(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    randomize(model)
    smaller, kept = cut_half(model)
    assert smaller.get_layer("hidden").units == 4
    check(model, smaller, kept)

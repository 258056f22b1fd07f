"""`PruneLowMagnitude`: what it takes, its variables, configs and files."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_pruner import find_kernels
from keras_pruner.compat import tfmot
from keras_pruner.compat.tfmot.pruning_wrapper import collect_prunable_layers

tk = tfmot.sparsity.keras
Prune = tk.PruneLowMagnitude


class Affine(layers.Layer):
    def __init__(self, inputs=16, outputs=32, **kwargs):
        super().__init__(**kwargs)
        self.weight = self.add_weight(shape=(inputs, outputs), name="weight")
        self.bias = self.add_weight(shape=(outputs,), name="bias")

    def call(self, x):
        return ops.matmul(x, self.weight) + self.bias


class PrunableAffine(Affine):
    def get_prunable_weights(self):
        return [self.weight, self.bias]


def sequential(shape, *members):
    return keras.Sequential([keras.Input(shape), *members])


def count_masks(model):
    return sum(len(layer.pruning_vars) for layer in model.layers)


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_pooling_types(pooling):
    assert Prune(layers.Dense(4), block_pooling_type=pooling).block_size == (1, 1)
    with pytest.raises(ValueError, match=r"pooling type.*'MIN'"):
        Prune(layers.Dense(4), block_pooling_type="MIN")


@pytest.mark.parametrize(
    "pair", [3, (2,), (2, 4, 4), ("2", "4"), (2.0, 4.0), "24", (0, 4)]
)
def test_a_pair_is_two_integers(pair):
    with pytest.raises(ValueError, match="sparsity_m_by_n"):
        Prune(layers.Dense(4), sparsity_m_by_n=pair)
    with pytest.raises(ValueError, match="block_size"):
        Prune(layers.Dense(4), block_size=pair)


def test_m_is_less_than_n():
    with pytest.raises(ValueError, match="1 <= n < m"):
        Prune(layers.Dense(4), sparsity_m_by_n=(4, 4))


def test_no_layer_is_refused():
    with pytest.raises(ValueError, match="You passed: 'dense'"):
        Prune("dense")


@pytest.mark.parametrize(
    ("layer", "shape", "count"),
    [
        (layers.Dense(10), (1,), 1),
        (layers.Conv2D(4, (3, 3)), (16, 16, 4), 1),
        (layers.Embedding(10, 10), (10,), 1),
        (layers.SeparableConv2D(4, 2), (4, 6, 3), 1),
        (layers.DepthwiseConv2D(3), (6, 6, 2), 0),
        (layers.LSTM(3), (4, 2), 2),
        (layers.Dropout(0.4), (3,), 0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_masks_of_a_layer(layer, shape, count):
    wrapper = Prune(layer)
    assert wrapper.pruning_vars == []
    model = sequential(shape, wrapper)
    assert count_masks(model) == count
    for weight, mask, threshold in wrapper.pruning_vars:
        assert tuple(mask.shape) == tuple(weight.shape)
        assert np.mean(ops.convert_to_numpy(mask)) == 1
        assert np.shape(ops.convert_to_numpy(threshold)) == ()
    assert int(ops.convert_to_numpy(wrapper.pruning_step)) == -1


def test_threshold_is_the_least_magnitude_that_is_left():
    wrapper = Prune(layers.Dense(2, name="dense"))
    wrapper.build((None, 2))
    wrapper.layer.kernel.assign([[1.0, -2.0], [3.0, 4.0]])
    _, mask, _ = wrapper.pruning_vars[0]
    mask.assign([[False, True], [True, True]])
    weight, _, threshold = wrapper.pruning_vars[0]
    assert ops.convert_to_numpy(threshold) == 2
    assert ops.convert_to_numpy(weight).tolist() == [[0, -2], [3, 4]]


def conv_net():
    return sequential(
        (28, 28, 1),
        Prune(layers.Conv2D(4, 5)),
        Prune(layers.MaxPooling2D((2, 2), (2, 2))),
        Prune(layers.Conv2D(8, 5)),
        Prune(layers.Flatten()),
        Prune(layers.Dense(16)),
        Prune(layers.Dropout(0.4)),
        Prune(layers.Dense(10)),
    )


def test_a_model_of_wrappers_has_an_equal_copy():
    model = conv_net()
    assert count_masks(model) == 4
    config = model.get_config()
    copy = keras.Sequential.from_config(
        config, custom_objects={"PruneLowMagnitude": Prune}
    )
    assert copy.get_config() == config
    assert [type(layer) for layer in copy.layers] == [Prune] * 7


def test_a_wrapper_has_an_equal_copy():
    schedule = tk.PolynomialDecay(0.1, 0.7, 2, 9, 4, 3)
    wrapper = Prune(layers.Dense(3, name="d"), schedule, (2, 1), "MAX")
    copy = Prune.from_config(wrapper.get_config())
    assert vars(copy.pruning_schedule) == vars(schedule)
    assert copy.name == "prune_low_magnitude_d"
    assert (copy.block_size, copy.block_pooling_type) == ((2, 1), "MAX")
    assert copy.pruning_config == wrapper.pruning_config
    assert Prune.from_config(
        Prune(layers.Dense(8), sparsity_m_by_n=[2, 4]).get_config()
    ).sparsity_m_by_n == (2, 4)


def test_a_custom_layer_needs_the_method():
    layer = Affine()
    layer(keras.Input((16,)))
    with pytest.raises(ValueError, match="get_prunable_weights"):
        Prune(layer, block_pooling_type="MAX")


def test_a_custom_layer_with_the_method_is_wrapped():
    layer = PrunableAffine(name="affine")
    layer(keras.Input((16,)))
    wrapper = Prune(layer, block_pooling_type="MAX")
    assert wrapper.name == "prune_low_magnitude_affine"
    # One-dimensional weights too, if a layer names them.
    assert [tuple(mask.shape) for _, mask, _ in wrapper.pruning_vars] == [
        (16, 32),
        (32,),
    ]


def test_the_engine_finds_the_weights_of_a_prunable_layer():
    class Own(layers.Dense, tk.PrunableLayer):
        def get_prunable_weights(self):
            return [self.kernel]

    model = sequential((4,), Own(3, name="own"))
    assert [kernel.path for kernel in find_kernels(model).kernels] == ["own/kernel"]


def test_wrappers_are_collected_through_nesting():
    inner = sequential((3,), Prune(layers.Dense(3)))
    model = sequential((2, 4), Prune(layers.LSTM(3)), inner, Prune(layers.Dropout(0.5)))
    assert len(collect_prunable_layers(model)) == 3


def test_weights_without_the_right_axes_have_no_n_of_m_mask():
    layer = layers.Conv3D(2, 3)
    layer(keras.Input((28, 28, 28, 4)))
    assert Prune(layer, sparsity_m_by_n=(2, 4)).pruning_vars == []
    assert len(Prune(layers.Dense(2), sparsity_m_by_n=(2, 4)).pruning_vars) == 0
    wrapper = Prune(layers.Dense(2), sparsity_m_by_n=(2, 4))
    wrapper.build((None, 8))
    assert len(wrapper.pruning_vars) == 1


@pytest.mark.parametrize("is_built", [True, False])
def test_blocks_need_two_axes(is_built):
    layer = layers.Conv1D(4, 2)
    if is_built:
        layer.build((None, 6, 4))
    with pytest.raises(ValueError, match="2 axes"):
        Prune(layer, block_size=(2, 2)).build((None, 6, 4))


def test_weights_of_the_wrapper_are_those_of_the_layer():
    wrapper = Prune(layers.Dense(2))
    wrapper.build((None, 3))
    new = [np.ones((3, 2), "float32"), np.ones(2, "float32")]
    wrapper.set_weights(new)
    for old, value in zip(new, wrapper.get_weights(), strict=True):
        np.testing.assert_array_equal(old, value)
    assert wrapper.trainable_weights == wrapper.layer.trainable_weights
    wrapper.trainable = False
    assert not wrapper.layer.trainable


@pytest.mark.filterwarnings("ignore:Do not pass an `input_shape`")
@pytest.mark.parametrize("place", ["wrapper", "layer"])
def test_an_input_shape_builds_the_model(place):
    inner = {"input_shape": (3,)} if place == "layer" else {}
    outer = {"input_shape": (3,)} if place == "wrapper" else {}
    layer = tk.prune_low_magnitude(layers.Dense(2, **inner), **outer)
    model = keras.Sequential([layer])
    assert model.built
    assert model.input_shape == (None, 3)

"""`strip` compares its copy with the model."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, value_of
from keras import layers

from keras_pruner import strip, wrap


class Forgetful(layers.Layer):
    """Adds a number that neither its config nor its weights hold."""

    offset = 0.0

    def call(self, x):
        return x + self.offset


def forgetful_model():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.ReLU(),
            Forgetful(name="forgetful"),
            layers.Dense(2, kernel_initializer="ones", name="dense"),
        ]
    )
    model.layers[1].offset = 0.5
    return model


@pytest.mark.parametrize("make", [strip, wrap])
def test_copy_with_other_outputs_is_an_error(make):
    model = forgetful_model()
    before = [value_of(v) for v in model.variables]
    with pytest.raises(
        ValueError,
        match=r"differ by up to 1\.5,.*'forgetful' \(Forgetful\).*`check=False`",
    ):
        make(model)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)
    assert len(make(model, check=False).layers) == 3


@pytest.mark.parametrize("make", [strip, wrap])
def test_copy_is_compared_on_given_inputs(make):
    class OnNegatives(Forgetful):
        def call(self, x):
            return x + self.offset * (value_of(x).min() < -5)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    model = keras.Sequential([keras.Input((3,)), OnNegatives(), layers.Dense(2)])
    model.layers[0].offset = 1.0
    make(model)
    with pytest.raises(ValueError, match="computes other outputs"):
        make(model, inputs=np.full((1, 3), -9, "float32"))
    with pytest.raises(ValueError, match="cannot run on the given `inputs`"):
        make(model, inputs=np.zeros((1, 4), "float32"))


def test_normalization_of_efficientnet_is_kept():
    # Its weights are random, so its statistics are set by hand.
    model = keras.applications.EfficientNetB0(
        weights=None, input_shape=(32, 32, 3), classes=2
    )
    norm = model.get_layer("normalization")
    norm.adapt_mean.assign([0.5, 0.4, 0.3])
    norm.adapt_variance.assign([0.05, 0.06, 0.07])
    norm.finalize_state()
    inputs = model.layers[0].output
    front = keras.Model(inputs, layers.Conv2D(2, 3)(norm.output))
    x = np.random.default_rng(0).random((2, 32, 32, 3)).astype("float32") * 255
    expected = value_of(front(x))
    np.testing.assert_array_equal(value_of(strip(front)(x)), expected)
    np.testing.assert_array_equal(value_of(wrap(front)(x)), expected)


@pytest.mark.skipif(BACKEND != "torch", reason="torch modules need torch")
def test_torch_module_is_compared_on_given_inputs():
    import torch

    class Copied(torch.nn.Linear):
        def __deepcopy__(self, memo):
            torch.manual_seed(len(memo))
            return Copied(self.in_features, self.out_features)

    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Dropout())
    x = torch.ones((2, 3))
    plain = strip(module, inputs=x)
    assert module.training and plain.training
    module.append(Copied(4, 2))
    strip(module)
    with pytest.raises(ValueError, match="copy of Sequential computes other outputs"):
        strip(module, inputs=x)
    strip(module, inputs=(x,), check=False)


def test_copy_of_a_pruned_model_is_compared_with_its_masks():
    wrapped = wrap(build_mlp(), {"target_sparsity": 0.5})
    for layer in wrapped.layers:
        for mask in layer.masks.values():
            mask.assign(np.arange(np.prod(mask.shape)).reshape(mask.shape) % 2 == 0)
    plain = strip(wrapped)
    assert (value_of(plain.layers[0].kernel) == 0).mean() == 0.5

"""What `sample_inputs` decide: types and names of a file's inputs, and its check."""

import keras
import numpy as np
import pytest
from conftest import build_mlp, value_of
from keras import layers

from keras_pruner import export
from keras_pruner.exporting.samples import Samples

X = np.random.default_rng(0).normal(size=(6, 16)).astype("float32")


@pytest.mark.parametrize("dtype", ["float64", "int64", "float16", "uint8"])
def test_samples_have_the_type_of_the_model_s_input(dtype):
    samples = Samples.of(build_mlp(), X.astype(dtype))
    assert {str(x.dtype) for x in samples.feeds.values()} == {"float32"}
    assert samples.signature[0].dtype == "float32"


class Scores(keras.Model):
    def __init__(self):
        super().__init__()
        self.user, self.item = layers.Dense(3), layers.Dense(3)

    def call(self, inputs):
        return self.user(inputs["user"]) - self.item(inputs["item"])


def test_a_dict_of_inputs_names_those_of_a_subclassed_model():
    model, inputs = Scores(), {"user": X, "item": 2.0 * X.astype("float64")}
    model(inputs)
    samples = Samples.of(model, inputs)
    assert samples.names == ["item", "user"]
    np.testing.assert_array_equal(samples.feeds["item"], 2 * X)
    assert samples.feeds["item"].dtype == "float32"


@pytest.mark.parametrize(
    "given, message",
    [
        (X[:0], "`sample_inputs` is empty"),
        (X * np.nan, "`sample_inputs` holds NaN"),
        ((X, X[:, :3]), "takes 1 inputs. Received: 2 arrays.*Labels are no inputs"),
    ],
)
def test_samples_that_show_nothing_are_errors(given, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(build_mlp(), tmp_path / "model.keras", sample_inputs=given)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="writes by it")
def test_layers_that_augment_by_default_do_not_in_a_file(tmp_path):
    import tensorflow as tf

    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    parts = layers.RandomFlip("horizontal"), layers.Conv2D(4, 3), layers.Flatten()
    model = keras.Sequential([keras.Input((8, 8, 3)), *parts])
    report = export(model, tmp_path / "model", sample_inputs=images)
    assert report.input_shapes == {"input_0": (None, 8, 8, 3)}
    loaded = tf.saved_model.load(tmp_path / "model")
    expected = model(images, training=False)
    for _ in range(4):
        made = loaded.serve(images)
        np.testing.assert_allclose(value_of(made), value_of(expected), atol=1e-5)

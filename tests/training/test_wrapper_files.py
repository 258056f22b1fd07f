"""Every file format keeps a wrapped model: its weights, also pruned ones, and masks."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, value_of
from keras import layers

from keras_pruner import PrunedLayer, strip, wrap
from keras_pruner.kernels import find_wrapped

on_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow only")


def build():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(9, 8, name="table")(inputs)
    x = layers.Conv1D(8, 3, kernel_regularizer="l2", name="conv")(x)
    x = layers.Bidirectional(layers.LSTM(4), name="rnn")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def wrapped_model(seed=0):
    # So that both models have equal names.
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    types = ["Embedding", "Conv1D", "LSTMCell", "Dense"]
    model = wrap(build(), layer_types=types)
    for wrapper in find_wrapped(model):
        for number, mask in enumerate(wrapper.masks.values()):
            keep = np.random.default_rng(seed + number).random(mask.shape) < 0.5
            mask.assign(keep)
    return model


DATA = np.random.default_rng(1).integers(0, 9, (3, 6))


def predict(model):
    return model.predict(DATA, verbose=0)


def assert_same(loaded, model):
    assert len(loaded.weights) == len(model.weights) == 18
    for one, other in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(value_of(one), value_of(other))
    np.testing.assert_allclose(predict(loaded), predict(model), atol=1e-6)


@pytest.mark.parametrize("form", ["keras", "weights.h5", "h5", "weights"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file")
def test_keras_files_keep_weights_and_masks(form, tmp_path):
    model, loaded = wrapped_model(), wrapped_model(1)
    assert np.abs(predict(model) - predict(loaded)).max() > 1e-3
    path = str(tmp_path / f"model.{form}")
    if form in ("keras", "h5"):
        model.save(path)
        loaded = keras.models.load_model(path)
    elif form == "weights.h5":
        model.save_weights(path)
        loaded.load_weights(path)
    else:
        loaded.set_weights(model.get_weights())
    assert_same(loaded, model)
    # An old weight comes back with its mask.
    wrapper = loaded.get_layer("pruned_out")
    wrapper.masks["out/kernel"].assign(np.ones((8, 2), bool))
    assert (value_of(wrapper.kernel) != 0).all()


@on_tensorflow
def test_tensorflow_checkpoint_keeps_masks(tmp_path):
    import tensorflow as tf

    model, loaded = wrapped_model(), wrapped_model(1)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "checkpoint"))
    status = tf.train.Checkpoint(model=loaded).restore(path)
    status.assert_consumed()
    assert_same(loaded, model)
    names = [name for name, _ in tf.train.list_variables(path)]
    assert sum("mask_" in name for name in names) == len(masks(model)) == 7


def masks(model):
    return [mask for wrapper in find_wrapped(model) for mask in wrapper.masks.values()]


@on_tensorflow
@pytest.mark.parametrize("how", ["export", "saved_model"])
@pytest.mark.filterwarnings("ignore")
def test_saved_model_computes_with_masks(how, tmp_path):
    import tensorflow as tf

    model = wrapped_model()
    if how == "export":
        model.export(str(tmp_path), verbose=False)
        loaded = tf.saved_model.load(str(tmp_path))
        outputs = loaded.serve(tf.constant(DATA, "int32"))
    else:
        tf.saved_model.save(model, str(tmp_path))
        loaded = tf.saved_model.load(str(tmp_path))
        outputs = loaded.signatures["serving_default"](tf.constant(DATA, "int32"))
    outputs = next(iter(outputs.values())) if isinstance(outputs, dict) else outputs
    np.testing.assert_allclose(outputs.numpy(), predict(model), atol=1e-6)


@on_tensorflow
def test_wrapped_model_assigns_nothing_at_inference_and_freezes():
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    model = wrapped_model()
    function = tf.function(lambda x: model(x, training=False))
    concrete = function.get_concrete_function(tf.TensorSpec((None, 6), "int32"))
    graphs = [concrete.graph.as_graph_def()]
    nodes = [node for graph in graphs for node in graph.node]
    nodes += [n for graph in graphs for f in graph.library.function for n in f.node_def]
    assert not [node.name for node in nodes if "Assign" in node.op]
    frozen = convert_variables_to_constants_v2(concrete)
    (outputs,) = frozen(tf.constant(DATA, "int32"))
    np.testing.assert_allclose(outputs.numpy(), predict(model), atol=1e-6)


@on_tensorflow
@pytest.mark.filterwarnings("ignore")
def test_lite_model_computes_with_masks():
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = wrap(keras.Sequential([keras.Input((8,)), layers.Dense(4)]))
    (mask,) = masks(model)
    mask.assign(np.arange(32).reshape(8, 4) % 2 == 0)
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    interpreter = tf.lite.Interpreter(model_content=content)
    interpreter.allocate_tensors()
    x = np.ones((1, 8), "float32")
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.skipif(BACKEND != "torch", reason="torch only")
def test_torch_state_dict_and_export_keep_masks():
    import torch

    model = wrapped_model()
    loaded = wrapped_model(1)
    loaded.load_state_dict(model.state_dict())
    assert_same(loaded, model)
    program = torch.export.export(model, (torch.tensor(DATA),), strict=False)
    found = program.module()(torch.tensor(DATA)).detach().numpy()
    np.testing.assert_allclose(found, predict(model), atol=1e-6)


@pytest.mark.filterwarnings("ignore:Layer InputLayer does not have")
def test_wrapped_layer_refuses_to_be_quantized_and_plain_model_does_not():
    layer = PrunedLayer(layers.Dense(8, name="dense"))
    model = keras.Sequential([keras.Input((8,)), layer])
    layer.masks["dense/kernel"].assign(np.eye(8, dtype=bool))
    before = [value_of(v) for v in model.variables]
    for change in (
        lambda: model.quantize("int8"),
        lambda: layer.layer.quantize("float8"),
        lambda: layer.quantize("int8"),
        lambda: layer.enable_lora(2),
    ):
        with pytest.raises(ValueError, match="'dense' is in a PrunedLayer.*strip"):
            change()
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)
    plain = strip(model)
    plain.quantize("int8")
    x = np.ones((2, 8), "float32")
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), model.predict(x, verbose=0), atol=0.05
    )


def test_quantized_layer_cannot_be_wrapped():
    layer = layers.Dense(8, name="dense")
    layer.build((None, 8))
    layer.quantize("int8")
    with pytest.raises(ValueError, match="is quantized.*prune before `quantize`"):
        PrunedLayer(layer).build((None, 8))

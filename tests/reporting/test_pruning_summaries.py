"""The sparsities that `PruningSummaries` writes for TensorBoard."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_pruner import PrunedLayer, PruningCallback, PruningSummaries
from keras_pruner.reporting.pruning_summaries import _sparsities


def written(model, folder, callbacks=(), epochs=1):
    """Trains a model and returns what is written: a list of values for each name."""
    tf = pytest.importorskip("tensorflow")
    pytest.importorskip("tensorboard")
    model.compile("sgd", "mse", jit_compile=False)
    x = np.ones((4, *model.input_shape[1:]), "int32")
    y = np.zeros((4, *model.output_shape[1:]), "float32")
    callbacks = [*callbacks, PruningSummaries(str(folder))]
    model.fit(x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks)
    found = {}
    for file in (folder / "train").iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for item in event.summary.value:
                if item.tag.startswith("sparsity/"):
                    values = found.setdefault(item.tag.removeprefix("sparsity/"), [])
                    values.append(float(tf.make_ndarray(item.tensor)))
    return found


def word_model(embedding):
    """6 x 4 embeddings of a word, and a 4 x 2 head: 24 and 8 weights."""
    return keras.Sequential(
        [
            layers.Input((1,), dtype="int32"),
            embedding,
            layers.Flatten(),
            layers.Dense(2, name="head"),
        ]
    )


def test_weights_are_counted_as_the_masks_of_a_wrapper_leave_them(tmp_path):
    model = keras.Sequential(
        [
            layers.Input((4,)),
            PrunedLayer(layers.Dense(4, name="a")),
            layers.Dense(2, name="b"),
        ]
    )
    model.layers[0].masks["a/kernel"].assign(np.eye(4, dtype=bool))
    # 12 of 16 weights are masked and not zero; the other kernel has 8.
    assert (keras.ops.convert_to_numpy(model.trainable_weights[0]) != 0).all()
    sparsities = written(model, tmp_path)
    assert sparsities == {
        "a/kernel": [0.75],
        "b/kernel": [0.0],
        "all": [0.5],
    }


def test_embeddings_that_a_wrapper_masks_count(tmp_path):
    embedding = layers.Embedding(6, 4, name="words")
    model = word_model(PrunedLayer(embedding, {"layer_types": "Embedding"}))
    # A mask that prunes nothing yet.
    assert written(model, tmp_path) == {
        "words/embeddings": [0.0],
        "head/kernel": [0.0],
        "all": [0.0],
    }


def test_embeddings_count_once_they_have_zeros(tmp_path):
    model = word_model(layers.Embedding(6, 4, name="words"))
    assert written(model, tmp_path / "dense") == {"head/kernel": [0.0], "all": [0.0]}
    pruning = PruningCallback(
        target_sparsity=0.5,
        begin_step=1,
        end_step=1,
        allocation="uniform",
        layer_types=["Embedding", "Dense"],
        verbose=False,
    )
    sparsities = written(model, tmp_path / "pruned", [pruning], epochs=2)
    assert sparsities == {
        "words/embeddings": [0.5, 0.5],
        "head/kernel": [0.5, 0.5],
        "all": [0.5, 0.5],
    }


def test_masks_of_one_bit_are_read(tmp_path):
    config = {"mask_bits": 1, "target_sparsity": 0.5, "begin_step": 0, "end_step": 0}
    model = keras.Sequential(
        [layers.Input((8,)), PrunedLayer(layers.Dense(4, name="a"), config)]
    )
    pruning = PruningCallback(verbose=False)
    assert written(model, tmp_path, [pruning]) == {"a/kernel": [0.5], "all": [0.5]}


@pytest.mark.parametrize("mode", [None, "int8"])
def test_kernels_under_lora_and_quantized_ones_are_counted(mode):
    model = keras.Sequential([layers.Input((4,)), layers.Dense(4, name="a")])
    (layer,) = model.layers
    layer.kernel.assign(np.eye(4))
    if mode:
        layer.quantize(mode)
        assert _sparsities(model) == {"a/kernel": 0.75, "all": 0.75}
    layer.enable_lora(1)
    assert _sparsities(model) == {"a/kernel": 0.75, "all": 0.75}
    layer.lora_kernel_b.assign([[1, 1, 0, 0]])
    assert _sparsities(model) == {"a/kernel": 6 / 16, "all": 6 / 16}


def test_kernels_without_weights_are_left_out():
    model = keras.Sequential([layers.Input((0,)), layers.Dense(2, name="a")])
    assert _sparsities(model) == {}
    model.add(layers.Dense(2, name="b"))
    model.layers[1].kernel.assign(np.eye(2))
    assert _sparsities(model) == {"b/kernel": 0.5, "all": 0.5}

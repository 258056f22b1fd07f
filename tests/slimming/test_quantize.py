"""`quantize` keeps the zeros of a pruned model in every mode of Keras."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, slow_where_compiled, value_of
from keras import layers, ops, quantizers

from keras_pruner import find_kernels, quantize, report, strip, wrap

WORDS, WIDTH, LENGTH = 16, 8, 4
# Keras 3.12 has neither blocks of int4, nor AWQ, nor structures in a config.
IS_NEW = hasattr(quantizers, "AWQConfig")
new_keras = pytest.mark.skipif(not IS_NEW, reason="this Keras has no mode for it")
MODES = ["int8", "int4", "float8", "gptq"] + [
    pytest.param(mode, marks=new_keras) for mode in ("int4 in blocks", "awq")
]


class Letters:
    """A tokenizer for GPTQ: one token a letter."""

    def tokenize(self, text):
        return np.array([ord(letter) % WORDS for letter in text])


def language_model():
    """An embedding, two blocks of two dense layers each, and a head: half zeros."""
    words = layers.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(WORDS, WIDTH, name="words")(words)
    for name in ("block_0", "block_1"):
        parts = [layers.Dense(16, "relu", name="wide"), layers.Dense(8, name="narrow")]
        x = keras.Sequential(parts, name=name)(x)
    model = keras.Model(words, layers.Dense(WORDS, name="head")(x))
    generator = np.random.default_rng(0)
    for kernel in find_kernels(model).kernels:
        shape = kernel.variable.shape
        kernel.variable.assign(
            generator.normal(size=shape) * (generator.random(shape) < 0.5)
        )
    return model


def settings(model, mode):
    """Arguments of `quantize` for a mode."""
    name, *blocks = mode.split(" in ")
    if blocks:
        return {"config": quantizers.Int4QuantizationConfig(block_size=4)}
    if name not in ("gptq", "awq"):
        return {"mode": name}
    values = {
        "dataset": ["the quick brown fox jumps over the lazy dog " * 4],
        "tokenizer": Letters(),
        "num_samples": 8,
        "sequence_length": LENGTH,
        "group_size": 4,
    }
    if IS_NEW:
        blocks = [model.get_layer("block_0"), model.get_layer("block_1")]
        values["quantization_layer_structure"] = {
            "pre_block_layers": [model.get_layer("words")],
            "sequential_blocks": blocks,
        }
    make = quantizers.GPTQConfig if name == "gptq" else quantizers.AWQConfig
    return {"mode": name, "config": make(**values)}


def kernels_computed_with(model):
    """Returns the kernels of the dense layers of the blocks, as they are applied."""
    found = []
    for name in ("block_0", "block_1"):
        for layer in model.get_layer(name).layers:
            outputs = layer.bias.shape[0]
            inputs = WIDTH if outputs == 16 else 16
            identity = ops.eye(inputs)
            activation, layer.activation = layer.activation, None
            found.append(value_of(layer(identity)) - value_of(layer.bias))
            layer.activation = activation
    return found


def zeros_in(model):
    return [value == 0 for value in kernels_computed_with(model)]


@pytest.mark.parametrize("mode", MODES)
def test_zeros_are_kept_and_the_model_does_not_change(mode):
    model = language_model()
    before, weights = zeros_in(model), model.get_weights()
    small, found = quantize(model, **settings(model, mode))
    for old, new in zip(before, zeros_in(small), strict=True):
        assert np.all(new[old])
    assert model.layers[-1].quantization_mode is None
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert (
        found.zeros
        >= found.zeros_before
        == sum(z.sum() for z in before)
        + sum(row.zeros_before for row in found.kernels if row.path.startswith("head"))
    )
    assert found.refilled == 0
    # A report of the quantized model counts the same.
    shown = {row.path: row.zeros for row in report(small).kernels if row.zeros}
    for row in found.kernels:
        if row.mode is not None and row.zeros:
            assert shown[row.path] == row.zeros


@slow_where_compiled
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_that_gptq_fills_are_set_again(bits, monkeypatch):
    # Keras' GPTQ collects no inputs, because it looks for calls of `call`, which a
    # layer that waits for calibration does not make. Here it makes them.
    quantized_call = layers.Layer.quantized_call

    def call(self, *args, **kwargs):
        if getattr(self, "is_gptq_calibrated", True):
            return quantized_call(self, *args, **kwargs)
        return self.call(*args, **kwargs)

    monkeypatch.setattr(layers.Dense, "quantized_call", call)
    model = language_model()
    before = zeros_in(model)
    arguments = settings(model, "gptq")
    # Keras' GPTQ of groups computes far-off kernels once it has inputs.
    arguments["config"].weight_bits = bits
    arguments["config"].group_size = -1
    small, found = quantize(model, **arguments)
    for old, new in zip(before, zeros_in(small), strict=True):
        assert np.all(new[old])
    assert found.refilled > 0
    assert f"had filled {found.refilled:,} zeros" in found.to_text()
    assert bits == 2 or found.output_error < 0.1


def test_report_says_what_is_quantized_and_how_far_outputs_move():
    model = language_model()
    small, found = quantize(model, "float8")
    rows = {row.path: row for row in found.kernels}
    assert rows["head/kernel"].mode == "float8"
    assert rows["words/embeddings"].mode is None
    assert "Keras did not quantize this Embedding" in found.to_text()
    assert found.headline.startswith("quantize: 5 of 6 kernels are float8; all ")
    small, found = quantize(model, "int8")
    assert found.bytes_after < 0.5 * found.bytes_before
    totals = found.totals()
    assert totals["bytes_after"] == found.bytes_after
    assert totals["zeros"] == sum(row["zeros"] for row in found.rows())
    assert 0 < found.output_error < 0.01
    assert found.rows()[0]["sparsity"] == found.kernels[0].sparsity


def test_only_layers_that_a_filter_matches_are_quantized():
    if not IS_NEW:
        pytest.skip("this Keras has no filters")
    model = language_model()
    small, found = quantize(model, "int8", filters="head")
    modes = {row.path: row.mode for row in found.kernels}
    assert modes.pop("head/kernel") == "int8" and set(modes.values()) == {None}
    with pytest.raises(ValueError, match="quantized no kernel of .*mode='int8'"):
        quantize(model, "int8", filters="nothing")


@slow_where_compiled
@pytest.mark.parametrize("mode", ["int8", "gptq"])
def test_wrapped_model_is_quantized_without_its_wrappers(mode):
    model = language_model()
    wrapped = wrap(model, include="block_.*", target_sparsity=0.5)
    mask = wrapped.get_layer("block_0").layers[0].masks["wide/kernel"]
    mask.assign(np.zeros(mask.shape, bool))
    small, found = quantize(wrapped, **settings(wrapped, mode))
    assert np.all(zeros_in(small)[0])
    assert not [x for x in small.get_layer("block_0").layers if hasattr(x, "mask_of")]


@slow_where_compiled
def test_quantized_copy_can_be_saved_and_stripped(tmp_path):
    small, _ = quantize(language_model(), "int4")
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    for copy in (loaded, strip(small)):
        for old, new in zip(zeros_in(small), zeros_in(copy), strict=True):
            np.testing.assert_array_equal(old, new)


def test_layer_of_another_model_in_the_structure_is_an_error():
    if not IS_NEW:
        pytest.skip("this Keras finds the structure itself")
    model = language_model()
    with pytest.raises(ValueError, match="is no layer of 'functional.*given model"):
        quantize(model, **settings(language_model(), "gptq"))
    assert model.layers[-1].quantization_mode is None


def test_zeros_that_cannot_be_set_again_are_an_error(monkeypatch):
    # A layer that computes its kernel from integers in a way of its own.
    from keras_pruner.kernels import quantized

    monkeypatch.setattr(
        quantized.Integers, "stored", lambda self, _: np.ones(self.shape, self.dtype)
    )
    monkeypatch.setattr(
        layers.Dense,
        "quantize",
        lambda self, mode, **_: _quantize_to_ones(self),
    )
    model = keras.Sequential([layers.Input((4,)), layers.Dense(3, name="dense")])
    model.layers[0].kernel.assign(np.eye(4, 3))
    with pytest.raises(ValueError, match="9 zeros of 'dense/kernel' were lost"):
        quantize(model, "int8")


def _quantize_to_ones(layer):
    layer.quantization_mode_is = "int8"
    del layer._kernel
    layer.quantized_build((4, 3), "int8")
    layer._kernel.assign(np.ones((4, 3), "int8"))
    layer.dtype_policy = keras.dtype_policies.get("int8_from_float32")


def test_what_is_no_keras_model_is_an_error():
    with pytest.raises(TypeError, match="Expected a Keras model"):
        quantize(layers.Dense(3), "int8")
    if BACKEND == "torch":
        import torch

        with pytest.raises(TypeError, match="takes Keras models"):
            quantize(torch.nn.Linear(2, 2), "int8")

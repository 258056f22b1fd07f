"""The zeros that a report counts in kernels that a quantizer, LoRA or a user holds.

A layer without bias that is called on the identity returns the kernel it computes with.
"""

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import layers, ops
from keras.quantizers import pack_int4

from keras_pruner import PrunedLayer, report

pytestmark = pytest.mark.filterwarnings("ignore:Layer InputLayer does not have a `qu")
INPUTS = 8


def sparse(shape, seed=0):
    generator = np.random.default_rng(seed)
    return generator.normal(size=shape) * (generator.random(shape) < 0.4)


def two_layers(units, dtype=None):
    """A `Dense` and an `EinsumDense` of `units` and 2 x `units` outputs."""
    inputs = layers.Input((INPUTS,))
    parts = [
        layers.Dense(units, use_bias=False, dtype=dtype, name="dense"),
        layers.EinsumDense("ab,bcd->acd", (2, units), dtype=dtype, name="einsum"),
    ]
    return keras.Model(inputs, [part(inputs) for part in parts]), parts


def zeros_of(model):
    return [row.zeros for row in report(model).kernels]


def zeros_computed_with(parts):
    identity = ops.eye(INPUTS)
    return [int((value_of(part(identity)) == 0).sum()) for part in parts]


# Keras 3.12 has neither blocks of int4 nor AWQ.
Int4QuantizationConfig = getattr(keras.quantizers, "Int4QuantizationConfig", None)
new_keras = pytest.mark.skipif(
    Int4QuantizationConfig is None, reason="this Keras has no configs of int4, no AWQ"
)


def quantize(model, name):
    """Quantizes a model in place, as Keras does."""
    mode, *rest = name.split("_")
    if mode == "int4" and Int4QuantizationConfig is not None:
        block_size = 4 if rest else -1
        model.quantize(mode, config=Int4QuantizationConfig(block_size=block_size))
    else:
        model.quantize(mode)


QUANTIZED = [
    "int8",
    "int4",
    pytest.param("int4_blocks", marks=new_keras),
    "float8",
]


@pytest.mark.parametrize("units", [1, 3, 4])
@pytest.mark.parametrize("name", QUANTIZED)
def test_zeros_of_quantized_kernels(name, units):
    model, parts = two_layers(units)
    for part in parts:
        part.kernel.assign(sparse(part.kernel.shape))
    quantize(model, name)
    expected = zeros_computed_with(parts)
    assert zeros_of(model) == expected and min(expected) > 0
    found = report(model)
    shapes = [(INPUTS, units), (INPUTS, 2, units)]
    assert [row.shape for row in found.kernels] == shapes
    assert [row.parameters for row in found.kernels] == [8 * units, 16 * units]
    # A float8 layer trains, so it is pruned; the others are skipped.
    share = sum(expected) / (24 * units)
    assert found.pruned_sparsity == (share if name == "float8" else None)
    assert found.prunable_sparsity == sum(expected) / (24 * units)


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize("name", QUANTIZED[:-1])
def test_zeros_of_quantized_embeddings(name, units):
    layer = layers.ReversibleEmbedding(5, units, tie_weights=False, name="words")
    model = keras.Sequential([layers.Input((2,), dtype="int32"), layer])
    layer(ops.ones((1, 2, units)), reverse=True)
    layer.embeddings.assign(sparse((5, units)))
    layer.reverse_embeddings.assign(sparse((units, 5), seed=1))
    quantize(model, name)
    computed = layer(ops.arange(5)), layer(ops.eye(units), reverse=True)
    expected = [int((value_of(each) == 0).sum()) for each in computed]
    assert zeros_of(model) == expected
    assert [row.shape for row in report(model).kernels] == [(5, units), (units, 5)]


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize(
    ("mode", "bits"),
    [("gptq", 2), ("gptq", 4), ("gptq", 8), pytest.param("awq", 4, marks=new_keras)],
)
def test_zeros_of_kernels_with_zero_points(mode, bits, units):
    model, parts = two_layers(units, dtype=f"{mode}/{bits}/4_from_float32")
    generator = np.random.default_rng(0)
    for part in parts:
        shape = (part.kernel_scale.shape[0], INPUTS)
        # Few values, so that some equal the zero point.
        values = generator.integers(0, 3, shape).astype("uint8")
        if bits == 4:
            values = pack_int4(values, axis=0, dtype="uint8")[0]
        part.quantized_kernel.assign(values)
        part.kernel_zero.assign(generator.integers(0, 3, part.kernel_zero.shape))
        part.g_idx.assign(np.arange(INPUTS) // 4)
    # A layer that is not calibrated computes with something else.
    assert zeros_of(model) == [None, None]
    for part in parts:
        setattr(part, f"is_{mode}_calibrated", True)
    expected = zeros_computed_with(parts)
    assert zeros_of(model) == expected and sum(expected) > 0


def test_kernel_of_an_unknown_packing_is_not_counted_and_in_no_share():
    class Packs(layers.Layer):
        quantization_mode = "int4"

        def build(self, input_shape):
            self.kernel = self.add_weight(
                shape=(2, 5), dtype="int8", initializer="zeros", trainable=False
            )

        def call(self, inputs):
            return inputs

    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(4, use_bias=False, name="dense"), Packs()]
    )
    model.layers[0].kernel.assign(np.eye(4))
    found = report(model)
    dense, packed = found.kernels
    assert (dense.zeros, packed.zeros, packed.sparsity) == (12, None, None)
    assert found.prunable_sparsity == found.model_sparsity == 0.75
    text = found.to_text()
    assert "Not counted: 1 of the rows, with 10 weights." in text
    assert "  -  " in text.split("packs/variable")[1].split("\n")[0]


@pytest.mark.parametrize("mode", [None, "int8", "int4"])
def test_lora_is_added_before_zeros_are_counted(mode):
    model, (dense, einsum) = two_layers(4)
    for part in (dense, einsum):
        part.kernel.assign(sparse(part.kernel.shape))
    if mode:
        model.quantize(mode)
    alone = zeros_of(model)
    dense.enable_lora(2)
    einsum.enable_lora(2, lora_alpha=4)
    # B is zero at first, so nothing is added.
    assert zeros_of(model) == alone
    # Half of the columns get something.
    dense.lora_kernel_b.assign([[1, 0, 1, 0]] * 2)
    einsum.lora_kernel_b.assign([[0, 0, 0, 1]] * 2)
    expected = zeros_computed_with([dense, einsum])
    assert zeros_of(model) == expected
    assert expected[0] < alone[0] and expected[1] < alone[1]
    rows = report(model).kernels
    assert [row.path for row in rows] == ["dense/kernel", "einsum/kernel"]


def test_lora_of_convolutions_and_embeddings():
    model = keras.Sequential(
        [
            layers.Input((6,), dtype="int32"),
            layers.Embedding(5, 4, name="words"),
            layers.Conv1D(4, 3, name="conv"),
        ]
    )
    words, conv = model.layers
    words.embeddings.assign(np.eye(5, 4))
    conv.kernel.assign(np.zeros((3, 4, 4)))
    words.enable_lora(2)
    conv.enable_lora(2)
    words.lora_embeddings_b.assign([[0, 0, 0, 1]] * 2)
    conv.lora_kernel_b.assign([[0, 0, 0, 1]] * 2)
    # 5 x 3 columns stay, with 3 ones among them; 3 x 4 x 3 stay empty.
    assert sorted(zeros_of(model)) == [12, 36]


def test_masks_of_wrapped_kernels_are_applied():
    layer = layers.Dense(2, use_bias=False, name="dense")
    model = keras.Sequential([layers.Input((3,)), PrunedLayer(layer)])
    model.layers[0].masks["dense/kernel"].assign(np.eye(3, 2, dtype=bool))
    assert zeros_of(model) == [4]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_bytes_and_zeros_of_small_floats(dtype):
    layer = layers.Dense(4, use_bias=False, dtype=dtype)
    model = keras.Sequential([layers.Input((3,)), layer])
    layer.kernel.assign(np.eye(3, 4))
    found = report(model)
    assert (found.zeros, found.raw_bytes) == (9, 24)
    assert found.kernels[0].raw_bytes == 24


def test_bytes_of_quantized_weights_are_those_in_memory():
    model, _ = two_layers(3)
    quantize(model, "int4")
    found = report(model)
    # Outputs are packed; Keras 3.12 packs inputs.
    packed = [8 * 2, 8 * 3] if Int4QuantizationConfig else [4 * 3, 4 * 6]
    assert [row.raw_bytes for row in found.kernels] == packed
    # And scales: 3 and 6 floats.
    assert found.raw_bytes == sum(packed) + 9 * 4
    assert found.parameters == 24 + 48 + 9

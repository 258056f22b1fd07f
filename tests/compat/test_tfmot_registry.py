"""`PruneRegistry`: which layers it knows, and their prunable weights."""

import keras
import pytest
from keras import layers

from keras_pruner.compat import tfmot
from keras_pruner.compat.tfmot.prune_registry import PruneRegistry

tk = tfmot.sparsity.keras


class OwnDense(layers.Dense):
    pass


class Cell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent_kernel = self.add_weight(
            shape=(self.units, self.units), name="recurrent_kernel"
        )

    def call(self, inputs, states):
        outputs = inputs @ self.kernel + states[0] @ self.recurrent_kernel
        return outputs, [outputs]


class PrunableCell(Cell, tk.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel, self.recurrent_kernel]


KNOWN = [
    lambda: layers.Dense(10),
    lambda: layers.Conv2D(10, 5),
    lambda: layers.Dropout(0.5),
    lambda: layers.Rescaling(2.0),
    lambda: layers.LSTM(10),
    lambda: layers.GRU(10),
    lambda: layers.SimpleRNN(10),
    lambda: layers.RNN(layers.LSTMCell(10)),
    lambda: layers.RNN([layers.LSTMCell(10), layers.GRUCell(5)]),
    lambda: layers.RNN([layers.SimpleRNNCell(5), PrunableCell(5)]),
]
UNKNOWN = [
    lambda: layers.ConvLSTM2D(2, (5, 5)),
    lambda: layers.RNN(Cell(32)),
    lambda: layers.RNN([layers.LSTMCell(10), Cell(5)]),
    lambda: OwnDense(10),
    lambda: Cell(3),
]


@pytest.mark.parametrize("make", KNOWN)
def test_known_layers_get_the_method(make):
    layer = make()
    assert PruneRegistry.supports(layer)
    assert not hasattr(layer, "get_prunable_weights")
    assert PruneRegistry.make_prunable(layer) is layer
    assert callable(layer.get_prunable_weights)


@pytest.mark.parametrize("make", UNKNOWN)
def test_unknown_layers_are_refused_and_unchanged(make):
    layer = make()
    assert not PruneRegistry.supports(layer)
    with pytest.raises(ValueError, match=r"PrunableLayer"):
        PruneRegistry.make_prunable(layer)
    assert not hasattr(layer, "get_prunable_weights")


def test_prunable_weights_of_single_layers():
    dense, dropout = layers.Dense(10), layers.Dropout(0.5)
    separable, embedding = layers.SeparableConv1D(4, 3), layers.Embedding(7, 3)
    heads = layers.MultiHeadAttention(2, 3)
    for layer in (dense, dropout, separable, embedding, heads):
        PruneRegistry.make_prunable(layer)
    dense.build((None, 4))
    separable.build((None, 3, 6))
    embedding.build()
    x = keras.Input((5, 4))
    heads(x, x)
    assert dense.get_prunable_weights() == [dense.kernel]
    assert dropout.get_prunable_weights() == []
    assert separable.get_prunable_weights() == [separable.pointwise_kernel]
    assert embedding.get_prunable_weights() == [embedding.embeddings]
    assert [tuple(w.shape) for w in heads.get_prunable_weights()] == [
        (4, 2, 3),
        (4, 2, 3),
        (4, 2, 3),
        (2, 3, 4),
    ]


def test_prunable_weights_of_recurrent_layers():
    lstm = PruneRegistry.make_prunable(layers.LSTM(10))
    cells = [layers.LSTMCell(10), layers.GRUCell(5), PrunableCell(5)]
    stack = PruneRegistry.make_prunable(layers.RNN(cells))
    for layer in (lstm, stack):
        layer.build((2, 3, 4))
    assert lstm.get_prunable_weights() == [lstm.cell.kernel, lstm.cell.recurrent_kernel]
    expected = [w for cell in cells for w in (cell.kernel, cell.recurrent_kernel)]
    assert all(
        a is b for a, b in zip(stack.get_prunable_weights(), expected, strict=True)
    )

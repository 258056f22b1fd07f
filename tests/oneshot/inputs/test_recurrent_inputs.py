"""Rows of recurrent layers against a loop in NumPy that reads the layer's weights."""

import keras
import numpy as np
import pytest
from collected import collect, product, randomize
from conftest import BACKEND, value_of
from keras import layers, ops

from keras_pruner.kernels import find_kernels

STEPS, FEATURES, UNITS = 4, 3, 2
MASK = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 1, 0]], bool)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def simple_step(cell, x, states):
    kernel, recurrent, bias = map(value_of, cell.weights[:3])
    h = np.tanh(x @ kernel + states[0] @ recurrent + bias)
    return [h], {"kernel": [x], "recurrent_kernel": [states[0]]}


def lstm_step(cell, x, states):
    kernel, recurrent, bias = map(value_of, cell.weights[:3])
    h, c = states
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return [sigmoid(o) * np.tanh(c), c], {"kernel": [x], "recurrent_kernel": [h]}


def gru_step(cell, x, states):
    kernel, recurrent, bias = map(value_of, cell.weights[:3])
    (h,) = states
    read = [h]
    if cell.reset_after:
        xz, xr, xg = np.split(x @ kernel + bias[0], 3, axis=-1)
        hz, hr, hg = np.split(h @ recurrent + bias[1], 3, axis=-1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        g = np.tanh(xg + r * hg)
    else:
        xz, xr, xg = np.split(x @ kernel + bias, 3, axis=-1)
        wz, wr, wg = np.split(recurrent, 3, axis=-1)
        z, r = sigmoid(xz + h @ wz), sigmoid(xr + h @ wr)
        g = np.tanh(xg + (r * h) @ wg)
        read.append(r * h)
    return [z * h + (1 - z) * g], {"kernel": [x], "recurrent_kernel": read}


CELLS = {
    "simple": (layers.SimpleRNN, {}, simple_step, 1),
    "lstm": (layers.LSTM, {}, lstm_step, 2),
    "lstm, unrolled": (layers.LSTM, {"unroll": True}, lstm_step, 2),
    "gru": (layers.GRU, {}, gru_step, 1),
    "gru, reset before": (layers.GRU, {"reset_after": False}, gru_step, 1),
}


def unroll(cell, step, num_states, x, mask, backwards=False):
    """Runs a cell by hand; returns the last state, and the rows that are not masked."""
    states = [np.zeros((len(x), UNITS), "float32") for _ in range(num_states)]
    rows, outputs = {}, []
    for t in range(STEPS)[:: -1 if backwards else 1]:
        new, read = step(cell, x[:, t], states)
        for name, parts in read.items():
            seen = rows.setdefault(name, [[] for _ in parts])
            for part, values in zip(seen, parts, strict=True):
                part.append(values[mask[:, t]])
        states = [
            np.where(mask[:, t, None], a, b) for a, b in zip(new, states, strict=True)
        ]
        outputs.append(states[0])
    joined = {n: [np.concatenate(part) for part in p] for n, p in rows.items()}
    return states[0], joined, np.stack(outputs, 1)


def assert_rows(found, expected):
    assert len(found) == len(expected)
    for (values, _), rows in zip(found, expected, strict=True):
        assert np.allclose(values[0], rows, atol=1e-5)


@pytest.fixture
def x():
    shape = (len(MASK), STEPS, FEATURES)
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def model_of(layer, is_masked=False):
    inputs = keras.Input((STEPS, FEATURES))
    read = layers.Masking(-9.0)(inputs) if is_masked else inputs
    model = keras.Model(inputs, layer(read))
    randomize(model)
    return model


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("kind", CELLS)
def test_rows_of_cells(kind, is_masked, backwards, x):
    if BACKEND == "torch" and kind == "lstm, unrolled" and is_masked:
        pytest.skip("Keras cannot unroll masked steps on torch")
    layer_class, settings, step, num_states = CELLS[kind]
    layer = layer_class(UNITS, go_backwards=backwards, **settings)
    model = model_of(layer, is_masked)
    mask = MASK if is_masked else np.ones_like(MASK)
    x[~mask] = -9.0
    found = collect(model, x)
    last, rows, _ = unroll(layer.cell, step, num_states, x, mask, backwards)
    assert np.allclose(value_of(model(x)), last, atol=1e-5)
    for kernel in find_kernels(model).kernels:
        assert_rows(found[kernel.path], rows[kernel.variable.name])
    assert len(found) == 2


def test_columns_of_a_gru_that_resets_before(x):
    model = model_of(layers.GRU(UNITS, reset_after=False))
    _, recurrent = find_kernels(model).kernels
    gates, candidate = collect(model, x)[recurrent.path]
    assert gates[1].tolist() == [[0, 1, 2, 3]] and candidate[1].tolist() == [[4, 5]]


def test_rows_of_stacked_cells(x):
    cells = [layers.LSTMCell(UNITS), layers.GRUCell(UNITS), layers.SimpleRNNCell(UNITS)]
    cells[1].dropout = 0.5  # Keras calls the cells before it, to prepare the dropout.
    model = model_of(layers.RNN(cells))
    kernels = find_kernels(model).kernels
    found = collect(model, x)
    mask, steps = np.ones_like(MASK), x
    for cell, step, num in zip(
        cells, (lstm_step, gru_step, simple_step), (2, 1, 1), strict=True
    ):
        last, rows, steps = unroll(cell, step, num, steps, mask)
        for kernel in kernels:
            if kernel.layer is cell:
                assert_rows(found[kernel.path], rows[kernel.variable.name])
    assert np.allclose(value_of(model(x)), last, atol=1e-5)
    assert len(found) == 6


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_rows_of_bidirectional_layers(kind, is_masked, x):
    layer_class, settings, step, num_states = CELLS[kind]
    layer = layers.Bidirectional(layer_class(UNITS, **settings))
    model = model_of(layer, is_masked)
    mask = MASK if is_masked else np.ones_like(MASK)
    x[~mask] = -9.0
    found = collect(model, x)
    outputs = []
    for inner in (layer.forward_layer, layer.backward_layer):
        backwards = inner is layer.backward_layer
        last, rows, _ = unroll(inner.cell, step, num_states, x, mask, backwards)
        outputs.append(last)
        for kernel in find_kernels(model).kernels:
            if kernel.layer is inner.cell:
                assert_rows(found[kernel.path], rows[kernel.variable.name])
    assert np.allclose(value_of(model(x)), np.concatenate(outputs, -1), atol=1e-5)
    assert len(found) == 4


def test_directions_run_apart_during_a_pass(x):
    layer, seen = layers.Bidirectional(layers.LSTM(UNITS)), []
    call = layer.call

    def spy(*args, **kwargs):
        # Keras computes both at once, without their loops, where cuDNN is.
        seen.append((layer.forward_layer.use_cudnn, layer.backward_layer.use_cudnn))
        return call(*args, **kwargs)

    object.__setattr__(layer, "call", spy)
    model = model_of(layer)
    collect(model, x)
    model(x)
    assert seen[-2:] == [(False, False), ("auto", "auto")]


def test_rows_follow_a_given_initial_state(x):
    sequence, state = keras.Input((STEPS, FEATURES)), keras.Input((UNITS,))
    outputs = layers.SimpleRNN(UNITS)(sequence, initial_state=state)
    model = keras.Model([sequence, state], outputs)
    start = np.full((len(x), UNITS), 0.5, "float32")
    _, recurrent = find_kernels(model).kernels
    ((values, _),) = collect(model, [x, start])[recurrent.path]
    assert np.array_equal(values[0, : len(x)], start)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda: layers.ConvLSTM1D(2, 3, strides=2, padding="same"), (4, 7, 3)),
        (lambda: layers.ConvLSTM1D(2, 3, dilation_rate=2), (4, 7, 3)),
        (lambda: layers.ConvLSTM2D(2, (3, 2), padding="valid"), (3, 5, 4, 3)),
    ],
)
def test_rows_of_convolutional_cells(layer, shape):
    layer = layer()
    model = keras.Sequential([keras.Input(shape), layer])
    randomize(model)
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    kernels = find_kernels(model).kernels
    found = collect(model, x)
    places = [product(kernel, found[kernel.path]) for kernel in kernels]
    gates = sum(places) + value_of(layer.cell.bias)
    spatial = value_of(model(x)).shape[1:-1]
    gates = gates.reshape(shape[0], 2, *spatial, 8)
    c = 0.0
    for step, gate in enumerate(gates):
        i, f, g, o = np.split(gate, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        if step + 1 < len(gates):
            ((rows, _),) = found[kernels[1].path]
            conv = layer.cell.recurrent_conv(ops.convert_to_tensor(h), recurrent(layer))
            rows = product(kernels[1], found[kernels[1].path])
            rows = rows.reshape(shape[0], *h.shape[:-1], 8)
            assert np.allclose(rows[step + 1], value_of(conv), atol=1e-5)
    assert np.allclose(h, value_of(model(x)), atol=1e-5)
    conv = layer.cell.input_conv(
        ops.convert_to_tensor(x[:, 0]), layer.cell.kernel, padding=layer.padding
    )
    first = places[0].reshape(shape[0], *h.shape[:-1], 8)[0]
    assert np.allclose(first, value_of(conv), atol=1e-5)


def recurrent(layer):
    return layer.cell.recurrent_kernel


class Step(layers.Layer):
    """A cell of the user's, of the package's own cell and a dense layer."""

    state_size = UNITS

    def __init__(self):
        super().__init__()
        self.cell = layers.SimpleRNNCell(UNITS)
        self.head = layers.Dense(3)

    def build(self, input_shape):
        self.cell.build(input_shape)
        self.head.build((None, UNITS))

    def call(self, x, states):
        h, states = self.cell(x, states)
        return self.head(h), states


def test_rows_within_a_cell_of_the_user(x):
    step = Step()
    model = model_of(layers.RNN(step, return_sequences=True))
    found = collect(model, x)
    _, rows, states = unroll(step.cell, simple_step, 1, x, np.ones_like(MASK))
    for kernel in find_kernels(model).kernels:
        if kernel.layer is step.cell:
            assert_rows(found[kernel.path], rows[kernel.variable.name])
        else:
            assert_rows(found[kernel.path], [states.swapaxes(0, 1).reshape(-1, UNITS)])
            outputs = product(kernel, found[kernel.path]) + value_of(step.head.bias)
            expected = value_of(model(x)).swapaxes(0, 1).reshape(-1, 3)
            assert np.allclose(outputs, expected, atol=1e-5)
    assert len(found) == 3

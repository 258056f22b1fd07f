"""A whole call equals rows unrolled by hand, solved by a reference in NumPy."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import references
from conftest import BACKEND, first_where_compiled, value_of
from keras import layers
from problems import Case

from keras_pruner import prune_one_shot
from keras_pruner.components import PATTERNS
from keras_pruner.kernels import find_kernels


class Unrolled(Case):
    """The problem of a kernel of one layer, from rows unrolled by hand.

    Args:
        weights: Matrix (K, N).
        groups: List of `(columns, rows (n, K))`.
        centre: Whether the layer has a bias.
    """

    def __init__(self, weights, groups, centre=True):
        self.weights, self.centre, self.dense_target = weights, centre, False
        self.hessians, self.targets, self.means = [], [], []
        for columns, rows in groups:
            rows = np.asarray(rows, "float64")
            assert rows.shape[1] == len(weights)
            self._add(np.asarray(columns), rows, rows)


def conv2d(layer, x):
    """Stride 2 and "same" padding, kernel 3x3: one row and one column after."""
    padded = np.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
    return [
        np.concatenate(
            [padded[n, 2 * i + a, 2 * j + b] for a in range(3) for b in range(3)]
        )
        for n in range(len(x))
        for i in range(x.shape[1] // 2)
        for j in range(x.shape[2] // 2)
    ]


def depthwise(layer, x, channel):
    return [
        [x[n, i + a, channel] for a in range(3)]
        for n in range(len(x))
        for i in range(x.shape[1] - 2)
    ]


def transposed(layer, x):
    """Stride 2, kernel 3: output p sees input i by weight a if p = 2 i + a."""
    rows = []
    for sample in x:
        for p in range(2 * (len(sample) - 1) + 3):
            row = np.zeros((3, x.shape[2]))
            for a in range(3):
                i, rest = divmod(p - a, 2)
                if not rest and 0 <= i < len(sample):
                    row[a] = sample[i]
            rows.append(row.ravel())
    return rows


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_states(layer, x):
    """The states h before each step."""
    kernel, recurrent, bias = map(value_of, layer.weights)
    h, c, states = np.zeros((len(x), 4)), np.zeros((len(x), 4)), []
    for t in range(x.shape[1]):
        states.append(h)
        i, f, g, o = np.split(x[:, t] @ kernel + h @ recurrent + bias, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return np.concatenate(states)


def gru_states(layer, x, reset_after):
    """The states h before each step, and what the candidate sees of them."""
    kernel, recurrent, bias = map(value_of, layer.weights)
    own, back = bias if reset_after else (bias, np.zeros_like(bias))
    h, states, candidates = np.zeros((len(x), 4)), [], []
    for t in range(x.shape[1]):
        inputs, part = x[:, t] @ kernel + own, h @ recurrent + back
        z = sigmoid(inputs[:, :4] + part[:, :4])
        r = sigmoid(inputs[:, 4:8] + part[:, 4:8])
        states.append(h)
        candidates.append(h if reset_after else r * h)
        back_part = r * part[:, 8:] if reset_after else (r * h) @ recurrent[:, 8:]
        h = z * h + (1 - z) * np.tanh(inputs[:, 8:] + back_part)
    return np.concatenate(states), np.concatenate(candidates)


def in_order_of_steps(x):
    return x.transpose(1, 0, 2).reshape(-1, x.shape[-1])


def problems_of(name, layer, x):
    """Returns `(groups, centre)` of each kernel of the layer."""
    if name == "dense":
        return [([(range(6), x.reshape(-1, 4))], True)]
    if name == "conv2d":
        return [([(range(4), conv2d(layer, x))], True)]
    if name == "depthwise":
        # Channel c has the columns 2 c and 2 c + 1.
        groups = [([2 * c, 2 * c + 1], depthwise(layer, x, c)) for c in range(3)]
        return [(groups, True)]
    if name == "transposed":
        return [([(range(4), transposed(layer, x))], True)]
    steps = in_order_of_steps(x)
    if name == "lstm":
        states = lstm_states(layer, x)
        return [([(range(16), steps)], True), ([(range(16), states)], True)]
    states, candidates = gru_states(layer, x, reset_after=name == "gru, reset after")
    parts = [(range(8), states), (range(8, 12), candidates)]
    if name == "gru, reset after":
        parts = [(range(12), states)]
    return [([(range(12), steps)], True), (parts, True)]


LAYERS = {
    "dense": (lambda: layers.Dense(6), (4,)),
    "conv2d": (lambda: layers.Conv2D(4, 3, strides=2, padding="same"), (6, 6, 2)),
    "depthwise": (lambda: layers.DepthwiseConv1D(3, depth_multiplier=2), (9, 3)),
    "transposed": (lambda: layers.Conv1DTranspose(4, 3, strides=2), (6, 2)),
    "lstm": (lambda: layers.LSTM(4), (5, 3)),
    "gru, reset after": (lambda: layers.GRU(4), (5, 3)),
    "gru": (lambda: layers.GRU(4, reset_after=False), (5, 3)),
}


# Methods have tests of their own on each backend.
METHODS = ["admm", "sparsegpt", "magnitude"] if BACKEND == "tensorflow" else ["admm"]


@pytest.mark.parametrize("method", first_where_compiled(METHODS))
@pytest.mark.parametrize("name", LAYERS)
def test_pruned_layer_equals_reference(name, method):
    keras.utils.set_random_seed(0)
    make, shape = LAYERS[name]
    layer = make()
    model = keras.Sequential([keras.Input(shape), layer])
    generator = np.random.default_rng(0)
    for variable in layer.weights:
        variable.assign(0.7 * generator.normal(size=variable.shape))
    x = generator.random((40, *shape)).astype("float32")
    expected = []
    kernels = find_kernels(model).kernels
    for kernel, (groups, centre) in zip(
        kernels, problems_of(name, layer, x), strict=True
    ):
        weights = value_of(kernel.layout.to_matrix(kernel.variable)).astype("float64")
        asked = SimpleNamespace(
            count=weights.size // 2, pattern=PATTERNS.get("1x1"), layout=kernel.layout
        )
        case = Unrolled(weights, groups, centre)
        found, mask = getattr(references, method)(case, asked)
        means = np.zeros(weights.shape)
        for columns, mean in case.means:
            means[:, columns] = mean[:, None]
        expected.append((found, mask, (means * (weights - found)).sum(axis=0)))
    bias = value_of(layer.weights[-1])
    pruned, _ = prune_one_shot(
        model, x, 0.5, method=method, allocation="uniform", weigh_outputs=False,
        verbose=False,
    )  # fmt: skip
    updates = [update for _, _, update in expected]
    biases = np.stack(updates) if bias.ndim == 2 else sum(updates)
    for kernel, (weights, mask, _) in zip(
        find_kernels(pruned).kernels, expected, strict=True
    ):
        found = value_of(kernel.layout.to_matrix(kernel.variable))
        np.testing.assert_array_equal(found != 0, mask)
        np.testing.assert_allclose(found, weights, atol=1e-4)
    found = value_of(pruned.layers[-1].weights[-1])
    np.testing.assert_allclose(found, bias + biases, atol=1e-4)

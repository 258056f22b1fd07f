"""What multiplies the kernels of torch modules, against what the modules compute."""

import itertools

import numpy as np
import pytest
from conftest import value_of

from keras_pruner.oneshot.inputs import InputCollector
from keras_pruner.pytorch import OneShotModule

torch = pytest.importorskip("torch")
nn = torch.nn


def collect(module, x, **kwargs):
    """Returns a dict from each kernel to its `(values, columns)` pairs, and `order`."""
    view = OneShotModule(module)
    collector = InputCollector(view, view.find_kernels().kernels)
    found = {}

    def on_rows(kernel, rows):
        found[kernel] = [(value_of(values), columns) for values, columns in rows]

    order = collector.order(x)
    collector.collect(x, on_rows, **kwargs)
    return found, order


def by_path(found):
    return {kernel.path: parts for kernel, parts in found.items()}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def product(kernel, parts):
    """Returns what the kernel computes of its rows, (n, N)."""
    matrix = value_of(kernel.layout.to_matrix(kernel.variable))
    outputs = np.full((parts[0][0].shape[1], matrix.shape[1]), np.nan, "float32")
    for values, columns in parts:
        for rows, own in zip(values, columns, strict=True):
            outputs[:, own] = rows @ matrix[:, own]
    return outputs


def rows_by_hand(x, module):
    """Returns the rows of a convolution in two dimensions, (groups, n, K)."""
    (up, left), (down, right) = module.padding, module.padding
    x = np.pad(x, ((0, 0), (0, 0), (up, down), (left, right)))
    (height, width), (dy, dx) = module.kernel_size, module.dilation
    num = [
        (x.shape[2 + i] - d * (k - 1) - 1) // s + 1
        for i, (d, k, s) in enumerate(
            zip(module.dilation, module.kernel_size, module.stride, strict=True)
        )
    ]
    rows = []
    for sample, i, j in itertools.product(range(len(x)), *map(range, num)):
        top, start = i * module.stride[0], j * module.stride[1]
        rows.append(
            [
                [
                    x[sample, channel, top + a * dy, start + b * dx]
                    for a in range(height)
                    for b in range(width)
                    for channel in group
                ]
                for group in np.arange(x.shape[1]).reshape(module.groups, -1)
            ]
        )
    return np.array(rows).transpose(1, 0, 2)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": (2, 1), "padding": (1, 2)},
        {"dilation": (2, 1), "padding": 1},
        {"groups": 2, "padding": 1},
        {"groups": 4, "stride": 2},
    ],
)
def test_rows_of_a_convolution_are_those_by_hand(settings):
    module = nn.Conv2d(4, 8, (3, 2), **settings)
    x = normal(2, 4, 6, 5)
    (parts,) = collect(module, x)[0].values()
    ((values, columns),) = parts
    np.testing.assert_array_equal(values, rows_by_hand(x, module))
    np.testing.assert_array_equal(columns.reshape(-1), np.arange(8))


CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(4, 6, 3), (4, 9)),
    "2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1)), (3, 7, 5)),
    "3d": (lambda: nn.Conv3d(2, 4, 2, padding=1, groups=2), (2, 4, 3, 5)),
    "same": (lambda: nn.Conv1d(4, 6, 4, padding="same", dilation=3), (4, 12)),
    "valid": (lambda: nn.Conv1d(4, 6, 4, padding="valid"), (4, 12)),
    "depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=1, groups=4), (4, 5, 6)),
    "reflect": (
        lambda: nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode="reflect"),
        (3, 6, 5),
    ),
    "replicate": (
        lambda: nn.Conv1d(3, 4, 4, padding=2, padding_mode="replicate"),
        (3, 6),
    ),
    "circular": (
        lambda: nn.Conv2d(3, 4, (4, 3), padding="same", padding_mode="circular"),
        (3, 6, 5),
    ),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 5)),
    "transposed 2d": (
        lambda: nn.ConvTranspose2d(
            4, 6, (3, 4), stride=(2, 3), padding=(1, 2), output_padding=(1, 2)
        ),
        (4, 5, 4),
    ),
    "transposed groups": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2, padding=1),
        (4, 5, 4),
    ),
    "transposed 3d": (lambda: nn.ConvTranspose3d(2, 3, 2, stride=2), (2, 3, 2, 4)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_rows_times_the_matrix_are_the_outputs(kind):
    build, shape = CONVOLUTIONS[kind]
    torch.manual_seed(0)
    module = build()
    x = normal(2, *shape)
    (kernel, parts), *rest = collect(module, x)[0].items()
    assert not rest
    outputs = (module(torch.from_numpy(x)) - _shaped_bias(module)).detach().numpy()
    outputs = np.moveaxis(outputs, 1, -1).reshape(-1, outputs.shape[1])
    np.testing.assert_allclose(product(kernel, parts), outputs, atol=2e-5)


def _shaped_bias(module):
    return module.bias.reshape(1, -1, *[1] * len(module.kernel_size))


def test_an_output_size_of_a_transposed_convolution():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose1d(2, 3, 3, stride=2, bias=False)

        def forward(self, x):
            return self.up(x, output_size=[12])

    net, x = Net(), normal(2, 2, 5)
    ((kernel, parts),) = collect(net, x)[0].items()
    outputs = net(torch.from_numpy(x)).detach().numpy()
    assert outputs.shape[-1] == 12
    np.testing.assert_allclose(
        product(kernel, parts), outputs.transpose(0, 2, 1).reshape(-1, 3), atol=1e-5
    )


def test_linear_and_bilinear():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3, bias=False)
            self.pairs = nn.Bilinear(3, 4, 5, bias=False)

        def forward(self, x):
            return self.pairs(self.linear(x), x)

    net, x = Net(), normal(2, 6, 4)
    found = {kernel.path: (kernel, p) for kernel, p in collect(net, x)[0].items()}
    kernel, parts = found["linear/weight"]
    np.testing.assert_array_equal(parts[0][0], x.reshape(1, -1, 4))
    kernel, parts = found["pairs/weight"]
    outputs = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(
        product(kernel, parts), outputs.reshape(-1, 5), atol=1e-5
    )


def test_a_module_that_is_called_twice_has_the_rows_of_both_calls():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared = nn.Linear(4, 4)

        def forward(self, x):
            return self.shared(torch.relu(self.shared(x)))

    net, x = Net(), normal(3, 4)
    ((_, parts),) = collect(net, x)[0].items()
    second = torch.relu(net.shared(torch.from_numpy(x))).detach().numpy()
    np.testing.assert_allclose(
        parts[0][0][0], np.concatenate([x, second]), rtol=1e-6, atol=1e-6
    )


class Doubles(nn.Linear):
    def forward(self, x):
        return super().forward(2 * x)


class ByItself(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(2 * x, self.weight, self.bias)


def test_a_subclass_is_read_where_its_base_class_computes():
    net = nn.Sequential(Doubles(4, 3), ByItself(3, 3), nn.Linear(3, 2))
    x, forward = normal(5, 4), nn.Linear.forward
    found, order = collect(net, x)
    rows = by_path(found)
    assert list(rows) == ["0/weight", "2/weight"]
    np.testing.assert_array_equal(rows["0/weight"][0][0][0], 2 * x)
    ((kernel, reason),) = order.left_out.items()
    assert kernel.path == "1/weight"
    assert "ByItself.forward does not run Linear.forward" in reason
    assert nn.Linear.forward is forward


def test_a_tensor_that_changes_in_place_is_seen_as_it_was():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = x + 0
            x += self.first(x)
            return self.second(x)

    net, x = Net(), normal(3, 4)
    found, order = collect(net, x)
    rows = {path: parts[0][0][0] for path, parts in by_path(found).items()}
    np.testing.assert_array_equal(rows["first/weight"], x)
    second = (torch.from_numpy(x) + net.first(torch.from_numpy(x))).detach().numpy()
    np.testing.assert_allclose(rows["second/weight"], second, rtol=1e-6, atol=1e-6)
    assert len(order.stages) == 2 and not order.shared


def test_modules_with_one_input_share_a_stage():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in "abc")

        def forward(self, x):
            return self.c(self.a(x) * self.b(x))

    _, order = collect(Net(), normal(3, 4))
    paths = [[kernel.path for kernel in stage] for stage in order.stages]
    assert paths == [["a/weight", "b/weight"], ["c/weight"]]
    assert [len(group) for group in order.shared] == [2]


@pytest.mark.parametrize("is_self", [True, False])
def test_attention(is_self):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, x):
            memory = x if is_self else x[:, :3].flip(0) * 2
            return self.attention(x, memory, memory, need_weights=False)[0]

    torch.manual_seed(1)
    net, x = Net().eval(), normal(2, 5, 4)
    found, order = collect(net, x)
    rows = by_path(found)
    packed = rows["attention/in_proj_weight"]
    np.testing.assert_array_equal(packed[0][0][0][[0]], x.reshape(-1, 4)[[0]])
    assert len(packed) == (1 if is_self else 3)
    covered = np.concatenate([columns.reshape(-1) for _, columns in packed])
    np.testing.assert_array_equal(covered, np.arange(12))
    last = net.attention.out_proj
    ((values, _),) = rows["attention/out_proj/weight"]
    outputs = values[0] @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    expected = net(torch.from_numpy(x)).detach().numpy().reshape(-1, 4)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)
    assert [len(stage) for stage in order.stages] == [1, 1]


def test_attention_of_other_keys_and_values():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=2, bias=False)

        def forward(self, x):
            return self.attention(x, key=x[:3, :, :3], value=x[:3, :, 2:])[0]

    net, x = Net().eval(), normal(5, 2, 4)
    rows = {path: parts[0][0][0] for path, parts in by_path(collect(net, x)[0]).items()}
    # Queries and keys differ in number, so some queries are left out.
    np.testing.assert_array_equal(
        rows["attention/q_proj_weight"], x.reshape(-1, 4)[[0, 1, 3, 5, 7, 9]]
    )
    memory = x[:3].reshape(-1, 4)
    np.testing.assert_array_equal(rows["attention/k_proj_weight"], memory[:, :3])
    np.testing.assert_array_equal(rows["attention/v_proj_weight"], memory[:, 2:])
    weight = net.attention.out_proj.weight.detach().numpy()
    expected = net(torch.from_numpy(x)).detach().numpy().reshape(-1, 4)
    np.testing.assert_allclose(
        rows["attention/out_proj/weight"] @ weight.T, expected, atol=1e-6
    )


RECURRENT = {
    "rnn": lambda: nn.RNN(3, 4, nonlinearity="relu"),
    "gru": lambda: nn.GRU(3, 4, 2, batch_first=True, bidirectional=True),
    "lstm": lambda: nn.LSTM(3, 4, 2, bidirectional=True, dropout=0.5),
    "projected": lambda: nn.LSTM(3, 4, proj_size=2),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_modules_see_what_their_cells_do(kind):
    torch.manual_seed(0)
    rnn = RECURRENT[kind]().eval()
    x = normal(5, 2, 3)
    time_first = torch.from_numpy(x)
    if rnn.batch_first:
        x = x.transpose(1, 0, 2)
    found, order = collect(rnn, x)
    rows = by_path(found)
    assert len(order.stages) == rnn.num_layers
    if kind == "projected":
        ((kernel, reason),) = order.left_out.items()
        assert kernel.path == "weight_hr_l0" and "within the step" in reason
    # The first layer reads the data, forwards and backwards.
    seen = time_first.numpy()
    np.testing.assert_array_equal(rows["weight_ih_l0"][0][0][0], seen.reshape(-1, 3))
    if rnn.bidirectional:
        np.testing.assert_array_equal(
            rows["weight_ih_l0_reverse"][0][0][0], seen[::-1].reshape(-1, 3)
        )
        # The states of the last layer are the outputs of the module, a step before.
        outputs = rnn(torch.from_numpy(x))[0]
        outputs = outputs.transpose(0, 1) if rnn.batch_first else outputs
        forwards = outputs.detach().numpy()[:, :, :4]
        backwards = outputs.detach().numpy()[::-1, :, 4:]
        for name, states in (("l1", forwards), ("l1_reverse", backwards)):
            before = np.concatenate([np.zeros((1, 2, 4)), states[:-1]]).reshape(-1, 4)
            np.testing.assert_allclose(
                rows[f"weight_hh_{name}"][0][0][0], before, atol=1e-6
            )
    else:
        states = rnn(time_first)[0].detach().numpy()
        size = states.shape[-1]
        before = np.concatenate([np.zeros((1, 2, size)), states[:-1]])
        np.testing.assert_allclose(
            rows["weight_hh_l0"][0][0][0], before.reshape(-1, size), atol=1e-6
        )


def test_cells_and_embeddings():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(6, 3)
            self.cell = nn.LSTMCell(3, 4)

        def forward(self, ids):
            state = None
            for step in self.table(ids).unbind(1):
                state = self.cell(step, state)
            return state[0]

    net, ids = Net(), np.array([[1, 5], [0, 2]])
    rows = by_path(collect(net, ids)[0])
    np.testing.assert_array_equal(
        rows["table/weight"][0][0][0], np.eye(6)[ids.reshape(-1)]
    )
    table = net.table.weight.detach().numpy()
    np.testing.assert_array_equal(
        rows["cell/weight_ih"][0][0][0], table[ids.T.reshape(-1)]
    )
    states = rows["cell/weight_hh"][0][0][0]
    assert (states[:2] == 0).all()
    first = net.cell(torch.from_numpy(table[ids[:, 0]]))[0].detach().numpy()
    np.testing.assert_allclose(states[2:], first, atol=1e-6)


def test_a_transformer_layer_is_not_fused_past_its_parts():
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    found, order = collect(layer, normal(2, 3, 4))
    assert not order.left_out and len(found) == 4
    assert torch.backends.mha.get_fastpath_enabled()


def test_dense_values_are_used_for_the_time_of_a_pass():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2))
    x, before = normal(4, 3), net[0].weight.detach().clone()
    view = OneShotModule(net)
    first, second = view.find_kernels().kernels
    collector = InputCollector(view, [first, second])
    rows = []
    collector.collect(
        x, lambda _, parts: rows.append(value_of(parts[0].values)), [second],
        state_mapping=[(first.variable, 2 * value_of(first.variable))],
    )  # fmt: skip
    np.testing.assert_allclose(rows[0][0], 2 * x @ before.numpy().T, atol=1e-6)
    assert torch.equal(net[0].weight, before)

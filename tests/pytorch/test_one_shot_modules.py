"""`prune_one_shot` on torch modules, with Keras on any backend."""

import copy

import keras
import numpy as np
import pytest
from keras import layers

import keras_pruner
from keras_pruner import OneShotMethod, prune_one_shot
from keras_pruner.oneshot import METHODS

torch = pytest.importorskip("torch")
nn = torch.nn
QUICK = {"verbose": False}


def build(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(128, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def smooth(size=96, shape=(2, 6, 6), seed=1):
    """Samples whose features depend on each other, as real ones do."""
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(6, int(np.prod(shape))))
    x = generator.normal(size=(size, 6)) @ mixing
    x = x + 0.1 * generator.normal(size=x.shape)
    return x.reshape(size, *shape).astype("float32")


def outputs(module, x):
    with torch.no_grad():
        return copy.deepcopy(module).eval()(torch.from_numpy(x)).numpy()


def output_error(module, pruned, x):
    expected, found = (outputs(each, x) for each in (module, pruned))
    return float(((found - expected) ** 2).sum() / (expected**2).sum())


def state_of(module):
    return {n: v.clone() for n, v in module.state_dict().items()}


def check_untouched(module, before, modes):
    after = module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[n], v) for n, v in before.items())
    assert [part.training for part in module.modules()] == modes
    assert not any(part._forward_pre_hooks for part in module.modules())


@pytest.mark.slow
def test_outputs_stay_where_magnitude_loses_them():
    module, x = build().train(), smooth(192)
    module[3].eval()
    before, modes = state_of(module), [part.training for part in module.modules()]
    random = torch.random.get_rng_state()
    errors = {}
    for method in ("magnitude", "sparsegpt", "admm"):
        settings = {"allocation": "uniform", "dense_target": method == "admm"}
        pruned, report = prune_one_shot(
            module, x[:128], 0.7, method=method, **settings, **QUICK
        )
        assert type(pruned) is nn.Sequential and report.num_samples == 128
        errors[method] = output_error(module, pruned, x[128:])
        assert report.sparsity == pytest.approx(0.7, abs=2e-3)
    assert errors["admm"] < 0.5 * errors["sparsegpt"]
    assert errors["sparsegpt"] < errors["magnitude"]
    check_untouched(module, before, modes)
    check_untouched(pruned, state_of(pruned), modes)
    assert torch.equal(random, torch.random.get_rng_state())


def test_the_total_is_exact_and_the_report_tells_it(capsys):
    module, x = build(), smooth()
    pruned, report = prune_one_shot(
        module, torch.from_numpy(x), target_sparsity=0.8, method="wanda"
    )
    assert capsys.readouterr().out.strip().splitlines()[-1] == report.headline
    rows = {row["path"]: row for row in report.rows()}
    assert list(rows) == ["0/weight", "2/weight", "6/weight", "8/weight"]
    own = dict(pruned.named_parameters())
    for path, row in rows.items():
        weight = own[path.replace("/", ".")]
        assert int((weight == 0).sum()) == row["zeros"]
        assert tuple(weight.shape) == tuple(row["shape"])
        assert weight.requires_grad and weight.is_leaf
    size = sum(row["parameters"] for row in rows.values())
    assert sum(row["zeros"] for row in rows.values()) == round(0.8 * size)


def test_weights_equal_those_of_the_keras_model():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, (3, 2), stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4)
    )
    model = keras.Sequential(
        [
            keras.Input((5, 8, 3)),
            layers.Conv2D(8, (3, 2), strides=2, activation="relu"),
            # The order in which torch flattens.
            layers.Permute((3, 1, 2)),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    conv, dense = model.layers[0], model.layers[-1]
    w = [p.detach().numpy() for p in module.parameters()]
    conv.set_weights([w[0].transpose(2, 3, 1, 0), w[1]])
    dense.set_weights([w[2].T, w[3]])
    x = smooth(128, (3, 5, 8))
    settings = {"target_sparsity": 0.6, "num_samples": 100, "seed": 3} | QUICK
    settings |= {"allocation": "uniform"}
    pruned, report = prune_one_shot(module, x, **settings)
    expected, keras_report = prune_one_shot(model, x.transpose(0, 2, 3, 1), **settings)
    found = [p.detach().numpy() for p in pruned.parameters()]
    kernel, bias, last, last_bias = expected.get_weights()
    for one, two in zip(
        found, (kernel.transpose(3, 2, 0, 1), bias, last.T, last_bias), strict=True
    ):
        np.testing.assert_allclose(one, two, atol=1e-4)
    for own, other in zip(report.rows(), keras_report.rows(), strict=True):
        assert own["zeros"] == other["zeros"]
        assert own["error"] == pytest.approx(other["error"], abs=1e-4)


def test_the_bias_takes_up_the_mean():
    torch.manual_seed(0)
    module = nn.Linear(8, 4)
    x = smooth(64, (8,)) + 3
    pruned, _ = prune_one_shot(module, x, 0.5, method="magnitude", **QUICK)
    left, right = (outputs(each, x).mean(0) for each in (module, pruned))
    np.testing.assert_allclose(left, right, atol=1e-4)
    plain, _ = prune_one_shot(module, x, 0.5, method="magnitude", centre=False, **QUICK)
    assert torch.equal(plain.bias, module.bias)
    module.bias.requires_grad_(False)
    frozen, _ = prune_one_shot(module, x, 0.5, method="magnitude", **QUICK)
    assert torch.equal(frozen.bias, module.bias)


def test_in_place_changes_the_module_itself():
    module, x = build(), smooth()
    held = list(module.parameters())
    copy, _ = prune_one_shot(module, x, 0.5, method="wanda", **QUICK)
    pruned, report = prune_one_shot(
        module, x, 0.5, in_place=True, method="wanda", **QUICK
    )
    assert pruned is module
    assert all(a is b for a, b in zip(held, module.parameters(), strict=True))
    for one, two in zip(copy.parameters(), module.parameters(), strict=True):
        assert torch.equal(one, two)
    assert sum(row["zeros"] for row in report.rows()) == sum(
        int((p == 0).sum()) for p in module.parameters() if p.ndim > 1
    )


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_module_as_it_was(error):
    class Fails(OneShotMethod):
        calls = 0

        def solve(self, problem):
            Fails.calls += 1
            if Fails.calls == 3:
                raise error("stop")
            return METHODS.get("wanda").solve(problem)

    module, x = build().train(), smooth()
    before, modes = state_of(module), [part.training for part in module.modules()]
    with pytest.raises(error, match="stop"):
        prune_one_shot(
            module, x, 0.5, method=Fails(), in_place=True, allocation="uniform", **QUICK
        )
    assert Fails.calls == 3
    check_untouched(module, before, modes)


class Interrupted(nn.Module):
    def __init__(self, error, number):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.error, self.number, self.total = error, number, 0

    def forward(self, x):
        self.total += 1
        self.calls = self.calls + 1
        if self.total == self.number:
            raise self.error("stop")
        return self.second(self.first(x))


@pytest.mark.parametrize("number", [1, 4, 6])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_within_a_pass_leaves_no_hook(error, number):
    module = Interrupted(error, number).train()
    before, modes = state_of(module), [part.training for part in module.modules()]
    with pytest.raises(error, match="stop"):
        prune_one_shot(
            module, smooth(16, (4,)), 0.5, in_place=True, method="wanda", **QUICK
        )
    assert module.total == number
    check_untouched(module, before, modes)
    assert torch.backends.mha.get_fastpath_enabled() and torch.is_grad_enabled()


def test_equal_seeds_give_equal_modules():
    module, x = build(), smooth(64)
    settings = {"num_samples": 32, "allocation": "uniform", "method": "wanda"} | QUICK
    first, again, other = (
        list(prune_one_shot(module, x, 0.5, seed=seed, **settings)[0].parameters())
        for seed in (1, 1, 2)
    )
    assert all(map(torch.equal, first, again))
    assert not all(map(torch.equal, first, other))


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a, b, scale=1.0):
        return self.left(a) + scale * self.right(b)


def batches_of(*arrays, size=8):
    tensors = [torch.from_numpy(array) for array in arrays]
    data = torch.utils.data.TensorDataset(*tensors)
    return torch.utils.data.DataLoader(data, batch_size=size)


def test_forms_of_data():
    a, b = smooth(32, (4,)), smooth(32, (5,))
    module = TwoInputs()
    labels = np.arange(32)
    forms = {
        "tuple": (a, b),
        "with labels": ((a, b), labels),
        "dict": {"a": a, "b": b, "label": labels},
        "tensors": (torch.from_numpy(a), torch.from_numpy(b)),
        "loader": batches_of(a, b),
        "endless": iter(lambda: {"a": a[:8], "b": b[:8]}, None),
    }
    found = {}
    for name, data in forms.items():
        pruned, report = prune_one_shot(
            module, data, 0.5, method="wanda", num_samples=32, **QUICK
        )
        assert report.num_samples == 32
        found[name] = pruned.left.weight
    for name, weight in found.items():
        if name != "endless":
            assert torch.equal(weight, found["tuple"])
    one, x = nn.Linear(4, 2), smooth(32, (4,))
    plain, _ = prune_one_shot(one, x, 0.5, **QUICK)
    for data in ((x, labels), batches_of(x, labels), [x[:16], x[16:]]):
        if isinstance(data, list):
            data = [(part, part) for part in data]
        other, _ = prune_one_shot(one, data, 0.5, **QUICK)
        assert torch.equal(plain.weight, other.weight)


def test_what_stays_dense_says_why():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
            self.tied, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4)
            self.again = nn.Linear(4, 4)
            self.again.weight = self.tied.weight
            self.frozen.weight.requires_grad_(False)
            self.own = nn.Parameter(torch.ones(4, 4))

        def forward(self, x):
            return self.again(self.tied(self.frozen(self.used(x)))) @ self.own

    net = Net()
    pruned, report = prune_one_shot(net, smooth(16, (4,)), 0.5, method="wanda", **QUICK)
    reasons = {row["path"]: row["skipped"] for row in report.rows()}
    assert reasons["used/weight"] is None
    assert "never reaches" in reasons["unused/weight"]
    assert "tied.weight, again.weight" in reasons["tied/weight"]
    assert "requires_grad=False" in reasons["frozen/weight"]
    assert "no rule for module class Net" in reasons["own"]
    assert (pruned.used.weight == 0).sum() == 8
    for name in ("unused", "tied", "frozen"):
        assert torch.equal(getattr(pruned, name).weight, getattr(net, name).weight)


def test_filters_take_parts_of_the_module_or_paths():
    module, x = build(), smooth(32)
    settings = {"target_sparsity": 0.5, "method": "wanda"} | QUICK
    _, report = prune_one_shot(module, x, include=[module[6]], **settings)
    rows = [row["path"] for row in report.rows() if row["skipped"] is None]
    assert rows == ["6/weight"]
    _, report = prune_one_shot(module, x, exclude=["6/*", module[0]], **settings)
    rows = [row["path"] for row in report.rows() if row["skipped"] is None]
    assert rows == ["2/weight", "8/weight"]


@pytest.mark.parametrize("pattern", ["2:4", "4x1", "channelx1", "1xchannel"])
def test_patterns(pattern):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    _, report = prune_one_shot(
        module, smooth(48, (8,)), 0.5, pattern=pattern, allocation="uniform", **QUICK
    )
    assert all(row["sparsity"] == 0.5 for row in report.rows())


@pytest.mark.slow
def test_sequences_attention_and_half_precision():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attend = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.lstm = nn.LSTM(8, 6, 2, batch_first=True, bidirectional=True)
            self.head = nn.Linear(12, 3)

        def forward(self, x):
            return self.head(self.lstm(self.attend(x))[0][:, -1])

    torch.manual_seed(0)
    net, x = Net(), smooth(64, (5, 8))
    settings = {"allocation": "uniform"} | QUICK
    pruned, report = prune_one_shot(net, x, 0.5, method="wanda", **settings)
    magnitude, _ = prune_one_shot(
        net, x, 0.5, method="magnitude", dense_target=False, centre=False, **settings
    )
    assert not [row for row in report.rows() if row["skipped"]]
    assert report.sparsity == 0.5
    assert output_error(net, pruned, x) < 0.6 * output_error(net, magnitude, x)
    assert all(p.requires_grad for p in pruned.parameters())
    half = nn.Linear(8, 4).to(torch.bfloat16)
    pruned, _ = prune_one_shot(half, smooth(48, (8,)), 0.5, method="wanda", **QUICK)
    assert pruned.weight.dtype == torch.bfloat16 and (pruned.weight == 0).sum() == 16


def test_a_compiled_module_gives_a_plain_copy():
    module, x = build(), smooth(32)
    compiled = torch.compile(module, backend="eager")
    plain, _ = prune_one_shot(module, x, 0.5, method="wanda", **QUICK)
    pruned, _ = prune_one_shot(compiled, x, 0.5, method="wanda", **QUICK)
    assert type(pruned) is nn.Sequential
    assert all(map(torch.equal, pruned.parameters(), plain.parameters()))
    module[6].compile(backend="eager")
    pruned, _ = prune_one_shot(compiled, x, 0.5, method="wanda", in_place=True, **QUICK)
    assert pruned is compiled
    assert all(map(torch.equal, module.parameters(), plain.parameters()))


def test_a_rule_for_a_module_of_your_own(monkeypatch):
    from keras_pruner.kernels import rules as kernel_rules
    from keras_pruner.oneshot.inputs import rules as input_rules

    monkeypatch.setattr(kernel_rules, "_RULES", list(kernel_rules._RULES))
    monkeypatch.setattr(input_rules, "_RULES", list(input_rules._RULES))

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Parameter(torch.randn(4, 2))

        def forward(self, x):
            return 2 * x @ self.mix

        def prunable_kernels(self):
            return {"mix": keras_pruner.kernels.dense_layout((4, 2))}

    module, x = Doubled(), smooth(16, (4,))
    _, report = prune_one_shot(module, x, 0.5, **QUICK)
    assert "register_kernel_inputs" in report.kernels[0].skipped
    keras_pruner.register_kernel_inputs(Doubled, lambda module, x: {"mix": 2 * x})
    pruned, report = prune_one_shot(module, x, 0.5, **QUICK)
    assert (pruned.mix == 0).sum() == 4 and report.kernels[0].error < 1


@pytest.mark.parametrize(
    "settings, error, message",
    [
        ({"data": smooth(8, (2, 6, 6)) * np.nan}, ValueError, "NaN"),
        ({"data": smooth(0)}, ValueError, "empty"),
        ({"data": smooth(8, (3, 6, 6))}, ValueError, "Sequential does not.*channels"),
        ({"criterion": "grasp"}, ValueError, "no meaning for `prune_one_shot`"),
        ({"pattern": "mha"}, ValueError, "attention layers only"),
        ({"target_sparsity": 1.5}, ValueError, "target_sparsity"),
        ({"include": "nothing"}, ValueError, "nothing"),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    module = build()
    before, modes = state_of(module), [part.training for part in module.modules()]
    given = {"data": smooth(8), "target_sparsity": 0.5} | settings
    with pytest.raises(error, match=message):
        prune_one_shot(module, in_place=True, **given, **QUICK)
    check_untouched(module, before, modes)


def test_a_nan_within_names_the_kernel():
    module = build()
    module[3].weight.data.fill_(np.nan)
    with pytest.raises(ValueError, match="'Linear' is NaN.*'6/weight'"):
        prune_one_shot(module, smooth(8), 0.5, check=False, method="wanda", **QUICK)


def test_random_layers_draw_the_same_in_each_pass():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x):
            return self.second(nn.functional.dropout(self.first(x), 0.5))

    torch.manual_seed(0)
    net, x = Noisy(), smooth(64, (8,))
    first, second = (
        list(prune_one_shot(net, x, 0.5, method="wanda", **QUICK)[0].parameters())
        for _ in "ab"
    )
    assert all(map(torch.equal, first, second))

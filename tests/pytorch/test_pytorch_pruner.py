"""`PytorchBasePruner`: which parameters it takes, and the masks that it makes."""

import keras
import numpy as np
import pytest
from conftest import BACKEND
from keras import layers, ops

from keras_pruner import (
    KerasBasePruner,
    PruningConfig,
    PytorchBasePruner,
    register_kernel_rule,
)
from keras_pruner.kernels import Kernel
from keras_pruner.pytorch import layouts

if BACKEND == "torch":
    import torch
    from torch import nn
    from torch.nn.utils import prune

on_torch = pytest.mark.skipif(
    BACKEND != "torch", reason="PytorchBasePruner needs KERAS_BACKEND=torch"
)


@pytest.mark.skipif(BACKEND == "torch", reason="an error of the other backends")
def test_other_backends_say_what_to_set():
    with pytest.raises(RuntimeError, match=f"'{BACKEND}'.*KERAS_BACKEND=torch before"):
        PytorchBasePruner({"target_sparsity": 0.5}, object())


# Modules beside the Keras layers with the same weights.


def to_keras(name, weight):
    """Turns a weight, or a mask, of a torch module into that of its Keras layer."""
    if weight.ndim == 2:
        return weight.T
    if name == "depthwise":
        # (inputs * 2, 1, *window) -> (*window, inputs, 2)
        return weight.reshape(-1, 2, *weight.shape[2:]).transpose(2, 3, 0, 1)
    # Outputs and inputs last; in a transposed convolution inputs come first in torch
    # and last in Keras, so it is the same order.
    return weight.transpose(*range(2, weight.ndim), 1, 0)


def twins():
    """Returns a dict of torch modules, and one of Keras layers of equal kernels."""
    torch.manual_seed(0)
    modules = {
        "dense": nn.Linear(16, 8),
        "conv1": nn.Conv1d(8, 8, 3),
        "conv2": nn.Conv2d(8, 16, (3, 2)),
        "conv3": nn.Conv3d(4, 8, 2),
        "grouped": nn.Conv2d(16, 8, 3, groups=2),
        "depthwise": nn.Conv2d(8, 16, 3, groups=8),
        "transposed": nn.ConvTranspose2d(8, 16, 3),
    }
    twin_layers = {
        "dense": layers.Dense(8),
        "conv1": layers.Conv1D(8, 3),
        "conv2": layers.Conv2D(16, (3, 2)),
        "conv3": layers.Conv3D(8, 2),
        "grouped": layers.Conv2D(8, 3, groups=2),
        "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2),
        "transposed": layers.Conv2DTranspose(16, 3),
    }
    for name, layer in twin_layers.items():
        weight = modules[name].weight.detach().numpy()
        rank = weight.ndim - 2
        channels = {"dense": 16, "conv3": 4, "grouped": 16}.get(name, 8)
        layer.build((None, *(8,) * rank, channels))
        layer.kernel.assign(to_keras(name, weight))
    return modules, twin_layers


def show_gradients(pruner, gradients):
    pruner.on_before_optimizer_step(gradients)
    pruner.on_after_optimizer_step()


def assert_equal_masks(config):
    modules, twin_layers = twins()
    config = {"begin_step": 1, "end_step": 1} | config
    pruner = PytorchBasePruner(config, modules)
    twin = KerasBasePruner(config, twin_layers)
    assert set(pruner.masks) == set(twin.masks)
    generator = np.random.default_rng(0)
    for _ in range(2):
        gradients = {
            kernel.path: generator.normal(size=kernel.layout.shape).astype("float32")
            for kernel in pruner.kernels
        }
        show_gradients(pruner, {n: torch.from_numpy(g) for n, g in gradients.items()})
        show_gradients(
            twin, {n: torch.from_numpy(to_keras(n, g)) for n, g in gradients.items()}
        )
    pruner.update_masks()
    twin.update_masks()
    for name, mask in pruner.masks.items():
        np.testing.assert_array_equal(
            to_keras(name, mask.numpy()), twin.masks[name].numpy(), err_msg=name
        )
        assert not modules[name].weight[~mask].any()
    assert pruner.num_pruned == twin.num_pruned > 0
    scores = twin.scores
    for name, score in pruner.scores.items():
        expected = ops.convert_to_numpy(scores[name])
        np.testing.assert_array_equal(to_keras(name, score.numpy()), expected)


@on_torch
@pytest.mark.parametrize("pattern", ["1x1", "4x1", "1x4", "2:4", "1:4"])
def test_masks_equal_those_of_keras_layers(pattern):
    target = 0.25 if pattern == "1:4" else 0.5
    assert_equal_masks({"pattern": pattern, "target_sparsity": target})


@on_torch
@pytest.mark.parametrize("pattern", ["channelx1", "1xchannel"])
def test_masks_of_channels_equal_those_of_keras_layers(pattern):
    assert_equal_masks(
        {"pattern": pattern, "allocation": "uniform", "target_sparsity": 0.5}
    )


@on_torch
@pytest.mark.parametrize(
    "criterion", ["lamp", "random", "snip_momentum", "fisher", "taylor", "movement"]
)
def test_criteria_equal_those_of_keras_layers(criterion):
    pattern = "4x1" if criterion == "taylor" else "1x1"
    assert_equal_masks(
        {"criterion": criterion, "pattern": pattern, "target_sparsity": 0.7}
    )


@on_torch
@pytest.mark.parametrize("allocation", ["uniform", "erk", "global", {"conv.": 0.8}])
def test_allocations_equal_those_of_keras_layers(allocation):
    assert_equal_masks({"allocation": allocation, "target_sparsity": 0.7})


def take_patch(x, layout, output):
    """Returns the inputs that one output sees, as (K,): window, then channels."""
    group = output // (layout.outputs // layout.groups)
    channels = x[group * layout.inputs : (group + 1) * layout.inputs]
    return np.moveaxis(channels, 0, -1).reshape(-1)


@on_torch
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_matrix_of_a_convolution_times_its_patch_is_its_output(groups):
    layer = nn.Conv2d(8, 16, (3, 2), groups=groups, bias=False)
    layout = layouts.conv_layout(layer.weight.shape, groups)
    matrix = layout.to_matrix(layer.weight.detach()).numpy()
    x = np.random.default_rng(0).normal(size=(8, 3, 2)).astype("float32")
    out = layer(torch.from_numpy(x)[None]).detach().numpy().reshape(-1)
    made = [take_patch(x, layout, n) @ matrix[:, n] for n in range(16)]
    np.testing.assert_allclose(made, out, atol=1e-5)


@on_torch
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_matrix_of_a_transposed_convolution_is_its_map(groups):
    layer = nn.ConvTranspose2d(8, 12, (3, 2), groups=groups, bias=False)
    layout = layouts.conv_transpose_layout(layer.weight.shape, groups)
    weight = layer.weight.detach()
    matrix = layout.to_matrix(weight)
    assert torch.equal(layout.from_matrix(matrix), weight)
    x = np.random.default_rng(0).normal(size=8).astype("float32")
    out = layer(torch.from_numpy(x)[None, :, None, None]).detach().numpy()[0]
    by_position = matrix.numpy().reshape(6, 8 // groups, 12)
    made = [
        by_position[:, :, n].reshape(3, 2, -1) @ take_patch(x, layout, n)
        for n in range(12)
    ]
    np.testing.assert_allclose(made, out, atol=1e-5)


@on_torch
def test_mask_of_a_linear_layer_by_eye():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 9.0], [8.0, 2.0]]))
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, {"fc": layer})
    pruner.update_masks()
    assert pruner.masks["fc"].tolist() == [[False, True], [True, False]]
    assert layer.weight.tolist() == [[0.0, 9.0], [8.0, 0.0]]
    assert pruner.current_sparsity_ratio == 0.5


# What it takes, and what it skips.


def paths(pruner):
    return [kernel.path for kernel in pruner.kernels]


def reasons(pruner):
    return {skip.path: skip.reason for skip in pruner.skipped}


if BACKEND == "torch":

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.rnn = nn.LSTM(8, 4, bidirectional=True, proj_size=2)
            self.cell = nn.GRUCell(4, 4)
            self.attention = nn.MultiheadAttention(8, 2)
            self.cross = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True)
            self.pair = nn.Bilinear(4, 3, 2)
            self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
            self.norm = nn.LayerNorm((2, 4))
            self.scale = nn.Parameter(torch.ones(4, 4))


@on_torch
def test_all_modules_are_found():
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, Net())
    assert paths(pruner) == [
        "rnn/weight_ih_l0",
        "rnn/weight_hh_l0",
        "rnn/weight_hr_l0",
        "rnn/weight_ih_l0_reverse",
        "rnn/weight_hh_l0_reverse",
        "rnn/weight_hr_l0_reverse",
        "cell/weight_ih",
        "cell/weight_hh",
        "attention/in_proj_weight",
        "attention/out_proj/weight",
        "cross/q_proj_weight",
        "cross/k_proj_weight",
        "cross/v_proj_weight",
        "cross/out_proj/weight",
        "pair/weight",
        "blocks/0/weight",
        "blocks/1/weight",
    ]
    shapes = {k.path: (k.layout.rows, k.layout.outputs) for k in pruner.kernels}
    assert shapes["attention/in_proj_weight"] == (8, 24)
    assert shapes["cross/k_proj_weight"] == (4, 8)
    assert shapes["rnn/weight_ih_l0"] == (8, 16)
    assert shapes["rnn/weight_hr_l0"] == (4, 2)
    assert shapes["pair/weight"] == (12, 2)
    assert set(reasons(pruner)) == {
        "embed/weight",
        "norm/weight",
        "norm/bias",
        "scale",
    }
    assert "add 'Embedding' to layer_types" in reasons(pruner)["embed/weight"]
    assert "no rule for module class LayerNorm" in reasons(pruner)["norm/weight"]
    assert "no rule for module class Net" in reasons(pruner)["scale"]


@on_torch
def test_selectors_take_regular_expressions_modules_and_types():
    net = Net()

    def chosen(**values):
        config = PruningConfig(target_sparsity=0.5, **values)
        return paths(PytorchBasePruner(config, net))

    assert chosen(include=["blocks"]) == ["blocks/0/weight", "blocks/1/weight"]
    assert chosen(include=["blocks.0.weight"]) == ["blocks/0/weight"]
    assert chosen(include=[net.blocks], exclude=[net.blocks[1]]) == ["blocks/0/weight"]
    assert chosen(layer_types=["Embedding"]) == ["embed/weight"]
    linear = PytorchBasePruner.complete({"pruning_op_types": ["Linear"]})[0]
    assert paths(PytorchBasePruner(linear, net)) == [
        "attention/out_proj/weight",
        "cross/out_proj/weight",
        "blocks/0/weight",
        "blocks/1/weight",
    ]
    with pytest.raises(ValueError, match="matches no prunable kernel"):
        chosen(include=[net.norm])


@on_torch
def test_local_configs_have_pruners_of_their_own():
    net = Net()
    pruner = PytorchBasePruner(
        {
            "target_sparsity": 0.5,
            "begin_step": 0,
            "end_step": 0,
            "local_configs": [
                {"include": [net.blocks], "pattern": "2:4", "pruning_type": "ste"},
                {"layer_types": "Embedding", "target_sparsity": 0.2},
            ],
        },
        net,
    )
    pruner.update_if_due()
    assert [p.config.pruning_type for p in pruner.pruners] == ["basic", "ste", "basic"]
    assert (net.blocks[0].weight.reshape(8, 2, 4) == 0).sum(2).tolist() == [[2, 2]] * 8
    assert (net.embed.weight == 0).sum() == 16
    assert "embed/weight" in pruner.masks
    assert "embed/weight" not in reasons(pruner)
    target = (0.5 * (pruner.num_weights - 80) + 0.2 * 80) / pruner.num_weights
    assert pruner.target_sparsity_ratio == pytest.approx(target)
    assert pruner.current_sparsity_ratio == pytest.approx(target, abs=1e-3)


@on_torch
def test_weights_that_cannot_be_pruned_are_skipped_with_the_reason():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 10)
            self.table = nn.Embedding(10, 4)
            self.table.weight = self.head.weight
            self.bag = nn.Embedding(6, 4, sparse=True)
            self.frozen = nn.Linear(4, 4)
            self.frozen.weight.requires_grad_(False)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.pruned = nn.Linear(4, 4)
            prune.l1_unstructured(self.pruned, "weight", 0.5)
            self.odd = nn.Linear(3, 5)
            self.fits = nn.Linear(4, 4)

    pruner = PytorchBasePruner({"target_sparsity": 0.5, "pattern": "2:4"}, Tied())
    assert paths(pruner) == ["fits/weight"]
    found = reasons(pruner)
    assert found["head/weight"].startswith("shared with the embedding 'table'")
    assert found["frozen/weight"] == "frozen: requires_grad=False"
    assert "remove that first" in found["normed/parametrizations/weight/original1"]
    assert found["pruned/weight_orig"].startswith("torch.nn.utils.prune or weight_norm")
    assert "divisible by 4" in found["odd/weight"]
    types = ["Embedding", "Linear"]
    embeddings = PytorchBasePruner({"layer_types": types}, Tied())
    assert "head/weight" in paths(embeddings)
    assert reasons(embeddings)["bag/weight"].startswith("its gradients are sparse")


@on_torch
def test_shared_parameters_are_pruned_once():
    first = nn.Linear(4, 4)
    second = nn.Linear(4, 4)
    second.weight = first.weight
    net = nn.Sequential(first, second, first)
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, net)
    assert paths(pruner) == ["0/weight"]
    assert pruner.num_weights == 16


@on_torch
def test_compiled_parts_have_the_names_of_the_plain_module():
    net = nn.Sequential(torch.compile(nn.Linear(4, 4), backend="eager"), nn.ReLU())
    compiled = torch.compile(net, backend="eager")
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, compiled)
    assert paths(pruner) == ["0/weight"]


@on_torch
def test_rules_of_users_for_their_modules():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(6, 4))
            self.other = nn.Parameter(torch.randn(6, 4))

    class Own(Scaled):
        def prunable_kernels(self):
            return {"other": layouts.linear_layout(self.other.shape)}

    @register_kernel_rule(Scaled)
    def rule(module):
        return {"matrix": layouts.linear_layout(module.matrix.shape)}

    net = nn.ModuleDict({"a": Scaled(), "b": Own()})
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, net)
    assert paths(pruner) == ["a/matrix", "b/other"]
    assert all(isinstance(kernel, Kernel) for kernel in pruner.kernels)


@on_torch
def test_a_dict_names_modules_and_parameters():
    net = Net()
    given = {"fc": net.blocks[0], "rnn": net.rnn, "raw": net.scale}
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, given)
    assert paths(pruner)[0] == "fc"
    assert paths(pruner)[1] == "rnn/weight_ih_l0"
    assert paths(pruner)[-1] == "raw"
    with pytest.raises(ValueError, match="made of a dict and never attached"):
        pruner.strip()


@on_torch
def test_nothing_to_prune_names_modules_and_reasons():
    net = nn.Sequential(nn.Embedding(4, 4), nn.LayerNorm((2, 2)), nn.Linear(4, 4))
    net[2].requires_grad_(False)
    with pytest.raises(ValueError, match="Nothing in the model can be pruned") as error:
        PytorchBasePruner({"target_sparsity": 0.5}, net)
    assert "0/weight (4, 4): embeddings are pruned only when asked" in str(error.value)
    assert "1/weight (2, 2): no rule for module class LayerNorm" in str(error.value)
    assert "2/weight (4, 4): frozen: requires_grad=False" in str(error.value)


@on_torch
def test_bad_modules_are_refused():
    def refused(modules, error, match, **config):
        with pytest.raises(error, match=match):
            PytorchBasePruner({"target_sparsity": 0.5} | config, modules)

    dense = layers.Dense(2)
    dense.build((None, 2))
    linear = nn.Linear(4, 4)
    refused(3, TypeError, "must be a torch.nn.Module, or a dict.*Received: int")
    refused({"a": 3}, TypeError, "Module 'a' must be a torch.nn.Module or")
    refused({"a": linear.bias}, ValueError, "'a' is a parameter of shape .4,.")
    refused(nn.Sequential(dense), ValueError, "holds the Keras layer 'dense.*Callback")
    refused(nn.LazyLinear(3), ValueError, "'weight' has no shape yet. Call the module")
    refused(nn.Linear(2, 2, device="meta"), ValueError, "'weight' is on the meta")
    refused(linear, ValueError, "'synflow' scores an untrained", criterion="synflow")
    refused(linear, ValueError, "Pattern 'mha' takes Keras' attention", pattern="mha")
    refused(linear, ValueError, "Unknown pruner", pruning_type="magic")
    with pytest.raises(ValueError, match="`framework` must be 'pytorch'.*'keras'"):
        PytorchBasePruner({}, linear, framework="keras")


@on_torch
def test_variables_share_memory_with_parameters():
    layer = nn.Linear(4, 4)
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, layer)
    assert pruner.kernels[0].variable.value is layer.weight
    assert layer.weight.requires_grad
    assert keras.backend.is_float_dtype(pruner.kernels[0].variable.dtype)
    assert ops.shape(pruner.masks["weight"]) == (4, 4)
    assert "PytorchBasePruner 1 kernels, pattern 1x1, sparsity 0.0000" in repr(pruner)

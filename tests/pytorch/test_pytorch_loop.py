"""`PytorchBasePruner` in training loops: hooks, true gradients, resuming, strip."""

import copy
import io

import numpy as np
import pytest
from conftest import BACKEND

import keras_pruner
from keras_pruner import PytorchBasePruner
from keras_pruner.pruners import PRUNERS

if BACKEND == "torch":
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

pytestmark = pytest.mark.skipif(
    BACKEND != "torch", reason="PytorchBasePruner needs KERAS_BACKEND=torch"
)

# Updates at 1, 3, 5 and 7 of 10 steps.
STEPS = {"target_sparsity": 0.5, "begin_step": 1, "end_step": 7, "frequency": 2}


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def batches(count=10):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(8, 16, generator=generator)
        yield x, torch.randint(0, 4, (8,), generator=generator)


def train(net, optimizer, data, after=lambda: None):
    for x, y in data:
        optimizer.zero_grad()
        cross_entropy(net(x), y).backward()
        optimizer.step()
        after()


def pruned_values(pruner):
    """The values of all weights that the masks zero, as one tensor."""
    masks = pruner.masks
    values = [k.variable.value.detach()[~masks[k.path]] for k in pruner.kernels]
    return torch.cat(values)


def weights_of(net):
    return torch.cat([p.detach().reshape(-1).clone() for p in net.parameters()])


def attached(config, net, **settings):
    optimizer = torch.optim.SGD(net.parameters(), **{"lr": 0.1, **settings})
    return PytorchBasePruner(config, net).attach(net, optimizer), optimizer


# Masks are enforced, whatever the optimizer.

OPTIMIZERS = {
    "adam_with_decay": lambda p: torch.optim.Adam(p, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, weight_decay=0.1, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, fused=True),
    "momentum": lambda p: torch.optim.SGD(
        p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "rmsprop": lambda p: torch.optim.RMSprop(p, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_are_zero_after_every_step(name):
    net = build()
    optimizer = OPTIMIZERS[name](net.parameters())
    pruner = PytorchBasePruner(STEPS, net).attach(net, optimizer)
    counts = []

    def check():
        counts.append(pruner.num_pruned)
        assert pruned_values(pruner).numel() == pruner.num_pruned
        assert not pruned_values(pruner).any()

    train(net, optimizer, batches(), check)
    # Of 16 * 16 + 16 * 4 = 320, by the cubic schedule at p = 1/3, 2/3 and 1.
    expected = [round(320 * (0.5 - 0.5 * (1 - p / 3) ** 3)) for p in range(4)]
    assert counts == [expected[min(3, n // 2)] for n in range(10)]
    pruner.detach()
    assert pruner.is_done
    assert pruner.current_sparsity_ratio == 0.5
    assert pruner.global_step == 10


def test_pruned_weights_gather_no_momentum():
    net = build()
    config = STEPS | {"begin_step": 0, "end_step": 0}
    pruner, optimizer = attached(config, net, momentum=0.9)
    train(net, optimizer, batches(3))
    for kernel in pruner.kernels:
        momentum = optimizer.state[kernel.variable.value]["momentum_buffer"]
        assert not momentum[~pruner.masks[kernel.path]].any()
        assert momentum[pruner.masks[kernel.path]].any()


@pytest.mark.parametrize("pruning_type", sorted(set(PRUNERS) - {"pattern_lock"}))
def test_all_pruners_train_torch_modules(pruning_type):
    net = build()
    settings = {
        "progressive": {"pattern": "4x1"},
        "block_mask": {"pattern": "4x1"},
        "retrain_free": {"pattern": "1xchannel", "begin_step": 5},
    }
    config = STEPS | {"pruning_type": pruning_type} | settings.get(pruning_type, {})
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=0.1)
    pruner = PytorchBasePruner(config, net).attach(net, optimizer)
    train(net, optimizer, batches(), lambda: check_zero(pruner))
    pruner.detach()
    assert pruner.num_pruned == sum((~m).sum() for m in pruner.masks.values())
    assert pruner.current_sparsity_ratio == pytest.approx(0.5, abs=0.01)


def check_zero(pruner):
    assert not pruned_values(pruner).any()


def test_pattern_lock_keeps_the_zeros():
    net = build()
    with torch.no_grad():
        net[0].weight[:8] = 0
    config = {"pruning_type": "pattern_lock", "include": [net[0]]}
    pruner, optimizer = attached(config, net)
    train(net, optimizer, batches(3))
    assert pruner.num_pruned == 128
    assert not net[0].weight[:8].any()
    assert net[0].weight[8:].all()


def test_parameter_groups_and_their_learning_rates():
    net = build()
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.fill_(1.0)
    optimizer = torch.optim.SGD(
        [
            {"params": net[0].parameters(), "lr": 1.0},
            {"params": net[2].parameters(), "lr": 3.0},
        ]
    )
    config = {"begin_step": 9, "end_step": 9, "regularizer": "l1"}
    pruner = PytorchBasePruner(config | {"regularizer_strength": 0.125}, net)
    pruner.attach(net, optimizer)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.equal(net[0].weight, torch.full((16, 16), 1 - 0.125))
    assert torch.equal(net[2].weight, torch.full((4, 16), 1 - 3 * 0.125))


def test_shared_parameters_stay_zero():
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    net[2].weight = net[0].weight
    pruner, optimizer = attached(STEPS | {"begin_step": 0, "end_step": 0}, net)
    train(net, optimizer, batches(3), lambda: check_zero(pruner))
    assert pruner.num_pruned == 128


def test_a_module_without_a_part_in_the_loss():
    for pruning_type in ("basic", "ste"):
        net = nn.ModuleDict({"used": build(), "spare": nn.Linear(4, 4)})
        config = STEPS | {"pruning_type": pruning_type, "allocation": "uniform"}
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        pruner = PytorchBasePruner(config, net).attach(net, optimizer)
        before = net["spare"].weight.detach().clone()
        train(net["used"], optimizer, batches())
        kept = pruner.masks["spare/weight"]
        assert kept.sum() == 8
        assert torch.equal(net["spare"].weight, torch.where(kept, before, 0))


@pytest.mark.parametrize("name", ["SGD", "LBFGS"])
def test_closures(name):
    net = build()
    optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.1)
    config = STEPS | {"criterion": "snip"}
    pruner = PytorchBasePruner(config, net).attach(net, optimizer)
    for x, y in batches():

        def closure(x=x, y=y):
            optimizer.zero_grad()
            loss = cross_entropy(net(x), y)
            loss.backward()
            return loss

        assert optimizer.step(closure) > 0
        check_zero(pruner)
    assert pruner.num_pruned == 160
    assert pruner.global_step == 10


def test_closures_that_run_several_times_refuse_dense_weights():
    net = build()
    optimizer = torch.optim.LBFGS(net.parameters())
    PytorchBasePruner(STEPS | {"pruning_type": "ste"}, net).attach(net, optimizer)
    x, y = next(batches())

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(net(x), y)
        loss.backward()
        return loss

    with pytest.raises(ValueError, match="LBFGS calls its closure several times"):
        optimizer.step(closure=closure)


# Criteria see the true gradient.


def true_gradients(net, data):
    """Returns the mean gradients of several batches, by autograd alone."""
    losses = [cross_entropy(net(x), y) for x, y in data]
    kernels = [net[0].weight, net[2].weight]
    return torch.autograd.grad(sum(losses) / len(losses), kernels)


def prepared(optimizer_class="SGD", grad_scaler=None, **settings):
    """Returns a module, half of which is pruned by SNIP, a pruner, an optimizer."""
    net = build()
    optimizer = getattr(torch.optim, optimizer_class)(net.parameters(), lr=0.1)
    if settings.pop("fused", False):
        optimizer = torch.optim.Adam(net.parameters(), lr=0.1, fused=True)
    config = {"criterion": "snip", "target_sparsity": 0.5, "begin_step": 1}
    config |= {"end_step": 1} | settings
    pruner = PytorchBasePruner(config, net)
    pruner.attach(net, optimizer, grad_scaler=grad_scaler)
    train(net, optimizer, batches(1))
    assert pruner.num_pruned == 160
    optimizer.zero_grad()
    return net, pruner, optimizer


def watch(pruner, monkeypatch):
    """Returns a list to which the gradients that the rules see are added."""
    seen = []
    for rule in pruner.pruners[0].rules.values():

        def accumulate(state, weight, gradient, own=rule.accumulate):
            seen.append(gradient.clone())
            return own(state, weight, gradient)

        monkeypatch.setattr(rule, "accumulate", accumulate)
    return seen


def assert_seen(seen, expected, pruner):
    assert len(seen) == 2
    for gradient, true, mask in zip(seen, expected, pruner.masks.values(), strict=True):
        torch.testing.assert_close(gradient, true, rtol=1e-4, atol=1e-6)
        assert true[~mask].any()
    assert not pruned_values(pruner).any()


def test_snip_sees_the_gradient_of_autograd(monkeypatch):
    net, pruner, optimizer = prepared()
    data = list(batches(2))[1:]
    expected = true_gradients(net, data)
    seen = watch(pruner, monkeypatch)
    train(net, optimizer, data)
    assert_seen(seen, expected, pruner)


def test_the_first_mask_is_by_the_gradient_of_autograd():
    net = build()
    config = {"criterion": "snip", "allocation": "uniform", "target_sparsity": 0.5}
    pruner, optimizer = attached(config | {"begin_step": 1, "end_step": 1}, net, lr=0)
    data = list(batches(1))
    scores = [
        (w * g).abs()
        for w, g in zip(
            (net[0].weight, net[2].weight), true_gradients(net, data), strict=True
        )
    ]
    train(net, optimizer, data)
    for mask, score in zip(pruner.masks.values(), scores, strict=True):
        lowest = score.detach().reshape(-1).argsort()[: score.numel() // 2]
        assert not mask.reshape(-1)[lowest].any()
        assert mask.sum() == score.numel() // 2


@pytest.mark.parametrize("in_place", [False, True])
def test_clipping_and_accumulation(monkeypatch, in_place):
    net, pruner, optimizer = prepared()
    seen = watch(pruner, monkeypatch)
    for part in range(2):
        data = list(batches(6))[2 * part + 1 : 2 * part + 3]
        expected = true_gradients(net, data)
        optimizer.zero_grad(set_to_none=not in_place)
        for x, y in data:
            (cross_entropy(net(x), y) / 2).backward()
        # Pruned weights have no share in the norm.
        shares = [
            gradient[mask].square().sum()
            for gradient, mask in zip(expected, pruner.masks.values(), strict=True)
        ]
        biases = [net[0].bias.grad.square().sum(), net[2].bias.grad.square().sum()]
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        torch.testing.assert_close(norm, sum(shares + biases).sqrt())
        optimizer.step()
        assert_seen(seen[-2:], expected, pruner)
    assert pruner.global_step == 3


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("unscale", [False, True])
def test_loss_scaling(monkeypatch, fused, unscale):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    net, pruner, optimizer = prepared(fused=fused, grad_scaler=scaler)
    seen = watch(pruner, monkeypatch)
    data = list(batches(2))[1:]
    expected = true_gradients(net, data)
    (x, y), before = data[0], pruner.global_step
    scaler.scale(cross_entropy(net(x), y)).backward()
    if unscale:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
    scaler.step(optimizer)
    scaler.update()
    assert pruner.global_step == before + 1
    assert_seen(seen, expected, pruner)


def test_a_scaler_that_was_not_named_is_an_error_where_gradients_count():
    step = torch.amp.GradScaler.step
    net, pruner, optimizer = prepared()
    scaler = torch.amp.GradScaler("cpu")
    x, y = next(batches())
    scaler.scale(cross_entropy(net(x), y)).backward()
    with pytest.raises(ValueError, match="GradScaler scales the loss.*grad_scaler=sca"):
        scaler.step(optimizer)
    pruner.detach()
    # A criterion that looks at no gradient needs no scaler.
    other, optimizer = attached(STEPS, net)
    scaler.scale(cross_entropy(net(x), y)).backward()
    scaler.step(optimizer)
    other.detach()
    assert torch.amp.GradScaler.step is step


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_loss_scaling_skips_is_no_step(monkeypatch, fused):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    net, pruner, optimizer = prepared(fused=fused, grad_scaler=scaler)
    seen = watch(pruner, monkeypatch)
    before, weights = pruner.global_step, weights_of(net)
    x, y = next(batches())
    scaler.scale(cross_entropy(net(x), y)).backward()
    net[0].weight.grad[0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    assert pruner.global_step == before
    assert torch.equal(weights_of(net), weights)
    assert seen == []
    # The gradient that was skipped is in no later one.
    optimizer.zero_grad()
    data = list(batches(2))[1:]
    expected = true_gradients(net, data)
    scaler.scale(cross_entropy(net(data[0][0]), data[0][1])).backward()
    scaler.step(optimizer)
    assert_seen(seen, expected, pruner)


def test_autocast_around_the_whole_loop():
    net = build()
    pruner, optimizer = attached(STEPS | {"criterion": "fisher"}, net)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train(net, optimizer, batches())
    assert pruner.num_pruned == 160
    assert memory_of(pruner).dtype == torch.float32


def memory_of(pruner):
    return pruner.pruners[0].state_variables["0/weight"]["memory"].value


def test_straight_through_steps_on_dense_weights():
    net, plain = build(), build()
    config = {"pruning_type": "ste", "target_sparsity": 0.5, "allocation": "uniform"}
    pruner, optimizer = attached(config | {"begin_step": 0, "end_step": 0}, net)
    dense = [layer.weight.detach().clone() for layer in (plain[0], plain[2])]
    for x, y in batches(3):
        gradients = true_gradients(net, [(x, y)])
        train(net, optimizer, [(x, y)])
        for index, (gradient, mask) in enumerate(
            zip(gradients, pruner.masks.values(), strict=True)
        ):
            dense[index] -= 0.1 * gradient
            expected = torch.where(mask, dense[index], 0)
            weight = (net[0], net[2])[index].weight
            torch.testing.assert_close(weight.detach(), expected)


def test_rigl_grows_where_the_gradient_is_and_empties_slots():
    net = build()
    optimizer = torch.optim.Adam(net.parameters())
    config = {"pruning_type": "rigl", "target_sparsity": 0.5, "begin_step": 0}
    config |= {"end_step": 4, "frequency": 2}
    pruner = PytorchBasePruner(config, net).attach(net, optimizer)
    train(net, optimizer, batches(1))
    before, (x, y) = pruner.masks, list(batches(2))[1]
    gradients = true_gradients(net, [(x, y)])
    train(net, optimizer, [(x, y)])
    for kernel, gradient in zip(pruner.kernels, gradients, strict=True):
        old, new = before[kernel.path], pruner.masks[kernel.path]
        grown = new & ~old
        assert grown.any()
        rest = gradient[~new & ~old].abs()
        assert (rest <= gradient[grown].abs().min()).all()
        state = optimizer.state[kernel.variable.value]
        for slot in ("exp_avg", "exp_avg_sq"):
            assert not state[slot][grown].any()
            assert state[slot][new & old].all()


def test_lottery_tickets_rewind_all_weights_and_steps():
    net = build()
    optimizer = torch.optim.Adam(net.parameters())
    config = {"pruning_type": "lottery_ticket", "target_sparsity": 0.5}
    config |= {"begin_step": 1, "end_step": 3, "frequency": 2}
    pruner = PytorchBasePruner(config, net).attach(net, optimizer)
    train(net, optimizer, batches(1))
    early = copy.deepcopy(net.state_dict())
    train(net, optimizer, batches(2))
    assert pruner.num_pruned == 160
    for name, value in net.state_dict().items():
        mask = pruner.masks.get(name.replace(".", "/"), torch.tensor(True))
        assert torch.equal(value, torch.where(mask, early[name], 0))
        state = optimizer.state[dict(net.named_parameters())[name]]
        assert state["step"] == 1
        assert not state["exp_avg"].any()


def test_retrain_free_leaves_the_weights():
    net = build()
    config = {"pruning_type": "retrain_free", "pattern": "1xchannel"}
    config |= {"target_sparsity": 0.5, "begin_step": 3, "include": [net[0]]}
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.5)
    pruner = PytorchBasePruner(config, net).attach(net, optimizer)
    before = weights_of(net)
    train(net, optimizer, batches(2))
    assert torch.equal(weights_of(net), before)
    train(net, optimizer, batches(1))
    assert pruner.num_pruned == 128
    changed = weights_of(net) != before
    assert changed.sum() == 128


def test_nan_weights_are_named_and_leave_the_masks():
    net = build()
    pruner, optimizer = attached(STEPS, net)
    train(net, optimizer, batches(4))
    before = pruner.masks
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    with pytest.raises(ValueError, match="NaN or infinite weights in 0/weight"):
        optimizer.step()
    for path, mask in pruner.masks.items():
        assert torch.equal(mask, before[path])
    assert not pruned_values(pruner).any()


# torch.compile.


def test_compiled_modules_train_as_plain_ones():
    results = []
    for compiles in (False, True):
        net = build()
        model = torch.compile(net, backend="eager") if compiles else net
        optimizer = torch.optim.Adam(model.parameters())
        config = STEPS | {"criterion": "snip_momentum"}
        pruner = PytorchBasePruner(config, model).attach(model, optimizer)
        train(model, optimizer, batches(), lambda p=pruner: check_zero(p))
        pruner.detach()
        assert list(pruner.masks) == ["0/weight", "2/weight"]
        plain = pruner.strip()
        assert type(plain) is nn.Sequential
        results.append(weights_of(plain))
    assert torch.equal(*results)


# Attaching and detaching.


def test_hooks_by_hand_do_what_attach_does():
    results = []
    for by_hand in (False, True):
        net = build()
        optimizer = torch.optim.Adam(net.parameters())
        pruner = PytorchBasePruner(STEPS | {"criterion": "fisher"}, net)
        if by_hand:
            pruner.on_train_begin()
            for step, (x, y) in enumerate(batches()):
                pruner.on_step_begin(step)
                optimizer.zero_grad()
                cross_entropy(net(x), y).backward()
                pruner.on_before_optimizer_step()
                optimizer.step()
                pruner.on_after_optimizer_step()
            pruner.on_train_end()
        else:
            pruner.attach(net, optimizer)
            train(net, optimizer, batches())
            pruner.detach()
        assert pruner.is_done
        results.append(weights_of(net))
    assert torch.equal(*results)


def test_detach_leaves_nothing_behind_and_attach_goes_on():
    net = build()
    pruner, optimizer = attached(STEPS, net)
    train(net, optimizer, batches(4))
    assert pruner.detach() is None
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert not any(p._post_accumulate_grad_hooks for p in net.parameters())
    train(net, optimizer, batches(1))
    assert pruned_values(pruner).any()
    assert pruner.global_step == 4
    pruner.attach(net, optimizer)
    train(net, optimizer, batches(3))
    assert pruner.global_step == 7
    assert pruner.num_pruned == 160
    with pytest.raises(ValueError, match="is attached already: call `detach`"):
        pruner.attach(net, optimizer)
    pruner.detach()
    with pytest.raises(ValueError, match="is not attached: call `attach`"):
        pruner.detach()


def test_open_steps_need_the_length_of_the_training():
    net = build()
    optimizer = torch.optim.SGD(net.parameters())
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, net)
    with pytest.raises(ValueError, match="leaves `begin_step` or `end_step` open"):
        pruner.attach(net, optimizer)
    assert not optimizer._optimizer_step_pre_hooks
    pruner.attach(net, optimizer, total_steps=12)
    assert pruner.end_step == 9
    train(net, optimizer, batches(9))
    assert pruner.is_done


def test_wrong_modules_and_optimizers_are_refused():
    net, other = build(), build()
    pruner = PytorchBasePruner(STEPS, net)
    everything = torch.optim.SGD(net.parameters())
    part = torch.optim.SGD(net[0].parameters())

    def refused(module, optimizer, error, match):
        with pytest.raises(error, match=match):
            pruner.attach(module, optimizer)
        assert not everything._optimizer_step_pre_hooks

    refused(other, everything, ValueError, "`module` has not these.*: 0/weight, 2/we")
    refused(net, part, ValueError, "`optimizer` has not these.*: 2/weight. Add them to")
    refused(3, everything, TypeError, "`module` must be a torch.nn.Module. Received: 3")
    refused(net, "adam", TypeError, "`optimizer` must be a torch.optim.Optimizer")


def test_gradients_may_be_given_by_name():
    net = build()
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, net)
    pruner.update_masks()
    given = {"0/weight": torch.ones(16, 16)}
    shaped = pruner.on_before_optimizer_step(given)
    assert torch.equal(shaped["0/weight"], pruner.masks["0/weight"].float())
    assert given["0/weight"].all()
    with pytest.raises(ValueError, match="Gradients are given for x, which is not"):
        pruner.on_before_optimizer_step({"x": torch.ones(1)})


# Resuming.


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"criterion": "snip_momentum", "low_memory_usage": True},
        {"pruning_type": "rigl"},
        {"pruning_type": "ste"},
        {"pruning_type": "str"},
        {"pruning_type": "st3"},
        {"pruning_type": "feather"},
        {"pruning_type": "lottery_ticket"},
        {"pruning_type": "progressive", "pattern": "4x1"},
        {"regularizer": "growing_l1", "regularizer_strength": 0.1},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "basic",
)
@pytest.mark.parametrize("attach_first", [False, True])
def test_a_run_resumes_bit_for_bit(settings, attach_first):
    config, data = STEPS | settings, list(batches())

    def begin():
        net = build()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        return net, optimizer, PytorchBasePruner(config, net)

    net, optimizer, pruner = begin()
    pruner.attach(net, optimizer)
    train(net, optimizer, data[:4])
    file = io.BytesIO()
    parts = {"net": net, "optimizer": optimizer, "pruner": pruner}
    torch.save({name: part.state_dict() for name, part in parts.items()}, file)
    train(net, optimizer, data[4:])
    uninterrupted, masks = weights_of(net), pruner.masks

    net, optimizer, pruner = begin()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    if attach_first:
        pruner.attach(net, optimizer)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    for name, part in {"net": net, "optimizer": optimizer, "pruner": pruner}.items():
        part.load_state_dict(saved[name])
    assert pruner.global_step == 4
    if not attach_first:
        pruner.attach(net, optimizer)
    train(net, optimizer, data[4:])
    assert torch.equal(weights_of(net), uninterrupted)
    for name, mask in pruner.masks.items():
        assert torch.equal(mask, masks[name])


def test_saved_masks_take_one_bit_a_weight():
    pruner = PytorchBasePruner(STEPS, build())
    sizes = {n: v.numel() for n, v in pruner.state_dict().items() if "mask" in n}
    assert sum(sizes.values()) == 320 / 8


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    net = build()
    pruner = PytorchBasePruner(STEPS | {"criterion": "snip"}, net)
    before = weights_of(net)

    def refused(state, match, error=ValueError):
        with pytest.raises(error, match=match):
            pruner.load_state_dict(state)
        assert torch.equal(weights_of(net), before)
        assert all(mask.all() for mask in pruner.masks.values())

    def saved(module=None, **settings):
        module = build() if module is None else module
        other = PytorchBasePruner(STEPS | {"criterion": "snip"} | settings, module)
        return other.state_dict()

    wide = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    refused(saved(wide), r"mask of kernel '0/weight' has shape \(8, 16\) in it, and")
    refused(saved(exclude=["2"]), "it has no mask of kernel '2/weight'")
    refused(saved(criterion="fisher"), "'0/weight' was pruned with criterion='?.*fish")
    refused(saved(pattern="2:4"), "was pruned with pattern='2:4', and is with")
    whole = saved()
    name = next(name for name in whole if "memory" in name)
    refused(whole | {name: whole[name] + 1}, "is damaged. Use an older file")
    refused({n: v for n, v in whole.items() if n != name}, "is damaged")
    refused({}, "is no pruning state")
    refused("file", "A state is a dict.*Received: 'file'", TypeError)
    pruner.load_state_dict(whole)


# Strip.


def test_strip_returns_a_plain_copy_and_leaves_its_input():
    net = build()
    pruner, optimizer = attached(STEPS, net)
    train(net, optimizer, batches())
    before = weights_of(net)
    for plain in (pruner.strip(), keras_pruner.strip(net)):
        assert type(plain) is nn.Sequential
        assert not any(p._post_accumulate_grad_hooks for p in plain.parameters())
        assert all(p.requires_grad and p.grad is None for p in plain.parameters())
        assert torch.equal(weights_of(plain), before)
        x, _ = next(batches())
        assert torch.equal(plain(x), net(x))
        shared = {p.data_ptr() for p in plain.parameters()}
        assert not shared & {p.data_ptr() for p in net.parameters()}
    assert all(p._post_accumulate_grad_hooks for p in (net[0].weight, net[2].weight))
    assert torch.equal(weights_of(net), before)
    pruner.detach()


def test_strip_takes_out_compiled_parts_and_keeps_what_is_shared():
    shared = nn.Linear(4, 4)
    compiled = torch.compile(nn.Sequential(shared, nn.ReLU()), backend="eager")
    net = torch.compile(nn.Sequential(compiled, shared), backend="eager")
    pruner = PytorchBasePruner({"target_sparsity": 0.5}, net)
    pruner.update_masks()
    plain = pruner.strip()
    assert [type(m) for m in plain.modules()] == [
        nn.Sequential,
        nn.Sequential,
        nn.Linear,
        nn.ReLU,
    ]
    assert plain[0][0] is plain[1]
    assert (plain[1].weight == 0).sum() == 8
    assert hasattr(net, "_orig_mod")


def test_strip_of_an_average_of_weights():
    net = build()
    average = torch.optim.swa_utils.AveragedModel(net)
    pruner, optimizer = attached(STEPS, net)
    train(net, optimizer, batches(), lambda: average.update_parameters(net))
    before = weights_of(average.module)
    plain = pruner.strip(average.module)
    for name, parameter in plain.named_parameters():
        kept = pruner.masks.get(name.replace(".", "/"), torch.tensor(True))
        original = average.module.get_parameter(name)
        assert torch.equal(parameter, torch.where(kept, original, 0))
    assert torch.equal(weights_of(average.module), before)
    with pytest.raises(ValueError, match="has not the parameters.*'0.weight' .16, 16."):
        pruner.strip(nn.Linear(2, 2))


def test_a_dropped_loop_is_freed(collect_garbage):
    net = build()
    pruner, optimizer = attached(STEPS | {"criterion": "snip"}, net)
    train(net, optimizer, batches(2))
    gradient = net[0].weight.grad
    attachment = pruner._attachment
    assert len(attachment._true) == 0
    cross_entropy(net(next(batches())[0]), next(batches())[1]).backward()
    assert len(attachment._true) == 2
    del gradient
    optimizer.zero_grad()
    collect_garbage()
    assert len(attachment._true) == 0


def test_local_configs_train_together():
    net = build()
    config = STEPS | {
        "local_configs": [{"include": [net[2]], "pattern": "2:4", "criterion": "snip"}]
    }
    pruner, optimizer = attached(config, net)
    train(net, optimizer, batches(), lambda: check_zero(pruner))
    assert np.all(pruner.masks["2/weight"].numpy().reshape(4, 4, 4).sum(-1) == 2)
    assert pruner.masks["0/weight"].sum() == 128
    pruner.load_state_dict(pruner.state_dict())
    assert pruner.num_pruned == 160

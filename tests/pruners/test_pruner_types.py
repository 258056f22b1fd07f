"""Pruners that end in a fixed sparse model, and the names by which they are chosen."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, value_of
from keras import ops
from keras.optimizers import SGD, Adam
from linear import (
    PATHS,
    A,
    B,
    fit,
    history,
    linear_model,
    lowest,
    pruner_of,
    step,
    train,
)
from numpy.testing import assert_allclose, assert_array_equal

from keras_pruner import PruningCallback, create_pruners
from keras_pruner.backend import moving_average_of
from keras_pruner.components import CRITERIA
from keras_pruner.pruners import (
    BasicPruner,
    BlockMaskPruner,
    LotteryTicket,
    PatternLock,
    Progressive,
    RetrainFreePruner,
)

pytestmark = pytest.mark.usefixtures("eager_masks")


@pytest.mark.parametrize(
    "name, pruner, criterion",
    [
        ("magnitude", BasicPruner, "magnitude"),
        ("snip_momentum", BasicPruner, "snip_momentum"),
        ("gradient", BasicPruner, "gradient"),
        ("progressive", Progressive, "magnitude"),
        ("magnitude_progressive", Progressive, "magnitude"),
        ("snip_momentum_progressive", Progressive, "snip_momentum"),
        ("block_mask", BlockMaskPruner, "block_mask"),
        ("block_mask_progressive", Progressive, "block_mask"),
        ("retrain_free", RetrainFreePruner, "retrain_free"),
        ("pattern_lock", PatternLock, "magnitude"),
        ("lottery_ticket", LotteryTicket, "magnitude"),
    ],
)
def test_pruning_type_names_pruner_and_criterion_as_intel_does(name, pruner, criterion):
    config = {"pruning_type": name, "pattern": "1xchannel"}
    (made,) = create_pruners(config, build_mlp())
    assert type(made) is pruner and made.config.criterion.name == criterion


@pytest.mark.parametrize(
    "name, settings, options, message",
    [
        ("snip_momentun", {}, {}, "Unknown pruner 'snip_momentun'"),
        (
            "rigl_progressive",
            {},
            {},
            "pruner 'rigl_progressive'.*'progressive'",
        ),
        ("snip", {"criterion": "fisher"}, {}, "says the criterion 'snip', but `crit"),
        (
            "basic",
            {},
            {"seed": 1},
            "'seed' of pruner 'basic'. Its options: none",
        ),
        ("progressive", {"pattern": "1x1"}, {}, "pattern '1x1' has none. Use"),
        ("progressive", {}, {"num_sub_steps": 0}, r"in \[1, 1000\]. Received: 0"),
        (
            "progressive",
            {},
            {"num_sub_steps": 2.0},
            "be an integer. Received: 2.0",
        ),
        ("pattern_lock", {"criterion": "snip"}, {}, "scores no weights: leave `crit"),
        ("block_mask", {"pattern": "1x1"}, {}, "pattern '1x1' chooses single weights"),
        ("block_mask", {"pattern": "1:4"}, {}, "Use a pattern such as '4x1'"),
        ("block_mask", {"criterion": "snip"}, {}, "open. Received: criterion='snip'"),
        ("retrain_free", {"pattern": "4x1"}, {}, "whole channels or heads.*'4x1'"),
        ("retrain_free", {"pattern": "1:4"}, {}, "'channelx1', '1xchannel'"),
        ("retrain_free", {"criterion": "snip"}, {}, "Received: criterion='snip'"),
        ("lottery_ticket", {}, {"num_rounds": True}, "must be an integer"),
        ("lottery_ticket", {}, {"num_rounds": 0}, r"in \[1, 1000\]. Received: 0"),
    ],
)
def test_what_a_pruner_cannot_do_is_an_error(name, settings, options, message):
    settings = {"pattern": "1xchannel", "pruner_options": options} | settings
    with pytest.raises((ValueError, TypeError), match=message):
        config = {"pruning_type": name, "target_sparsity": 0.2} | settings
        create_pruners(config, build_mlp())


# Progressive.


def test_progressive_of_a_literal_kernel():
    settings = dict(pruning_type="progressive", pattern="1xchannel")
    settings |= dict(target_sparsity=0.5, end_step=4, frequency=4)
    w = [[8, 7, 2, 1], [9, 7, 3, 5]]
    pruner, w = pruner_of({"w": w}, **settings)
    # The last two columns are to go, a weight at a time.
    for expected in (
        [[8, 7, 2, 1], [9, 7, 3, 5]],
        [[8, 7, 2, 0], [9, 7, 3, 5]],
        [[8, 7, 0, 0], [9, 7, 3, 5]],
        [[8, 7, 0, 0], [9, 7, 0, 5]],
        [[8, 7, 0, 0], [9, 7, 0, 0]],
        [[8, 7, 0, 0], [9, 7, 0, 0]],
    ):
        step(pruner, np.zeros((2, 4)))
        assert_array_equal(value_of(w), expected)


@pytest.mark.parametrize(
    "settings, num_pruned",
    [
        # Structured masks of 0, 16 and 32 of 64 weights, and equal steps between them.
        ({"end_step": 8, "frequency": 4}, [0, 4, 8, 12, 16, 20, 24, 28, 32, 32]),
        (
            {"end_step": 8, "frequency": 4, "initial_sparsity": 0.25},
            [16, 18, 20, 22, 24, 26, 28, 30, 32, 32],
        ),
        ({"end_step": 6, "frequency": 3}, [0, 5, 10, 16, 21, 26, 32, 32]),
        # With 2 sub-steps, which divide 4 steps and not 5.
        ({"end_step": 8, "frequency": 5}, [0, 0, 8, 8, 16, 16, 24, 24, 32]),
        ({"end_step": 2, "frequency": 1}, [0, 16, 32, 32]),
        ({"end_step": 3, "frequency": 4}, [32, 32]),
        ({"end_step": 0}, [32, 32]),
    ],
)
def test_progressive_goes_in_even_steps_to_the_exact_end(settings, num_pruned):
    options = {"num_sub_steps": 2 if settings.get("frequency") == 5 else 4}
    settings = dict(pruning_type="progressive", pruner_options=options) | settings
    settings |= dict(pattern="1xchannel", schedule="linear", target_sparsity=0.5)
    pruner, w = pruner_of({"w": A}, **settings)
    found = []
    for _ in num_pruned:
        step(pruner, np.zeros((8, 8)))
        found.append(pruner.num_pruned)
        assert np.count_nonzero(value_of(w)) == 64 - pruner.num_pruned
    assert found == num_pruned
    assert pruner.is_done and (value_of(w) == 0).all(0).sum() == 4


@pytest.mark.parametrize("pattern", ["2x2", "channelx1", "1xchannel"])
@pytest.mark.parametrize("criterion", [n for n, c in CRITERIA.items() if c.pools])
def test_progressive_goes_by_scores_of_groups_in_any_shape(criterion, pattern):
    # Some criteria score groups in the shape of the pattern, others in one axis.
    settings = dict(pruning_type="progressive", criterion=criterion, pattern=pattern)
    settings |= dict(begin_step=1, end_step=5, frequency=4, target_sparsity=0.5)
    pruner, w = pruner_of({"w": A}, **settings)
    gradients, found = np.random.default_rng(0), []
    for _ in range(7):
        step(pruner, gradients.normal(size=(8, 8)))
        found.append(pruner.num_pruned)
    assert found == [0, 0, 8, 16, 24, 32, 32]
    (kernel,) = pruner.kernels
    mask = ops.cast(value_of(w) != 0, "float32")
    shares = pruner.pattern.group_scores(mask, kernel.layout, "mean")
    assert set(value_of(shares).ravel()) == {0, 1}


def test_progressive_in_fit_prunes_the_lowest_of_what_leaves():
    settings = dict(pruning_type="progressive", pattern="1xchannel", frequency=4)
    settings |= dict(begin_step=0, end_step=12, target_sparsity=0.5, include=".*")
    model = linear_model(SGD(0.05))
    _, before, after = train(model, 14, allocation="uniform", **settings)
    # Columns that are gone at steps 4, 8 and 12: of 8, and of 4.
    gone = {"a/kernel": (3, 4, 4), "b/kernel": (1, 2, 2)}
    for now, path, _, old, new, _ in history(before, after, since=1):
        goal = old.states["goal"]
        leaving = old.mask & ~goal
        assert not (goal & ~old.mask).any()
        if now > 12:
            assert_array_equal(new.mask, old.mask)
        elif now % 4 == 0:
            assert_array_equal(new.mask, goal)
            assert_array_equal(goal.any(0), goal.all(0))
            assert (~goal.any(0)).sum() == gone[path][now // 4 - 1]
            following = gone[path][min(now // 4, 2)]
            chosen = lowest(np.abs(old.weight).mean(0), following)
            assert_array_equal(new.states["goal"][0], ~chosen)
        else:
            count = leaving.sum() // (5 - now % 4)
            scores = np.where(leaving, np.abs(old.weight), np.inf)
            assert_array_equal(new.mask, old.mask & ~lowest(scores, count))
            assert_array_equal(new.states["goal"], goal)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras runs single steps on torch")
def test_progressive_passes_no_goal_over_when_a_batch_has_many_steps():
    settings = dict(pruning_type="progressive", pattern="1xchannel", frequency=4)
    settings |= dict(begin_step=0, end_step=12, target_sparsity=0.5, include=".*")
    model = linear_model(SGD(0.05), steps_per_execution=5)
    settings |= dict(schedule="linear", allocation="uniform")
    pruning, _, after = train(model, 20, **settings)
    assert pruning.pruners[0].updated_at == 12
    # At step 5 one sub-step from 16 to 32 weights, at 10 two from 32 to 48.
    assert after.sparsities == [0, 20 / 96, 40 / 96, 0.5, 0.5]
    for path in PATHS:
        mask = after.rows[3][path].mask
        assert_array_equal(mask.any(0), mask.all(0))


# Pattern lock.


def test_pattern_lock_of_a_literal_kernel():
    settings = dict(pruning_type="pattern_lock", pattern="2:4", target_sparsity=0.5)
    pruner, w = pruner_of({"w": [[0, 2], [3, 0], [5, 0], [4, 1]]}, **settings)
    assert pruner.target_sparsity_ratio == 3 / 8
    (shaped,) = step(pruner, [[9, 2], [9, 9], [9, 9], [9, 9]], rate=1)
    assert_array_equal(shaped, [[0, 2], [9, 0], [9, 0], [9, 9]])
    assert_array_equal(value_of(w), [[0, 0], [-6, 0], [-4, 0], [-5, -8]])
    # The 2 came to zero by training, and may leave it.
    step(pruner, [[1, -1], [0, 0], [0, 0], [0, 0]], rate=1)
    assert_array_equal(value_of(w), [[0, 1], [-6, 0], [-4, 0], [-5, -8]])
    assert pruner.current_sparsity_ratio == 3 / 8


def test_pattern_lock_keeps_two_of_four_in_fit_and_in_a_second_fit():
    model = linear_model(Adam(0.05))
    masks = {}
    for layer, value in zip(model.layers, (A, B), strict=True):
        groups = np.abs(value).reshape(2, 4, -1)
        mask = (groups.argsort(1).argsort(1) >= 2).reshape(value.shape)
        layer.kernel.assign(value * mask)
        masks[f"{layer.name}/kernel"] = mask
    first, _, after = train(model, 5, pruning_type="pattern_lock")
    fit(model, 5, [first])
    _, _, again = train(model, 5, pruning_type="pattern_lock")
    assert after.sparsities == again.sparsities == [0.5] * 6
    for row in (*after.rows, *again.rows):
        for path, mask in masks.items():
            assert_array_equal(row[path].mask, mask)
            assert_array_equal(row[path].weight != 0, mask)


def test_pattern_lock_refuses_a_model_without_zeros():
    model = linear_model(SGD(0.1))
    message = "have none: a/kernel, b/kernel. Prune it first"
    with pytest.raises(ValueError, match=message):
        train(model, 2, pruning_type="pattern_lock")
    assert_array_equal(value_of(model.layers[0].kernel), A)


# Block mask.


def test_block_mask_in_fit_prunes_the_blocks_whose_masks_matter_least():
    settings = dict(pruning_type="block_mask", pattern="2x4", allocation="uniform")
    settings |= dict(begin_step=5, end_step=5, target_sparsity=0.5)
    _, before, after = train(linear_model(SGD(0.1)), 6, **settings)
    memories = {"a/kernel": np.zeros((2, 4)), "b/kernel": np.zeros((2, 2))}
    for now, path, start, old, new, slope in history(before, after, since=1):
        if now > 5:
            assert_array_equal(new.mask, old.mask)
            continue
        blocks = (start.weight * slope).reshape(2, 4, -1, 2).sum((1, 3))
        memories[path] = 0.9 * memories[path] + np.abs(blocks)
        assert_allclose(old.states["memory"], memories[path], rtol=1e-3, atol=1e-6)
        if now == 5:
            pruned = lowest(memories[path], memories[path].size // 2)
            assert_array_equal(~new.mask, pruned.repeat(4, 0).repeat(2, 1))


# Lottery ticket.


@pytest.mark.parametrize(
    "total, settings, updates",
    [
        (24, {}, [0, 4, 8, 12, 16, 20]),
        (16, {}, [0, 2, 4, 6, 8, 10]),
        (1000, {"begin_step": 100}, [100, 250, 400, 550, 700, 850]),
        (1000, {"frequency": 10}, [0, 10, 20, 30, 40, 50]),
        (1000, {"begin_step": 0, "end_step": 9, "frequency": 3}, [0, 3, 6, 9]),
        (3, {}, [0, 1, 2]),
    ],
)
def test_lottery_ticket_has_as_many_rounds_as_told(total, settings, updates):
    config = {"pruning_type": "lottery_ticket"} | settings
    (pruner,) = create_pruners(config, build_mlp())
    pruner.schedule_steps(total)
    found = [-1]
    while (following := pruner.scheduler.next_update(found[-1])) is not None:
        found.append(following)
    assert found[1:] == updates


@pytest.mark.parametrize("begin, rounds", [(0, (4, 8, 12)), (3, (6, 9, 12))])
def test_lottery_ticket_rewinds_all_that_is_left(begin, rounds):
    model = linear_model(Adam(0.05), use_bias=True)
    for layer in model.layers:
        layer.bias.assign(np.linspace(-1, 1, layer.units))
    settings = dict(pruning_type="lottery_ticket", pruner_options={"num_rounds": 3})
    settings |= dict(begin_step=begin, allocation="uniform", target_sparsity=0.5)
    _, before, after = train(model, 16 - begin // 3, **settings)
    start = after.rows[begin]
    for number, now in enumerate(rounds, 1):
        for path in PATHS:
            old, new = before.rows[now][path], after.rows[now][path]
            count = round((1 - 0.5 ** (number / 3)) * old.mask.size)
            assert_array_equal(~new.mask, lowest(np.abs(old.weight), count))
            assert_array_equal(new.weight, start[path].weight * new.mask)
            assert np.any(old.slots) and not np.any(new.slots)
        assert before.iterations[now] > after.iterations[now] == begin
        for index in (1, 3):  # the biases
            trained, rewound = (rows.variables[now][index] for rows in (before, after))
            assert_array_equal(rewound, after.variables[begin][index])
            assert (trained != rewound).all()
    assert after.sparsities[-1] == 0.5 and after.iterations[-1] > begin


def test_lottery_ticket_rewinds_the_moving_averages():
    model = linear_model(Adam(0.05, use_ema=True, ema_momentum=0.9))
    settings = dict(pruning_type="lottery_ticket", pruner_options={"num_rounds": 1})
    settings |= dict(begin_step=0, end_step=4, frequency=4, target_sparsity=0.5)
    pruning = PruningCallback(verbose=False, **settings)
    equal = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            variables = self.model.trainable_variables  # JAX makes them current here
            averages = (moving_average_of(self.model.optimizer, v) for v in variables)
            pairs = zip(averages, variables, strict=True)
            equal.append(all((value_of(a) == value_of(v)).all() for a, v in pairs))

    fit(model, 6, [pruning, Look()])
    # An average begins as the weights of the first step, also after the rewind at 4.
    assert equal == [True, False, False, True, True, False]


# Several pruners in one model.


def test_each_layer_has_its_own_pruner():
    local = {"include": "b", "pruning_type": "basic", "pattern": "2:4", "end_step": 6}
    settings = dict(pruning_type="rigl", target_sparsity=0.75, local_configs=[local])
    settings |= dict(begin_step=2, end_step=8, frequency=2)
    pruning, before, after = train(linear_model(Adam(0.05)), 10, **settings)
    rigl, basic = pruning.pruners
    assert [kernel.path for kernel in rigl.kernels] == ["a/kernel"]
    assert [kernel.path for kernel in basic.kernels] == ["b/kernel"]
    assert rigl.name == "rigl" and basic.name == "basic"
    num_moved = 0
    for now, path, _, old, new, _ in history(before, after, since=3):
        if path == "a/kernel":
            num_moved += (new.mask & ~old.mask).sum()
            assert new.mask.sum() == 16
        else:
            assert not (new.mask & ~old.mask).any()
            kept = new.mask.reshape(2, 4, 4).sum(1)
            assert (kept == 2).all() if now >= 6 else ((kept == 2) | (kept == 4)).all()
    assert num_moved > 0 and after.sparsities[-1] == (48 + 16) / 96


def test_two_configs_for_one_layer_are_an_error_that_names_both():
    local = [{"include": "head"}, {"layer_types": "Dense", "pruning_type": "set"}]
    with pytest.raises(ValueError, match="configs 0 and 1 both select 'head/kernel'"):
        create_pruners({"local_configs": local}, build_mlp())


@pytest.mark.parametrize("name", ["retrain_free", "lottery_ticket"])
def test_pruners_of_the_whole_model_refuse_local_configs(name):
    config = {"pruning_type": name, "pattern": "1xchannel"}
    config["local_configs"] = [{"include": "head", "pruning_type": "basic"}]
    with pytest.raises(ValueError, match=f"'{name}' acts on the whole model"):
        create_pruners(config, build_mlp())

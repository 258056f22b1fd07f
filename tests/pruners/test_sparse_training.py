"""Pruners that train sparse from the start: each rule against NumPy."""

import math
import zlib

import keras
import numpy as np
import pytest
from conftest import build_mlp, slow_where_compiled, value_of
from keras.optimizers import SGD, Adam
from linear import (
    PATHS,
    X,
    Y,
    copy_of,
    history,
    linear_model,
    lowest,
    pruner_of,
    step,
    train,
)
from numpy.testing import assert_allclose, assert_array_equal

from keras_pruner import create_pruners
from keras_pruner.pruners import PRUNERS

pytestmark = pytest.mark.usefixtures("eager_masks")

# Of 64 + 32 weights these leave 24 and 18 (ERK: densities 1.5 * 16 / 64 and
# 1.5 * 12 / 32), or 28 and 14.
TARGET = 0.5625
KEPT = {
    "erk": {"a/kernel": 24, "b/kernel": 18},
    "uniform": {"a/kernel": 28, "b/kernel": 14},
}
RAMP = [[8, 7, 6, 5], [4, 3, 2, 1]]


@pytest.mark.parametrize(
    "name, settings, options, message",
    [
        ("rigl", {"pattern": "2:4"}, {}, "pattern '2:4' prunes in every group. Use pr"),
        ("set", {"pattern": "2:4"}, {}, "Use pruning_type 'sr_ste' or 'ste' for it"),
        ("rigl", {"allocation": "global"}, {}, "Use 'erk' or 'uniform'"),
        ("set", {"allocation": "global_l2"}, {}, "'global_l2' does not say"),
        ("rigl", {}, {"drop_fraction": 1.5}, r"must be in \[0, 1\].* Received: 1.5"),
        ("rigl", {}, {"drop_fractoin": 0.1}, "Did you mean 'drop_fraction'"),
        ("set", {}, {"seed": 0.5}, "'seed' must be an integer. Received: 0.5"),
        ("acdc", {}, {"phases": 3}, "option 'phases' of pruner 'acdc'.*options: none"),
        ("top_kast", {}, {"backward_sparsity": 0.8}, r"in \[0, 0.5\]. Received: 0.8"),
        ("sr_ste", {}, {"decay": True}, "'decay' must be a number. Received: True"),
        ("str", {"pattern": "2x1"}, {}, "takes pattern '1x1' only"),
        ("str", {"criterion": "snip"}, {}, "open. Received: criterion='snip'"),
        ("str", {}, {"learning_rate": -1}, r"must be in \[0, 1000\]. Received: -1"),
    ],
)
def test_what_a_pruner_cannot_do_is_an_error(name, settings, options, message):
    settings = {"pruning_type": name, "pruner_options": options} | settings
    with pytest.raises((ValueError, TypeError), match=message):
        create_pruners({"target_sparsity": 0.5} | settings, build_mlp())


# RigL and SET.


def test_rigl_of_a_literal_kernel():
    settings = dict(pruning_type="rigl", pruner_options={"drop_fraction": 1})
    settings |= dict(target_sparsity=0.5, end_step=6, frequency=3)
    pruner, w = pruner_of({"w": RAMP}, **settings)
    (shaped,) = step(pruner, np.ones((2, 4)))
    assert_array_equal(shaped, [[1, 1, 1, 1], [0, 0, 0, 0]])
    step(pruner, np.ones((2, 4)))
    step(pruner, [[9, 9, 4, 0], [-3, 5, 0, 2]])
    # At half time 1 / 2 (1 + cos(pi / 2)) of the 4 active go: 6 and 5. Of what is free
    # then, 4 and 5 are the largest gradients: the 6 stays after all.
    pruner.on_step_begin(3)
    assert_array_equal(value_of(w), [[8, 7, 6, 0], [0, 0, 0, 0]])
    mask = [[True, True, True, False], [False, True, False, False]]
    assert_array_equal(value_of(pruner.masks["w"]), mask)
    # At the end none goes, wherever the gradient is.
    for _ in range(3):
        step(pruner, [[0, 0, 9, 9], [9, 9, 9, 9]])
    pruner.on_step_begin(6)
    assert_array_equal(value_of(pruner.masks["w"]), mask)
    assert pruner.updated_at == 6 and pruner.current_sparsity_ratio == 0.5


def moved(scores, active, growth, *, kept, drop):
    """What is active after an update: by lists, as one would do it by hand."""
    by_score = sorted(np.flatnonzero(active), key=lambda i: scores.flat[i])
    stay = by_score[len(by_score) - (kept - drop) :]
    free = sorted(set(range(active.size)) - set(stay), key=lambda i: -growth.flat[i])
    marks = np.zeros(active.size, bool)
    marks[stay + free[: kept - len(stay)]] = True
    return marks.reshape(active.shape)


def places(shape, seed, path, now):
    """SET's random scores at a step: the hash in unsigned integers."""

    def mix(x):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return (x ^ (x >> np.uint32(16))) >> np.uint32(8)

    salt = zlib.crc32(f"{seed}/{path}".encode()) ^ (now * 0x2545F491 % 2**32)
    index = np.arange(math.prod(shape), dtype="uint32").reshape(shape)
    return mix(mix(index) ^ np.uint32(salt)) / 2.0**24


@slow_where_compiled
@pytest.mark.parametrize(
    "name, allocation", [("rigl", "erk"), ("rigl", "uniform"), ("set", "erk")]
)
def test_moving_masks_in_fit(name, allocation):
    settings = dict(pruning_type=name, allocation=allocation, target_sparsity=TARGET)
    settings |= dict(begin_step=2, end_step=10, frequency=2)
    _, before, after = train(linear_model(Adam(0.02)), 12, **settings)
    assert after.sparsities == [0] * 2 + [TARGET] * 11
    num_grown = num_filled = 0
    for now, path, _, old, new, slope in history(before, after, since=3):
        growth = np.abs(slope)
        if name == "rigl":
            assert_allclose(old.states["gradient"], growth, atol=1e-5)
        if now % 2 or now > 10:
            assert_array_equal(new.mask, old.mask)
            continue
        fraction = 0.3 / 2 * (1 + math.cos(math.pi * (now - 2) / 8))
        if name == "set":
            fraction, growth = 0.3, places(old.mask.shape, 0, path, now)
        kept = KEPT[allocation][path]
        drop = math.floor(fraction * kept)
        expected = moved(np.abs(old.weight), old.mask, growth, kept=kept, drop=drop)
        assert_array_equal(new.mask, expected)
        assert new.mask.sum() == kept
        grown, stays = new.mask & ~old.mask, new.mask & old.mask
        num_grown += grown.sum()
        assert not new.weight[grown].any()
        assert_array_equal(new.weight[stays], old.weight[stays])
        assert len(new.slots) == 2  # momentum and velocity
        for slot, old_slot in zip(new.slots, old.slots, strict=True):
            num_filled += np.count_nonzero(old_slot[grown])
            assert not slot[grown].any()
            assert_array_equal(slot[~grown], old_slot[~grown])
    assert num_grown > 5 and num_filled > 5


def grouped(matrix, pattern):
    """The mean of each group of an 8 x 8 matrix."""
    if pattern == "2x4":  # 2 outputs by 4 inputs
        return matrix.reshape(2, 4, 4, 2).mean((1, 3))
    axes = {"channelx1": 1, "1xchannel": 0, "1x1": ()}
    return matrix.mean(axes[pattern])


@pytest.mark.parametrize("pattern", ["2x4", "channelx1", "1xchannel", "1x1"])
def test_rigl_grows_sparser_by_whole_groups(pattern):
    generator = np.random.default_rng(1)
    settings = dict(pruning_type="rigl", pruner_options={"drop_fraction": 0.6})
    settings |= dict(pattern=pattern, schedule="polynomial", allocation="uniform")
    settings |= dict(target_sparsity=0.5, end_step=4, frequency=1)
    pruner, w = pruner_of({"w": generator.normal(size=(8, 8))}, **settings)
    num_groups = grouped(value_of(w), pattern).size
    gradient = np.zeros((8, 8))
    for now in range(5):
        weight, mask = copy_of(w), value_of(pruner.masks["w"])
        pruner.on_step_begin(now)
        count = round(0.5 * (1 - (1 - now / 4) ** 3) * num_groups)
        kept = num_groups - count
        # Nothing is pruned, so nothing moves, before the update at step 1.
        drop = 0.6 / 2 * (1 + math.cos(math.pi * now / 4)) * kept * (now > 1)
        scores, active, growth = (
            grouped(np.abs(value), pattern) for value in (weight, mask, gradient)
        )
        expected = moved(scores, active > 0, growth, kept=kept, drop=int(drop))
        assert_array_equal(grouped(value_of(pruner.masks["w"]), pattern), expected)
        assert pruner.num_pruned == count * 64 // num_groups
        gradient = generator.normal(size=(8, 8))
        step(pruner, gradient, rate=0.1)
    assert pruner.current_sparsity_ratio == 0.5


@pytest.mark.parametrize("seed", [0, 7])
def test_set_of_a_literal_kernel_is_the_same_everywhere(seed):
    options = {"drop_fraction": 0.5, "seed": seed}
    settings = dict(pruning_type="set", pruner_options=options)
    settings |= dict(target_sparsity=0.5, end_step=6, frequency=2)
    pruner, _ = pruner_of({"w": RAMP}, **settings)
    found = []
    for now in range(7):
        step(pruner, np.zeros((2, 4)))
        if now % 2 == 0:
            found.append(np.flatnonzero(value_of(pruner.masks["w"])).tolist())
    # 8 and 7 stay; two others grow, not the same from update to update.
    assert found == GROWN[seed]


# Made on the TensorFlow backend.
GROWN = {
    0: [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 5, 7], [0, 1, 2, 4]],
    7: [[0, 1, 2, 3], [0, 1, 4, 6], [0, 1, 3, 7], [0, 1, 2, 4]],
}


# AC/DC.


@pytest.mark.parametrize(
    "end, expected",
    [
        (6, {0: 0, 2: 0.5, 4: 0, 6: 0.5}),
        # Training begins dense, also where the number of phases is odd.
        (8, {0: 0, 2: 0, 4: 0.5, 6: 0, 8: 0.5}),
        (3, {0: 0, 2: 0.5}),
        (0, {0: 0.5}),
    ],
)
def test_acdc_alternates_and_ends_compressed(end, expected):
    settings = dict(pruning_type="acdc", end_step=end, frequency=2, target_sparsity=0.5)
    pruner, _ = pruner_of({"w": RAMP}, schedule="constant", **settings)
    assert pruner.scheduler.last_update == list(expected)[-1]
    assert {now: pruner.sparsity_at(now) for now in expected} == expected


def test_compressed_phases_of_acdc_grow_with_the_schedule():
    settings = dict(pruning_type="acdc", schedule="linear", target_sparsity=0.5)
    pruner, _ = pruner_of({"w": RAMP}, end_step=8, frequency=2, **settings)
    expected = {0: 0, 2: 0, 4: 0.25, 6: 0, 8: 0.5}
    assert {now: pruner.sparsity_at(now) for now in expected} == expected
    config, _ = PRUNERS["acdc"].complete({"pruning_type": "acdc"})
    assert config.schedule.name == "polynomial"


def test_acdc_in_fit_frees_weights_from_zero_without_slots():
    settings = dict(pruning_type="acdc", allocation="uniform", target_sparsity=0.5)
    settings |= dict(schedule="constant", begin_step=0, end_step=10, frequency=2)
    _, before, after = train(linear_model(Adam(0.02)), 12, **settings)
    assert after.sparsities == [0, 0, 0.5, 0.5] * 3 + [0.5]
    for now, _, start, old, new, _ in history(before, after, since=1):
        if now in (5, 9):
            # Of what was freed, a column of "a" waits for its row of "b".
            assert np.count_nonzero(old.weight[start.weight == 0]) >= 8
        if now in (4, 8):  # set free
            freed = ~old.mask
            assert new.mask.all() and freed.sum() == freed.size / 2
            assert_array_equal(new.weight, old.weight)
            for slot, old_slot in zip(new.slots, old.slots, strict=True):
                assert old_slot[freed].any() and not slot[freed].any()
                assert_array_equal(slot[~freed], old_slot[~freed])
        elif now in (2, 6, 10):  # compressed
            expected = ~lowest(np.abs(old.weight), old.mask.size // 2)
            assert_array_equal(new.mask, expected)
            assert_array_equal(new.slots, old.slots)
        else:
            assert_array_equal(new.mask, old.mask)


# Dense weights beside the sparse kernel: Top-KAST, STE, SR-STE.


def test_top_kast_of_a_literal_kernel():
    settings = dict(pruning_type="top_kast", pruner_options={"decay": 0.5})
    pruner, w = pruner_of({"w": RAMP}, target_sparsity=0.75, **settings)
    (shaped,) = step(pruner, np.ones((2, 4)), rate=1)
    # Forward 8 and 7, backward 6 and 5 too, which pay 1 / density = 4 times as much.
    assert_array_equal(shaped, [[5, 4.5, 13, 11], [0, 0, 0, 0]])
    dense = [[3, 2.5, -7, -6], [4, 3, 2, 1]]
    assert_array_equal(value_of(pruner.state_variables["w"]["dense"]), dense)
    assert_array_equal(value_of(w), [[3, 2.5, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    "optimizer, backward, num_backward",
    [(SGD, None, {64: 32, 32: 16}), (Adam, 0.7, {64: 19, 32: 10})],
)
def test_top_kast_in_fit(optimizer, backward, num_backward):
    options = {"decay": 0.1, "backward_sparsity": backward}
    settings = dict(pruning_type="top_kast", pruner_options=options)
    settings |= dict(allocation="uniform", target_sparsity=0.75)
    settings |= dict(begin_step=1, end_step=7, frequency=3)
    _, before, after = train(linear_model(optimizer(0.1)), 9, **settings)
    for now, _, start, old, new, slope in history(before, after, since=2):
        dense, moves = start.states["dense"], start.states["backward"]
        count = num_backward[dense.size]
        assert moves.sum() == count and moves[start.mask].all()
        assert start.mask.sum() == dense.size // 4
        assert_array_equal(start.weight, dense * start.mask)
        assert_array_equal(old.states["dense"][~moves], dense[~moves])
        if optimizer is SGD:
            penalty = 0.1 * np.where(start.mask, dense, dense / 0.25)
            expected = dense - 0.1 * np.where(moves, slope + penalty, 0)
            assert_allclose(old.states["dense"], expected, atol=1e-5)
        if now in (4, 7):
            expected = ~lowest(np.abs(old.states["dense"]), dense.size - count)
            assert_array_equal(new.states["backward"], expected)


@pytest.mark.parametrize(
    "name, options, shaped, hidden",
    [
        ("ste", {}, [[0, 0, -3, 0]], 5),
        # To the pruned 2 and 1, decay * weight is added.
        ("sr_ste", {"decay": 0.5}, [[0, 0, -2, 0.5]], 4),
    ],
)
def test_straight_through_brings_a_hidden_value_back(name, options, shaped, hidden):
    settings = dict(pruning_type=name, pruner_options=options, schedule="constant")
    settings |= dict(target_sparsity=0.5, end_step=1, frequency=1)
    pruner, w = pruner_of({"w": [[4, 3, 2, 1]]}, **settings)
    (found,) = step(pruner, [[0, 0, -3, 0]], rate=1)
    assert_array_equal(found, shaped)
    assert_array_equal(value_of(w), [[4, 3, 0, 0]])
    pruner.on_step_begin(1)
    assert_array_equal(value_of(w), [[4, 0, hidden, 0]])


def two_of_four(scores):
    """Which two of every four consecutive inputs score highest."""
    groups = scores.reshape(len(scores) // 4, 4, -1)
    return (groups.argsort(1).argsort(1) >= 2).reshape(scores.shape)


@pytest.mark.parametrize(
    "name, pattern, decay", [("ste", "1x1", 0.0), ("sr_ste", "2:4", 0.2)]
)
def test_straight_through_in_fit(name, pattern, decay):
    options = {"decay": decay} if decay else {}
    settings = dict(pruning_type=name, pruner_options=options, pattern=pattern)
    settings |= dict(allocation="uniform", target_sparsity=0.5)
    settings |= dict(begin_step=1, end_step=9, frequency=2)
    _, before, after = train(linear_model(SGD(0.2)), 10, **settings)
    num_back = 0
    for now, _, start, old, new, slope in history(before, after, since=1):
        dense = start.states["dense"]
        expected = dense - 0.2 * (slope + decay * ~start.mask * dense)
        dense = old.states["dense"]
        assert_allclose(dense, expected, atol=1e-5)
        assert_array_equal(old.weight, dense * old.mask)
        assert_array_equal(new.weight, dense * new.mask)
        expected = old.mask
        if now % 2 and pattern == "1x1":
            count = round(0.5 * (1 - (1 - (now - 1) / 8) ** 3) * dense.size)
            expected = ~lowest(np.abs(dense), count)
        elif now % 2:
            expected = two_of_four(np.abs(dense))
        assert_array_equal(new.mask, expected)
        num_back += (new.mask & ~old.mask).sum()
    assert num_back > 0 and after.sparsities[-1] == 0.5


@pytest.mark.parametrize("case", ["mixed_float16", "loss_scale_factor", "accumulation"])
def test_sr_ste_decays_by_the_loss_before_it_was_scaled(case):
    arguments = {
        "mixed_float16": {},
        "loss_scale_factor": {"loss_scale_factor": 8.0},
        "accumulation": {"gradient_accumulation_steps": 2},
    }
    if case == "mixed_float16":
        keras.config.set_dtype_policy(case)
    model = linear_model(SGD(0.1, **arguments[case]))
    settings = dict(pruning_type="sr_ste", pruner_options={"decay": 0.5})
    settings |= dict(target_sparsity=0.5, begin_step=0, end_step=0)
    # With nothing to learn from, only the decay is left: of 5 % a step.
    _, _, after = train(model, 4, x=X * 0, y=Y * 0, **settings)
    num_steps = 2 if case == "accumulation" else 4
    for path in PATHS:
        first, last = after.rows[0][path], after.rows[-1][path]
        dense = first.states["dense"]
        expected = np.where(first.mask, dense, dense * 0.95**num_steps)
        assert_allclose(last.states["dense"], expected, rtol=1e-5)


# The division over the kernels.


@pytest.mark.parametrize("name", ["ste", "sr_ste", "top_kast"])
def test_norms_of_hidden_weights_divide_nothing(name):
    # Divided by the norms 3.9 and 8.3, 2.5 would rank above 4.5.
    values = {"a": [[3, 2.5, 0.1, 0]], "b": [[5, 4.5, 2, 2, 2, 2, 2, 2]]}
    pruner, a, b = pruner_of(values, pruning_type=name, target_sparsity=0.75)
    pruner.on_step_begin(0)
    assert_array_equal(value_of(a), [[3, 0, 0, 0]])
    assert_array_equal(value_of(b), [[5, 4.5, 0, 0, 0, 0, 0, 0]])


@pytest.mark.parametrize("name", ["ste", "sr_ste", "top_kast"])
@pytest.mark.parametrize(
    "settings, allocation",
    [
        ({}, "global"),
        ({"criterion": "fisher"}, "global"),
        ({"criterion": "random"}, "erk"),
        ({"pattern": "1x4"}, "erk"),
        ({"allocation": "global_l2"}, "global_l2"),
        ({"allocation": "uniform"}, "uniform"),
    ],
)
def test_allocation_of_straight_through_pruners(name, settings, allocation):
    config, _ = PRUNERS[name].complete({"pruning_type": name} | settings)
    assert config.allocation.name == allocation

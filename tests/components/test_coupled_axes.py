"""Groups along an axis, by an index map; kernels that lose group i together."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import layers, ops

from keras_pruner import PruningCallback, create_pruners
from keras_pruner.components import PATTERNS
from keras_pruner.components.patterns import AxisGroups, Pattern
from keras_pruner.kernels import Coupling, KernelLayout, find_kernels

LAYOUT = KernelLayout((6, 4), (), 6, 4)
SCORES = np.random.default_rng(0).integers(0, 50, (6, 4)).astype("float32")


def groups_by_hand(axis, index_map, reduction):
    reduce = {"sum": np.sum, "mean": np.mean, "max": np.max}[reduction]
    members = np.moveaxis(SCORES, axis, 0)
    places = np.array(index_map)
    return [reduce(members[places == group]) for group in range(max(index_map) + 1)]


@pytest.mark.parametrize("reduction", ["sum", "mean", "max"])
@pytest.mark.parametrize(
    "axis, index_map",
    [
        (0, (0, 0, 1, 1, 2, 2)),
        (0, (2, 0, 1, 1, 0, 2)),
        (0, (0, -1, 1, -1, 1, 0)),
        (1, (1, 0, 1, 0)),
        (1, (0, -1, 1, -1)),
    ],
)
def test_groups_of_an_index_map(axis, index_map, reduction):
    num_groups = max(index_map) + 1
    pattern = AxisGroups(axis, num_groups, index_map)
    scores = pattern.group_scores(ops.convert_to_tensor(SCORES), LAYOUT, reduction)
    expected = groups_by_hand(axis, index_map, reduction)
    np.testing.assert_allclose(value_of(scores), expected, rtol=1e-6)
    pruned = np.arange(num_groups) == 1
    spread = value_of(pattern.spread(ops.convert_to_tensor(pruned), LAYOUT))
    line = np.array(index_map) == 1
    marks = np.broadcast_to(line[:, None] if axis == 0 else line[None], (6, 4))
    np.testing.assert_array_equal(spread, marks)
    assert pattern.group_size(LAYOUT) == marks.sum()
    assert pattern.num_groups(LAYOUT) == num_groups


@pytest.mark.parametrize("axis", [0, 1])
def test_runs_of_equal_length_are_the_map_of_none(axis):
    size = (6, 4)[axis]
    runs = AxisGroups(axis, 2)
    mapped = AxisGroups(axis, 2, [i // (size // 2) for i in range(size)])
    for reduction in ("sum", "mean", "max", "l2"):
        made = [
            value_of(p.group_scores(ops.convert_to_tensor(SCORES), LAYOUT, reduction))
            for p in (runs, mapped)
        ]
        np.testing.assert_array_equal(*made)
    assert runs.group_size(LAYOUT) == mapped.group_size(LAYOUT) == 12


def test_groups_of_unequal_size_are_an_error():
    with pytest.raises(ValueError, match="equal sizes. .* groups of 1, 3 indices"):
        AxisGroups(0, 2, (0, 0, 0, 1))


# A graph group: units of a hidden layer, with the flattened inputs that they become.


class Channels(Pattern):
    """Cuts the units of a producer with the rows of their consumer."""

    name = "test_channels"
    coupling_kind = "channels"

    def refusal(self, kernel):
        return None if kernel.coupling("channels") else "in no group"

    def groups_of(self, kernel):
        own = kernel.coupling("channels")
        return AxisGroups(own.axis, own.num_groups, own.index_map)

    def unit_name(self, kernels):
        return kernels[0].coupling("channels").unit

    def couple(self, kernels):
        return [tuple(range(len(kernels)))]


def test_masks_over_a_graph_group_equal_numpy(data):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4, 4)),
            layers.Dense(6, activation="relu", name="hidden"),
            layers.Flatten(),
            layers.Dense(3, activation="softmax", name="head"),
        ]
    )
    hidden, head = find_kernels(model).kernels
    # Unit c of each of 4 positions is input 6 * position + c of the head.
    places = tuple(index % 6 for index in range(24))
    kernels = {
        kernel.path: dataclasses.replace(kernel, couplings=(coupling,))
        for kernel, coupling in (
            (hidden, Coupling("channels", "units", "producer", 1, 6)),
            (head, Coupling("channels", "units", "consumer", 0, 6, places)),
        )
    }
    config = {"pattern": Channels(), "target_sparsity": 0.5, "allocation": "uniform"}
    (pruner,) = create_pruners(config, kernels)
    assert [unit.indices for unit in pruner.units] == [(0, 1)]
    producer, consumer = (
        np.abs(value_of(hidden.variable)),
        np.abs(value_of(head.variable)),
    )
    scores = producer.mean(axis=0) + consumer.reshape(4, 6, 3).mean(axis=(0, 2))
    pruned = np.argsort(scores)[:3]
    pruner.update_masks()
    masks = [value_of(mask) for mask in pruner.masks.values()]
    assert sorted(np.flatnonzero(~masks[0].any(axis=0))) == sorted(pruned)
    np.testing.assert_array_equal(masks[0], np.broadcast_to(masks[0][:1], (4, 6)))
    np.testing.assert_array_equal(
        masks[1].reshape(4, 6, 3), np.broadcast_to(masks[0][:1, :, None], (4, 6, 3))
    )
    assert pruner.num_pruned == 3 * (4 + 12)


def test_heads_are_couplings_along_axes_of_their_own():
    attention = layers.MultiHeadAttention(2, 3, name="att")
    attention.build((None, 4, 8), (None, 4, 8))
    found = {k.layer.name: k.coupling("heads") for k in find_kernels(attention).kernels}
    assert {role: own.axis for role, own in found.items()} == {
        "query": 1,
        "key": 1,
        "value": 1,
        "attention_output": 0,
    }
    assert {(own.unit, own.num_groups) for own in found.values()} == {("att", 2)}
    heads = PATTERNS.get("mha")
    for kernel in find_kernels(attention).kernels:
        assert heads.groups_of(kernel).group_size(kernel.layout) == 24


# Ranking within each output column.


def per_output_by_hand(scores, k):
    """The lowest of each column; the first columns give one more."""
    rows, columns = scores.shape
    marks = np.zeros(scores.shape, bool)
    for column in range(columns):
        count = k // columns + (column < k % columns)
        order = np.argsort(scores[:, column], kind="stable")[:count]
        marks[order, column] = True
    return marks


@pytest.mark.parametrize("pattern", ["1x1", "2x4", "2:4"])
@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5])
def test_allocation_per_output_equals_numpy(pattern, sparsity):
    generator = np.random.default_rng(0)
    # Few distinct values, so that ties are cut.
    value = generator.integers(-5, 6, (16, 12)).astype("float32")
    variable = keras.Variable(value)
    config = {"pattern": pattern, "allocation": "per_output", "target_sparsity": 0.5}
    (pruner,) = create_pruners(config, {"fc": variable})
    pruner.update_masks(sparsity)
    own, layout = pruner.pattern, pruner.kernels[0].layout
    scores = ops.abs(ops.convert_to_tensor(value))
    groups = value_of(own.group_scores(scores, layout, "mean"))
    count = round(sparsity * value.size / own.group_size(layout))
    pruned = per_output_by_hand(groups, count)
    expected = own.expand(ops.convert_to_tensor(pruned), scores, layout)
    np.testing.assert_array_equal(value_of(pruner.masks["fc"]), value_of(expected))
    assert pruner.num_pruned == count * own.group_size(layout)


def test_allocation_per_output_in_fit_prunes_every_output_alike(data):
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    callback = PruningCallback(
        target_sparsity=0.5, allocation="per_output", verbose=False
    )
    model.fit(*data, batch_size=16, verbose=0, callbacks=[callback])
    zeros = [(value_of(layer.kernel) == 0).sum(axis=0) for layer in model.layers]
    assert zeros[0].tolist() == [8] * 8 and zeros[1].tolist() == [4] * 3


def test_allocation_per_output_refuses_patterns_that_span_outputs():
    with pytest.raises(ValueError, match="per_output.*groups of pattern 'channelx1'"):
        create_pruners(
            {"allocation": "per_output", "pattern": "channelx1"},
            {"fc": keras.Variable(np.ones((4, 4)))},
        )

"""Ids of indices: unified, pinned, expanded, merged and split."""

import numpy as np
import pytest

from keras_pruner.channels.index_classes import IndexClasses
from keras_pruner.channels.labels import Labels, merge, reshape, split


def atoms(classes, ids):
    """Returns a list of the atoms of each id."""
    positions, found = classes.resolve().atoms_of(ids)
    return [sorted(found[positions == i].tolist()) for i in range(len(ids))]


def test_many_ids_are_unified_at_once():
    classes = IndexClasses()
    first, second, third = (classes.fresh(3) for _ in range(3))
    # 0 - 5, 1 - 4, 2 - 3 and 5 - 8, 4 - 8, 3 - 6.
    classes.unify(first, second[::-1])
    classes.unify(second[::-1], third[[2, 2, 0]])
    assert atoms(classes, first) == [[0], [0], [2]]
    assert atoms(classes, third) == [[2], [7], [0]]


def test_axes_of_different_lengths_are_not_unified():
    classes = IndexClasses()
    with pytest.raises(ValueError, match="axes of 2 and 3 are no pair"):
        classes.unify(classes.fresh(2), classes.fresh(3))


def test_pins_spread_and_keep_their_own_reasons():
    classes = IndexClasses()
    one, other, third = (classes.fresh(2) for _ in range(3))
    classes.unify(one, other)
    classes.pin(one[:1], "first")
    classes.pin(third, "second")
    classes.unify(other, third)
    resolved = classes.resolve()
    assert resolved.reason_of(other[:1]) == "first"
    assert resolved.reason_of(other[1:]) == "second"
    assert resolved.reason_of(third) == "second"
    assert atoms(classes, np.concatenate([one, other, third])) == [[]] * 6


def test_index_of_a_merged_axis_goes_with_either_index():
    classes = IndexClasses()
    heads, units = classes.fresh(2), classes.fresh(3)
    merged = merge(classes, [heads, units])
    assert atoms(classes, merged) == [[0, 2], [0, 3], [0, 4], [1, 2], [1, 3], [1, 4]]
    removed = classes.resolve().removed_with(np.array([1, 3]))
    assert removed[merged].tolist() == [False, True, False, True, True, True]


def test_pin_of_a_merged_index_pins_both():
    classes = IndexClasses()
    heads, units = classes.fresh(2), classes.fresh(2)
    classes.pin(merge(classes, [heads, units])[:1], "used")
    assert atoms(classes, heads) == [[], [1]]
    assert atoms(classes, units) == [[], [3]]


def test_split_axis_becomes_a_grid():
    classes = IndexClasses()
    flat = classes.fresh(6)
    rows, columns = split(classes, flat, (2, 3))
    assert atoms(classes, flat) == atoms(classes, merge(classes, [rows, columns]))
    assert len(set(np.concatenate(atoms(classes, flat)))) == 5


def test_merge_and_split_in_equal_sizes_return_the_ids():
    classes = IndexClasses()
    heads, units = classes.fresh(2), classes.fresh(3)
    again = split(classes, merge(classes, [heads, units]), (2, 3))
    assert [ids.tolist() for ids in again] == [heads.tolist(), units.tolist()]


def test_split_in_other_sizes_unifies_what_must_go_together():
    classes = IndexClasses()
    heads, units = classes.fresh(2), classes.fresh(2)
    merged = merge(classes, [heads, classes.pinned(2, "fixed"), units])
    # Index (i, j, k) of (2, 2, 2) becomes (i, 2 j + k) of (2, 4).
    rows, columns = split(classes, merged, (2, 4))
    assert atoms(classes, rows) == [[0], [1]]
    assert atoms(classes, columns) == [[2], [3], [2], [3]]


def test_two_splits_of_one_axis_are_a_common_refinement():
    classes = IndexClasses()
    flat = classes.fresh(6)
    split(classes, flat, (2, 3))
    split(classes, flat, (3, 2))
    found = atoms(classes, flat)
    # Every index shares an atom with another, so none goes alone.
    assert all(any(set(a) & set(b) for b in found if b is not a) for a in found)


def test_expansion_into_itself_joins_all():
    classes = IndexClasses()
    one, other = classes.fresh(1), classes.fresh(1)
    classes.unify(one, classes.expanded([one, other]))
    assert atoms(classes, one) == atoms(classes, other) == [[0]]


def test_expansions_of_different_lengths_join_all():
    classes = IndexClasses()
    parts = [classes.fresh(1) for _ in range(5)]
    classes.unify(classes.expanded(parts[:2]), classes.expanded(parts[2:]))
    assert atoms(classes, np.concatenate(parts)) == [[0]] * 5


def test_nested_expansion_is_that_of_its_leaves():
    classes = IndexClasses()
    a, b, c = (classes.fresh(2) for _ in range(3))
    d, e, f = (classes.fresh(2) for _ in range(3))
    nested = merge(classes, [merge(classes, [a, b]), c])
    classes.unify(nested, merge(classes, [d, e, f]))
    assert atoms(classes, d) == atoms(classes, a)
    assert atoms(classes, e) == atoms(classes, b)
    assert atoms(classes, f) == atoms(classes, c)


@pytest.mark.parametrize(
    "shape, other",
    [
        ((1, 6), (6,)),
        ((6,), (1, 6, 1)),
        ((2, 3, 4), (6, 4)),
        ((2, 3, 4), (2, 12)),
        ((4, 6), (2, 2, 6)),
        ((4, 6), (8, 3)),
        ((2, 3, 4), (4, 3, 2)),
    ],
)
def test_reshape_keeps_the_order_of_elements(shape, other):
    classes = IndexClasses()
    labels = Labels(tuple(classes.fresh(size) for size in shape))
    reshaped = reshape(classes, labels, other)
    assert reshaped.shape == other
    before = [set(a) for a in atoms(classes, merge(classes, labels.axes))]
    after = [set(a) for a in atoms(classes, merge(classes, reshaped.axes))]
    # An element of the tensor goes with the same atoms in both shapes.
    assert before == after


def test_reshape_to_another_number_of_elements_is_refused():
    classes = IndexClasses()
    labels = Labels((classes.fresh(4),))
    with pytest.raises(ValueError, match=r"\(4,\) has the shape \(2, 3\)"):
        reshape(classes, labels, (2, 3))


def test_axis_that_repeats_channels_is_pinned():
    classes = IndexClasses()
    channels = classes.fresh(3)
    positions, again = split(classes, np.tile(channels, 4), (4, 3))
    assert again.tolist() == channels.tolist()
    assert classes.is_pinned(positions).all()

"""Slices of a variable that belong to the channels of a group."""

import keras
import numpy as np
import pytest
from conftest import value_of
from keras import ops

from keras_pruner.components.patterns import ChannelSlices
from keras_pruner.kernels import conv_transpose_layout, dense_layout, depthwise_layout

REDUCTIONS = {
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "l2": lambda x: np.sqrt(np.sum(np.square(x))),
}
# A channel of one index, of two that are not adjacent, and one that shares an index.
UNEVEN = [[4], [0, 3], [2, 3]]


def parts_of(values, axis, indices):
    return [np.take(values, own, axis) for own in indices]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_scores_reduce_the_slices_of_each_channel(axis, reduction):
    shape = [3, 2, 3, 2]
    shape[axis] = 5
    # The axes of a transposed convolution change places in its matrix.
    layout = conv_transpose_layout(shape)
    values = np.random.default_rng(0).normal(size=shape).astype("float32")
    slices = ChannelSlices(3, [(axis, UNEVEN)])
    matrix = layout.to_matrix(ops.convert_to_tensor(values))
    made = value_of(slices.group_scores(matrix, layout, reduction))
    expected = [REDUCTIONS[reduction](p) for p in parts_of(values, axis, UNEVEN)]
    np.testing.assert_allclose(made, expected, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_masks_zero_the_slices_of_pruned_channels(axis):
    shape = [3, 2, 3, 2]
    shape[axis] = 5
    layout = depthwise_layout(shape)
    slices = ChannelSlices(3, [(axis, UNEVEN)])
    pruned = ops.convert_to_tensor([True, False, True])
    mask = value_of(layout.from_matrix(slices.expand(pruned, None, layout)))
    expected = np.ones(shape, bool)
    np.moveaxis(expected, axis, 0)[[2, 3, 4]] = False
    assert mask.tolist() == expected.tolist()


def test_a_square_kernel_loses_rows_and_columns_with_the_same_channel():
    layout = dense_layout((3, 3))
    one_each = [[0], [1], [2]]
    slices = ChannelSlices(3, [(0, one_each), (1, one_each)])
    pruned = ops.convert_to_tensor([False, True, False])
    mask = value_of(slices.expand(pruned, None, layout)).astype(int)
    assert mask.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 1]]
    scores = ops.convert_to_tensor(np.arange(9, dtype="float32").reshape(3, 3))
    # Row sums 3, 12, 21 and column sums 9, 12, 15.
    made = slices.group_scores(scores, layout, "sum")
    assert value_of(made).tolist() == [12, 24, 36]


def test_values_multiply_where_slices_meet_and_leave_other_weights_unchanged():
    layout = dense_layout((3, 2))
    slices = ChannelSlices(2, [(0, [[0], [1]]), (1, [[0], [1]])])
    factors = ops.convert_to_tensor([0.5, 0.25])
    spread = value_of(slices.spread(factors, layout))
    assert spread.tolist() == [[0.25, 0.125], [0.125, 0.0625], [0.5, 0.25]]


def test_slices_of_a_bias():
    layout = dense_layout((4,))
    slices = ChannelSlices(2, [(0, [[0, 2], [1, 3]])])
    mask = slices.expand(ops.convert_to_tensor([True, False]), None, layout)
    assert value_of(layout.from_matrix(mask)).tolist() == [False, True, False, True]


def test_slices_compare_by_their_indices():
    slices = ChannelSlices(2, [(0, [[0, 2], [1, 3]])])
    same = ChannelSlices.from_config(slices.get_config())
    assert slices == same and hash(slices) == hash(same)
    others = [
        ChannelSlices(2, [(1, [[0, 2], [1, 3]])]),
        ChannelSlices(2, [(0, [[0, 1], [2, 3]])]),
        ChannelSlices(2, [(0, [[0], [2, 1, 3]])]),
    ]
    assert all(slices != other for other in others)


def test_scores_are_equal_compiled():
    layout = dense_layout((24, 7))
    indices = [np.arange(8) * 3 + channel for channel in range(3)]
    slices = ChannelSlices(3, [(0, indices)])
    values = np.random.default_rng(1).normal(size=(24, 7)).astype("float32")

    from keras_pruner.backend import CompiledFunction

    def score(values):
        return slices.group_scores(values, layout, "mean")

    values = ops.convert_to_tensor(values)
    compiled = CompiledFunction(score)(values)
    assert value_of(compiled).tolist() == value_of(score(values)).tolist()
    assert keras.backend.standardize_dtype(compiled.dtype) == "float32"

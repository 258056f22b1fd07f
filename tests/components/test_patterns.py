"""What each pattern prunes together: literal masks, counts, validity."""

import json

import numpy as np
import pytest
from conftest import value_of
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from keras_pruner.backend import CompiledFunction
from keras_pruner.components import PATTERNS, Pattern
from keras_pruner.components.patterns.block import Block
from keras_pruner.components.patterns.channel import InputChannel, OutputChannel
from keras_pruner.components.patterns.n_of_m import NOfM
from keras_pruner.components.patterns.unstructured import Unstructured
from keras_pruner.kernels import (
    conv_layout,
    conv_transpose_layout,
    dense_layout,
    depthwise_layout,
)
from keras_pruner.masks import select_lowest

property_test = settings(max_examples=30, deadline=None, derandomize=True)
PATTERN_NAMES = ("1x1", "4x1", "1x4", "2x3", "1:4", "2:4", "3:4", "channelx1")
PATTERN_NAMES += ("1xchannel",)


def tensor(values):
    return ops.convert_to_tensor(np.array(values, "float32"))


def group_scores(name, scores, layout=None, reduction="mean"):
    layout = dense_layout(np.shape(scores)) if layout is None else layout
    made = PATTERNS.get(name).group_scores(tensor(scores), layout, reduction)
    return value_of(made)


def kept(name, scores, k, layout=None, reduction="mean"):
    """Mask of the kernel's shape after k groups, as 0 (pruned) and 1 (kept)."""
    layout = dense_layout(np.shape(scores)) if layout is None else layout
    pattern = PATTERNS.get(name)
    matrix = layout.to_matrix(tensor(scores))
    pruned = select_lowest(pattern.group_scores(matrix, layout, reduction), k)
    mask = layout.from_matrix(pattern.expand(pruned, matrix, layout))
    assert tuple(mask.shape) == layout.shape
    return value_of(mask).astype(int).tolist()


# Names.


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("1x1", Unstructured()),
        ("4x1", Block(outputs=4, inputs=1)),
        ("1x16", Block(outputs=1, inputs=16)),
        ("2:4", NOfM(n=2, m=4)),
        ("1:16", NOfM(n=1, m=16)),
        ("channelx1", InputChannel()),
        ("1xchannel", OutputChannel()),
    ],
)
def test_pattern_is_known_by_what_it_says(name, pattern):
    assert PATTERNS.get(name) == pattern
    assert str(pattern) == name


@pytest.mark.parametrize("name", PATTERN_NAMES)
def test_pattern_reloads_from_its_serialized_form(name):
    pattern = PATTERNS.get(name)
    saved = json.loads(json.dumps(PATTERNS.serialize(pattern)))
    assert PATTERNS.get(saved) == pattern
    assert str(PATTERNS.get(saved)) == name


@pytest.mark.parametrize("name", ["3:2", "4:4", "0:4"])
def test_n_of_m_that_prunes_none_or_all_is_an_error(name):
    message = (
        "An 'n:m' pattern prunes n of every m weights, so 1 <= n < m. "
        f"Received: '{name}'"
    )
    with pytest.raises(ValueError, match=message):
        PATTERNS.get(name)


@pytest.mark.parametrize(("name", "side"), [("0x1", "N"), ("1x0", "M")])
def test_block_without_weights_is_an_error(name, side):
    message = f"{side} of a block pattern 'NxM' must be >= 1. Received: 0"
    with pytest.raises(ValueError, match=message):
        PATTERNS.get(name)


@pytest.mark.parametrize("pattern", [Block, NOfM])
@pytest.mark.parametrize("value", [True, 1.5, "2", None, [2]])
def test_size_that_is_no_integer_is_an_error(pattern, value):
    for sizes in ((value, 4), (1, value)):
        with pytest.raises(TypeError, match="of a .*pattern '.*' must be an integer"):
            pattern(*sizes)


def test_sizes_may_be_whole_numbers_of_any_type():
    assert Block(np.int64(4), 1.0) == Block(4, 1)
    assert str(NOfM(2.0, np.int32(4))) == "2:4"


def test_only_plain_digits_are_sizes():
    # Python's `int` also reads these; nobody types them on purpose.
    for name in ("\uff14x1", "2:\uff14", "9" * 5000 + "x1", "1:" + "9" * 5000):
        with pytest.raises(ValueError, match="Unknown pattern"):
            PATTERNS.get(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("4 x 1", "4x1"), ("4X1", "4x1"), ("4*1", "4x1"), (" 2:4", "2:4"), ("1,4", "1x4")],
)
def test_pattern_written_otherwise_is_an_error_that_names_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=f"Did you mean '{nearest}'?"):
        PATTERNS.get(name)


def test_pattern_given_as_sizes_is_an_error_that_says_how_to_write_it():
    message = "'4x1' for blocks of 4 outputs by 1 inputs, '4:1' to prune 4 of every 1"
    with pytest.raises(TypeError, match=message):
        PATTERNS.get((4, 1))


@pytest.mark.parametrize(
    "name", ["abc", "", "2:4:6", "4x1x1", "-1x4", "4 x 1", "1.5:4"]
)
def test_unknown_pattern_is_an_error(name):
    with pytest.raises(ValueError, match=f"Unknown pattern '{name}'. Known: 1x1, "):
        PATTERNS.get(name)


def test_unknown_pattern_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match="Did you mean 'channelx1'?"):
        PATTERNS.get("chanelx1")


def test_largest_sparsity_of_a_pattern():
    assert PATTERNS.get("1:4").max_sparsity == 0.25
    assert PATTERNS.get("3:4").max_sparsity == 0.75
    assert PATTERNS.get("4x1").max_sparsity == 1.0
    assert PATTERNS.get("channelx1").max_sparsity == 1.0


# Single weights.


def test_unstructured_prunes_the_lowest_weights():
    scores = [[5, 1, 4], [2, 6, 3]]
    assert kept("1x1", scores, 3) == [[1, 0, 1], [0, 1, 0]]


def test_unstructured_of_equal_scores_prunes_by_index():
    assert kept("1x1", np.ones((2, 3)), 4) == [[0, 0, 0], [0, 1, 1]]


# Blocks.


def test_block_4x1_is_four_outputs_that_share_one_input():
    # 2 inputs by 8 outputs: 4 blocks of 4 outputs.
    scores = [
        [9, 9, 9, 9, 1, 1, 1, 1],
        [2, 2, 2, 2, 9, 9, 9, 9],
    ]
    assert group_scores("4x1", scores).tolist() == [[9, 1], [2, 9]]
    assert kept("4x1", scores, 1) == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1, 1, 1, 1],
    ]
    assert kept("4x1", scores, 2) == [
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 1, 1],
    ]


def test_block_1x4_is_four_inputs_of_one_output():
    # 8 inputs by 2 outputs: 4 blocks of 4 inputs.
    scores = [[9, 3]] * 4 + [[1, 9]] * 4
    assert group_scores("1x4", scores).tolist() == [[9, 3], [1, 9]]
    assert kept("1x4", scores, 1) == [[1, 1]] * 4 + [[0, 1]] * 4


def test_block_2x3_is_two_outputs_by_three_inputs():
    scores = np.arange(24).reshape(6, 4)
    assert kept("2x3", scores, 1) == [[0, 0, 1, 1]] * 3 + [[1, 1, 1, 1]] * 3
    assert kept("2x3", scores, 3) == [[0, 0, 0, 0]] * 3 + [[0, 0, 1, 1]] * 3


def test_block_ranks_by_the_mean_not_by_the_lowest_weight():
    # Means 2.5 and 2.0; the lowest weight stands in the first block.
    assert kept("2x1", [[0, 5, 2, 2]], 1) == [[1, 1, 0, 0]]


def test_block_of_equal_scores_prunes_by_index():
    assert kept("2x1", np.ones((2, 4)), 3) == [[0, 0, 0, 0], [0, 0, 1, 1]]


def test_block_of_a_convolution_runs_over_filters_at_one_input():
    # Window 2, 1 input, 4 filters.
    layout = conv_layout((2, 1, 4))
    scores = [[[1, 1, 9, 9]], [[9, 9, 9, 9]]]
    assert kept("2x1", scores, 1, layout) == [[[0, 0, 1, 1]], [[1, 1, 1, 1]]]


def test_block_of_a_transposed_convolution_runs_over_its_outputs():
    # Shape (window, outputs, inputs): outputs 0 and 1 of input 1 at position 0.
    layout = conv_transpose_layout((1, 4, 2))
    scores = [[[9, 1], [9, 1], [9, 9], [9, 9]]]
    assert kept("2x1", scores, 1, layout) == [[[1, 0], [1, 0], [1, 1], [1, 1]]]


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        (
            "4x1",
            (5, 6),
            "pattern '4x1' needs an output axis divisible by 4, but it has 6 outputs",
        ),
        (
            "1x4",
            (6, 5),
            "pattern '1x4' needs a reduction axis divisible by 4, but it has size 6",
        ),
        (
            "2:4",
            (6, 5),
            "pattern '2:4' needs an input axis divisible by 4, "
            "but each output sees 6 inputs",
        ),
    ],
)
def test_kernel_that_does_not_divide_is_skipped_with_a_reason(name, shape, reason):
    assert PATTERNS.get(name).reason_to_skip(dense_layout(shape)) == reason


def test_kernel_that_divides_is_not_skipped():
    # 4x1 divides the 8 outputs, 1x4 the 12 inputs: the axes are not swapped.
    assert PATTERNS.get("4x1").reason_to_skip(dense_layout((3, 8))) is None
    assert PATTERNS.get("1x4").reason_to_skip(dense_layout((12, 3))) is None
    assert PATTERNS.get("3:4").reason_to_skip(dense_layout((12, 3))) is None


@pytest.mark.parametrize("name", ["1x1", "channelx1", "1xchannel"])
def test_patterns_without_sizes_skip_nothing(name):
    pattern = PATTERNS.get(name)
    assert pattern.reason_to_skip(dense_layout((7, 5))) is None
    assert pattern.reason_to_skip(conv_layout((3, 3, 1, 7))) is None


# n of m.


def test_one_of_four_prunes_one_along_the_inputs():
    # 4 inputs by 2 outputs: one group per output.
    scores = [[4, 5], [1, 6], [3, 2], [2, 8]]
    assert kept("1:4", scores, 2) == [[1, 1], [0, 1], [1, 0], [1, 1]]


def test_two_of_four_prunes_two_along_the_inputs():
    scores = [[4, 5], [1, 6], [3, 2], [2, 8]]
    assert kept("2:4", scores, 2) == [[1, 0], [0, 1], [1, 0], [0, 1]]


def test_three_of_four_prunes_three_along_the_inputs():
    scores = [[4, 5], [1, 6], [3, 2], [2, 8]]
    assert kept("3:4", scores, 2) == [[1, 0], [0, 0], [0, 0], [0, 1]]


def test_n_of_m_prunes_first_the_groups_that_lose_least():
    # Each pair of inputs of an output is a group; they would lose 1, 5, 4, 3.
    scores = [[1, 5], [9, 6], [4, 3], [9, 9]]
    assert group_scores("1:2", scores).tolist() == [[1, 5], [4, 3]]
    assert kept("1:2", scores, 2) == [[0, 1], [1, 1], [1, 0], [1, 1]]


def test_n_of_m_of_equal_scores_prunes_the_first_of_the_first_groups():
    assert kept("1:4", np.ones((4, 2)), 1) == [[0, 1], [1, 1], [1, 1], [1, 1]]
    assert kept("3:4", np.ones((4, 2)), 2) == [[0, 0], [0, 0], [0, 0], [1, 1]]


def test_n_of_m_with_ties_at_the_cut_prunes_exactly_n():
    assert kept("2:4", [[2], [1], [2], [2]], 1) == [[0], [0], [1], [1]]


def test_n_of_m_of_negative_scores_prunes_the_lowest():
    assert kept("1:2", [[-1], [-3]], 1) == [[1], [0]]
    assert kept("2:4", [[-1], [-3], [4], [-2]], 1) == [[1], [0], [1], [0]]


def test_n_of_m_of_a_convolution_runs_over_inputs_at_one_window_position():
    # Window 2, 2 inputs, 1 filter: positions are never mixed.
    layout = conv_layout((2, 2, 1))
    scores = [[[1], [2]], [[8], [7]]]
    assert kept("1:2", scores, 2, layout) == [[[0], [1]], [[1], [0]]]


def test_n_of_m_of_a_convolution_counts_inputs_not_rows():
    # 4 rows, but 2 inputs at each of 2 positions.
    reason = PATTERNS.get("2:4").reason_to_skip(conv_layout((2, 2, 3)))
    assert reason.endswith("but each output sees 2 inputs")


def test_n_of_m_of_a_grouped_convolution_counts_the_inputs_of_a_group():
    pattern = PATTERNS.get("2:4")
    assert pattern.reason_to_skip(conv_layout((3, 3, 4, 6), groups=2)) is None
    reason = pattern.reason_to_skip(conv_layout((3, 3, 2, 6), groups=2))
    assert reason.endswith("but each output sees 2 inputs")


def test_n_of_m_of_a_depthwise_convolution_is_skipped():
    reason = PATTERNS.get("1:2").reason_to_skip(depthwise_layout((2, 2, 4, 1)))
    assert reason == (
        "pattern '1:2' needs an input axis divisible by 2, "
        "but each output sees 1 inputs"
    )


def test_n_of_m_of_a_transposed_convolution_runs_over_its_last_axis():
    # Shape (window, outputs, inputs).
    layout = conv_transpose_layout((1, 2, 4))
    scores = [[[4, 1, 3, 2], [5, 6, 2, 8]]]
    assert kept("1:4", scores, 2, layout) == [[[1, 0, 1, 1], [1, 1, 0, 1]]]


# Channels.


def test_input_channel_of_a_dense_kernel_is_a_row():
    scores = [[5, 5, 5], [1, 2, 3], [4, 4, 4]]
    assert kept("channelx1", scores, 1) == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]


def test_output_channel_of_a_dense_kernel_is_a_column():
    scores = [[5, 1, 4], [5, 2, 4]]
    assert kept("1xchannel", scores, 1) == [[1, 0, 1], [1, 0, 1]]


def test_channels_of_equal_scores_are_pruned_by_index():
    assert kept("channelx1", np.ones((3, 2)), 2) == [[0, 0], [0, 0], [1, 1]]
    assert kept("1xchannel", np.ones((2, 3)), 2) == [[0, 0, 1], [0, 0, 1]]


def test_input_channel_of_a_convolution_has_all_its_window_positions():
    # Window 2, 3 inputs, 2 filters; input 1 is low at both positions.
    layout = conv_layout((2, 3, 2))
    position = [[5, 5], [1, 1], [4, 4]]
    assert kept("channelx1", [position, position], 1, layout) == [
        [[1, 1], [0, 0], [1, 1]],
        [[1, 1], [0, 0], [1, 1]],
    ]


def test_input_channel_of_a_convolution_ranks_by_all_positions():
    # Input 0 is lowest at the first position; input 1 on the mean of both.
    layout = conv_layout((2, 2, 1))
    scores = [[[1], [2]], [[9], [2]]]
    assert kept("channelx1", scores, 1, layout) == [[[1], [0]], [[1], [0]]]


def test_output_channel_of_a_convolution_is_a_filter():
    layout = conv_layout((2, 2, 3))
    scores = np.full((2, 2, 3), 5.0)
    scores[..., 2] = 1.0
    assert kept("1xchannel", scores, 1, layout) == [[[1, 1, 0]] * 2] * 2


def test_input_channel_of_a_grouped_convolution_belongs_to_one_group():
    # 2 groups: inputs (0, 1) -> filters (0, 1) and inputs (2, 3) -> filters (2, 3),
    # where input 3 is the kernel's second row for the second group.
    layout = conv_layout((2, 2, 4), groups=2)
    scores = np.full((2, 2, 4), 5.0)
    scores[:, 1, 2:] = 1.0
    assert PATTERNS.get("channelx1").num_groups(layout) == 4
    assert PATTERNS.get("channelx1").group_size(layout) == 4
    assert kept("channelx1", scores, 1, layout) == [
        [[1, 1, 1, 1], [1, 1, 0, 0]],
        [[1, 1, 1, 1], [1, 1, 0, 0]],
    ]


def test_input_channel_of_a_depthwise_convolution_has_all_its_multiples():
    # Window 2, 3 inputs, multiplier 2.
    layout = depthwise_layout((2, 3, 2))
    scores = np.full((2, 3, 2), 5.0)
    scores[:, 1] = 1.0
    assert kept("channelx1", scores, 1, layout) == [[[1, 1], [0, 0], [1, 1]]] * 2


def test_output_channel_of_a_depthwise_convolution_is_one_multiple():
    layout = depthwise_layout((2, 3, 2))
    scores = np.full((2, 3, 2), 5.0)
    scores[:, 1, 1] = 1.0
    assert kept("1xchannel", scores, 1, layout) == [[[1, 1], [1, 0], [1, 1]]] * 2


def test_channels_of_a_transposed_convolution_know_its_axes():
    # Shape (window, outputs, inputs): 2 outputs, 3 inputs.
    layout = conv_transpose_layout((1, 2, 3))
    scores = [[[5, 1, 5], [4, 1, 4]]]
    assert kept("channelx1", scores, 1, layout) == [[[1, 0, 1], [1, 0, 1]]]
    assert kept("1xchannel", scores, 1, layout) == [[[1, 1, 1], [0, 0, 0]]]


# Groups' scores.


@pytest.mark.parametrize(
    ("reduction", "score"),
    [("mean", 2.5), ("sum", 10.0), ("max", 4.0), ("l2", np.sqrt(30, dtype="float32"))],
)
def test_group_score_of_a_block_by_each_reduction(reduction, score):
    made = group_scores("2x2", [[1, 2], [3, 4]], reduction=reduction)
    assert made.tolist() == [[score]]


@pytest.mark.parametrize(
    ("reduction", "score"),
    [("mean", 1.5), ("sum", 3.0), ("max", 2.0), ("l2", np.sqrt(5, dtype="float32"))],
)
def test_group_score_of_two_of_four_is_that_of_the_two_lost(reduction, score):
    made = group_scores("2:4", [[4], [1], [3], [2]], reduction=reduction)
    assert made.tolist() == [[score]]


def test_group_score_by_the_highest_can_prune_another_group():
    # Means 2.5 and 3; highest 5 and 3.
    assert kept("2x1", [[0, 5, 3, 3]], 1, reduction="mean") == [[0, 0, 1, 1]]
    assert kept("2x1", [[0, 5, 3, 3]], 1, reduction="max") == [[1, 1, 0, 0]]


REDUCE = {
    "mean": np.mean,
    "sum": np.sum,
    "max": np.max,
    "l2": lambda x, axis: np.sqrt(np.sum(np.square(x), axis=axis)),
}


@pytest.mark.parametrize("reduction", REDUCE)
def test_group_scores_equal_numpy_on_random_scores(reduction):
    scores = np.random.default_rng(0).random((12, 8)).astype("float32")
    reduce = REDUCE[reduction]
    # Inputs first, then outputs, members last.
    blocks = scores.reshape(4, 3, 4, 2).transpose(0, 2, 1, 3).reshape(4, 4, 6)
    lost = np.sort(scores.reshape(3, 4, 8), axis=1)[:, :3]
    for name, members, axis in (
        ("2x3", blocks, 2),
        ("3:4", lost, 1),
        ("channelx1", scores, 1),
        ("1xchannel", scores, 0),
    ):
        made = group_scores(name, scores, reduction=reduction)
        expected = reduce(members, axis=axis)
        assert np.allclose(made.ravel(), expected.ravel(), rtol=1e-6), name


@pytest.mark.usefixtures("with_and_without_xla")
@pytest.mark.parametrize("reduction", REDUCE)
def test_group_scores_compiled_equal_eager_to_the_last_bit(reduction):
    # A score that rounds differently can prune a different group.
    generator = np.random.default_rng(1)
    scores = tensor(generator.standard_normal((60, 44)))
    layout = dense_layout((60, 44))
    names = ("4x1", "1x3", "4x4", "2x20", "44x6", "3:4", "channelx1")
    patterns = [PATTERNS.get(name) for name in names]

    def all_scores(scores):
        return [p.group_scores(scores, layout, reduction) for p in patterns]

    compiled = CompiledFunction(all_scores)(ops.abs(scores))
    differing = {
        str(pattern): int((value_of(one) != value_of(other)).sum())
        for pattern, one, other in zip(
            patterns, compiled, all_scores(ops.abs(scores)), strict=True
        )
    }
    assert differing == dict.fromkeys(names, 0)


@pytest.mark.parametrize("reduction", REDUCE)
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(1, 5), (4, 4), (5, 3), (2, 6), (20, 2), (40, 60), (8, 30)]
)
def test_blocks_of_every_size_are_scored_and_spread(outputs, inputs, reduction):
    scores = np.random.default_rng(3).random((60, 40)).astype("float32")
    shape = (60 // inputs, inputs, 40 // outputs, outputs)
    members = scores.reshape(shape).transpose(0, 2, 1, 3).reshape(*shape[::2], -1)
    made = group_scores(f"{outputs}x{inputs}", scores, reduction=reduction)
    np.testing.assert_allclose(made, REDUCE[reduction](members, axis=2), rtol=1e-6)

    pattern, layout = PATTERNS.get(f"{outputs}x{inputs}"), dense_layout((60, 40))
    for values in (made, made > np.median(made)):
        spread = value_of(pattern.spread(ops.convert_to_tensor(values), layout))
        expected = values.repeat(inputs, axis=0).repeat(outputs, axis=1)
        assert spread.dtype == values.dtype
        np.testing.assert_array_equal(spread, expected)


def test_spread_gives_every_weight_the_value_of_its_group():
    def spread(name, values, layout):
        values = ops.convert_to_tensor(np.array(values, "float32"))
        return value_of(PATTERNS.get(name).spread(values, layout)).tolist()

    square = dense_layout((2, 4))
    assert spread("2x1", [[1, 2], [3, 4]], square) == [[1, 1, 2, 2], [3, 3, 4, 4]]
    assert spread("1:2", [[1, 2, 3, 4]], square) == [[1, 2, 3, 4], [1, 2, 3, 4]]
    assert spread("channelx1", [[1], [2]], square) == [[1] * 4, [2] * 4]
    assert spread("1xchannel", [1, 2, 3, 4], square) == [[1, 2, 3, 4]] * 2
    grouped = conv_layout((2, 1, 4), groups=2)
    assert spread("channelx1", [[1, 2]], grouped) == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_group_norms_are_of_all_the_weights_of_a_group():
    def norms(name, weight):
        layout = dense_layout(np.shape(weight))
        made = PATTERNS.get(name).group_norms(tensor(weight), layout)
        return value_of(made).tolist()

    assert norms("1x1", [[-3, 4]]) == [[3, 4]]
    assert norms("2x1", [[-3, 4]]) == [[5]]
    # Of both weights, not of the one that would be pruned.
    assert norms("1:2", [[-3], [4]]) == [[5]]
    assert norms("channelx1", [[3, -4], [0, 1]]) == [[5], [1]]
    assert norms("1xchannel", [[3, 0], [4, 1]]) == [5, 1]


# Counts.


@pytest.mark.parametrize(
    ("name", "num_groups", "group_size"),
    [
        ("1x1", 96, 1),
        ("4x1", 24, 4),
        ("1x4", 24, 4),
        ("2x3", 16, 6),
        # 24 groups of 4, of which n are zeroed.
        ("1:4", 24, 1),
        ("2:4", 24, 2),
        ("3:4", 24, 3),
        ("channelx1", 12, 8),
        ("1xchannel", 8, 12),
    ],
)
def test_number_and_size_of_groups(name, num_groups, group_size):
    layout = dense_layout((12, 8))
    assert PATTERNS.get(name).num_groups(layout) == num_groups
    assert PATTERNS.get(name).group_size(layout) == group_size


@st.composite
def pruned_kernels(draw, names):
    """A pattern, a shape it divides, scores that may tie, and a count of groups."""
    pattern = PATTERNS.get(draw(st.sampled_from(names)))
    layout = dense_layout(draw(st.sampled_from([(12, 8), (24, 4), (12, 12)])))
    seed = draw(st.integers(0, 2**16))
    levels = draw(st.sampled_from([1, 3, 2**20]))
    scores = np.random.default_rng(seed).integers(0, levels, layout.shape)
    k = draw(st.integers(0, pattern.num_groups(layout)))
    return pattern, layout, scores.astype("float32"), k


def prune(pattern, layout, scores, k):
    """Prunes the k lowest groups; sorting chooses them, to test the pattern alone."""
    groups = value_of(pattern.group_scores(tensor(scores), layout, "mean"))
    pruned = np.zeros(groups.size, bool)
    pruned[np.argsort(groups.ravel(), kind="stable")[:k]] = True
    pruned = pruned.reshape(groups.shape)
    mask = pattern.expand(ops.convert_to_tensor(pruned), tensor(scores), layout)
    return groups, pruned, value_of(mask)


@property_test
@given(pruned_kernels(PATTERN_NAMES))
def test_every_pattern_prunes_exactly_k_groups(kernel):
    pattern, layout, _, k = kernel
    groups, pruned, mask = prune(*kernel)
    assert mask.dtype == bool
    assert groups.size == pattern.num_groups(layout)
    assert (~mask).sum() == k * pattern.group_size(layout)
    if 0 < k < pruned.size:
        assert groups[pruned].max() <= groups[~pruned].min()


@property_test
@given(pruned_kernels(("4x1", "1x4", "2x3")))
def test_blocks_are_pruned_whole(kernel):
    pattern, layout, _, k = kernel
    _, _, mask = prune(*kernel)
    rows, outputs = layout.rows // pattern.inputs, layout.outputs // pattern.outputs
    blocks = mask.reshape(rows, pattern.inputs, outputs, pattern.outputs)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(rows * outputs, -1)
    assert set(blocks.sum(axis=1)) <= {0, blocks.shape[1]}
    assert (blocks.sum(axis=1) == 0).sum() == k


@property_test
@given(pruned_kernels(("1:4", "2:4", "3:4", "1:2", "2:3")))
def test_n_of_m_prunes_the_n_lowest_of_a_group_or_none(kernel):
    pattern, layout, scores, k = kernel
    _, _, mask = prune(*kernel)
    groups = mask.reshape(-1, pattern.m, layout.outputs)
    values = scores.reshape(-1, pattern.m, layout.outputs)
    zeros = (~groups).sum(axis=1)
    assert set(zeros.ravel()) <= {0, pattern.n}
    assert (zeros == pattern.n).sum() == k
    for group, column in np.argwhere(zeros == pattern.n):
        order = np.argsort(values[group, :, column], kind="stable")
        assert not groups[group, order[: pattern.n], column].any()


@pytest.mark.parametrize("n", [1, 2, 3])
def test_n_of_m_at_its_full_sparsity_is_n_of_m_everywhere(n):
    scores = np.random.default_rng(2).standard_normal((16, 5))
    _, _, mask = prune(NOfM(n, 4), dense_layout((16, 5)), scores, 20)
    assert ((~mask).reshape(4, 4, 5).sum(axis=1) == n).all()


# A pattern of one's own.


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("num_groups", (None,)),
        ("group_size", (None,)),
        ("group_scores", (None, None, "mean")),
        ("spread", (None, None)),
    ],
)
def test_pattern_without_a_method_says_what_to_define(method, arguments):
    class Diagonal(Pattern):
        pass

    with pytest.raises(NotImplementedError, match=f"Diagonal must define `{method}`."):
        getattr(Diagonal(), method)(*arguments)


def test_blocks_do_not_span_outputs_that_share_no_input():
    grouped = conv_layout((1, 1, 3, 6), groups=2)
    reason = Block(2, 1).reason_to_skip(grouped)
    assert reason == (
        "pattern '2x1' needs 2 outputs that share inputs, but 2 groups of the "
        "convolution have 3 each"
    )
    assert Block(3, 1).reason_to_skip(grouped) is None
    assert "4 groups" in Block(4, 1).reason_to_skip(depthwise_layout((3, 3, 4, 1)))

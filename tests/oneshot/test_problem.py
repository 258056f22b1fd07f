import numpy as np
import pytest
from conftest import value_of
from problems import CASES, DENSE, PATTERN_NAMES, Case, fits, lowest_mask

from keras_pruner.oneshot.problem import KernelProblem
from keras_pruner.oneshot.statistics import Moments


@pytest.fixture(params=CASES)
def kind(request):
    return CASES[request.param]


@pytest.mark.parametrize("switches", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_moments_and_target_are_those_of_all_rows(kind, switches):
    dense_target, centre = map(bool, switches)
    case = Case(**kind, dense_target=dense_target, centre=centre)
    problem = case.problem()
    np.testing.assert_allclose(value_of(problem.target), case.target(), atol=1e-4)
    found = [
        (own, value_of(part.hessian)[group])
        for part in problem.parts
        for group, own in enumerate(part.columns)
    ]
    for (own, hessian), (columns, expected) in zip(found, case.hessians, strict=True):
        assert list(own) == list(columns)
        np.testing.assert_allclose(hessian, expected, rtol=1e-4, atol=1e-5)


def test_target_of_equal_rows_is_exactly_the_weights():
    case = Case(**DENSE, noise=0.0)
    problem = case.problem()
    np.testing.assert_array_equal(value_of(problem.target), case.weights)


def test_error_is_the_share_of_the_outputs_that_changes(kind):
    case = Case(**kind)
    problem = case.problem()
    other = case.weights * np.random.default_rng(3).random(case.weights.shape)
    assert problem.error(other.astype("float32")) == pytest.approx(
        case.error(other), rel=1e-4
    )
    assert problem.error(problem.target) == 0
    assert problem.error(np.zeros(case.weights.shape, "float32")) == pytest.approx(1)


def test_error_of_inputs_that_are_all_zero_is_zero():
    case = Case(**DENSE, dead=range(12))
    assert case.problem().error(case.weights.astype("float32")) == 0


@pytest.mark.parametrize("dense_target", [True, False])
def test_bias_update_is_the_optimum(kind, dense_target):
    case = Case(**kind, dense_target=dense_target)
    sparse = np.random.default_rng(4).normal(size=case.weights.shape)
    update = value_of(case.problem().bias_update(sparse.astype("float32")))
    for part, rows, dense in zip(case.columns, case.rows, case.dense_rows, strict=True):
        for group, own in enumerate(part):
            seen = dense[group] if dense_target else rows[group]
            missing = seen @ case.weights[:, own] - rows[group] @ sparse[:, own]
            # The best constant is the mean of what is missing.
            np.testing.assert_allclose(update[own], missing.mean(0), atol=1e-4)


@pytest.mark.parametrize("pattern", PATTERN_NAMES)
def test_select_prunes_exactly_the_lowest_groups(kind, pattern):
    case = Case(**kind)
    if not fits(case, pattern):
        pytest.skip("the pattern does not fit the layout")
    problem = case.problem(pattern)
    scores = np.random.default_rng(5).random((12, 6)).astype("float32")
    for count in (0, 1, problem.count, problem.pattern.num_groups(problem.layout)):
        asked = problem.with_count(count)
        mask = value_of(asked.select(scores))
        np.testing.assert_array_equal(mask, lowest_mask(scores, asked))
        size = asked.pattern.group_size(asked.layout)
        assert np.count_nonzero(~mask) == count * size


def test_selection_per_output_takes_the_same_number_of_each_column():
    problem = Case(**DENSE).problem(share=0.5)
    scores = np.random.default_rng(5).random((12, 6)).astype("float32") * np.arange(6)
    mask = value_of(problem.select(scores.astype("float32"), per_output=True))
    assert np.count_nonzero(~mask, axis=0).tolist() == [6] * 6
    # Whole channels have no outputs to compete in.
    whole = Case(**DENSE).problem("channelx1")
    mask = value_of(whole.select(scores.astype("float32"), per_output=True))
    np.testing.assert_array_equal(mask, lowest_mask(scores.astype("float32"), whole))


def test_given_mask_replaces_the_selection():
    problem = Case(**DENSE).problem()
    mask = np.arange(72).reshape(12, 6) % 5 > 1
    given = problem.with_mask(mask)
    np.testing.assert_array_equal(value_of(given.select(np.zeros((12, 6)))), mask)
    assert problem.mask is None
    assert given.with_count(3).mask is None
    with pytest.raises(ValueError, match="shape of the weights"):
        problem.with_mask(mask[:3])


def test_problem_that_does_not_fit_is_refused():
    case = Case(**DENSE, dense_target=False)
    weights, layout, moments = case.weights, case.layout, case.moments
    settings = {"dense_target": False}
    with pytest.raises(ValueError, match=r"count is in \[0, 72\]. Received: 73"):
        KernelProblem(weights, layout, moments, 73, **settings)
    with pytest.raises(ValueError, match="shape of the layout"):
        KernelProblem(weights.T, layout, moments, 1, **settings)
    with pytest.raises(ValueError, match="12 columns, 6 of them different"):
        KernelProblem(weights, layout, moments * 2, 1, **settings)
    with pytest.raises(ValueError, match="No row of the data"):
        KernelProblem(weights, layout, [Moments([range(6)])], 1, **settings)
    with pytest.raises(ValueError, match="needs moments of dense rows"):
        KernelProblem(weights, layout, moments, 1)
    short = Moments([range(6)])
    short.add(np.ones((1, 4, 11), "float32"))
    with pytest.raises(ValueError, match="length 12 of the kernel's reduction axis"):
        KernelProblem(weights, layout, [short], 1, **settings)

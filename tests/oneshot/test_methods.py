import sys

import numpy as np
import pytest
import references
from conftest import BACKEND, value_of
from keras import ops
from problems import CASES, DENSE, PATTERN_NAMES, Case, lowest_mask, result_of

from keras_pruner.backend import FunctionCache
from keras_pruner.components import PATTERNS, register_pattern
from keras_pruner.components.patterns import Unstructured
from keras_pruner.kernels.layouts import KernelLayout
from keras_pruner.oneshot.methods import METHODS, OneShotMethod, Solution
from keras_pruner.oneshot.methods.refit import refit
from keras_pruner.oneshot.problem import KernelProblem
from keras_pruner.oneshot.statistics import Moments

UPDATING = ["admm", "alps", "sparsegpt"]


def solved(name, problem, **settings):
    solution = METHODS.get({"name": name, "config": settings}).solve(problem)
    weights, mask = result_of(solution)
    assert weights.dtype == np.float32 and mask.dtype == bool
    assert not weights[~mask].any()
    if problem.mask is None:
        size = problem.pattern.group_size(problem.layout)
        assert np.count_nonzero(~mask) == problem.count * size
    return weights, mask


def assert_equal_to_reference(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)


# All patterns on one kind of kernel, and a few on the others.
KINDS_AND_PATTERNS = [("dense", pattern) for pattern in PATTERN_NAMES] + [
    (kind, pattern)
    for kind in ("grouped", "two parts")
    for pattern in ("1x1", "2:4", "channelx1")
]


@pytest.mark.parametrize(("kind", "pattern"), KINDS_AND_PATTERNS)
@pytest.mark.parametrize("name", METHODS)
def test_method_equals_reference(name, kind, pattern):
    case = Case(**CASES[kind], dead=[3])
    problem = case.problem(pattern)
    expected = getattr(references, name)(case, problem)
    assert_equal_to_reference(solved(name, problem), expected)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("dense_target", [True, False])
def test_method_equals_reference_with_each_switch(name, centre, dense_target):
    case = Case(**CASES["two parts"], centre=centre, dense_target=dense_target)
    problem = case.problem(share=0.6)
    expected = getattr(references, name)(case, problem)
    assert_equal_to_reference(solved(name, problem), expected)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="compiles in one way")
@pytest.mark.usefixtures("always_xla")
@pytest.mark.parametrize("name", ["admm", "alps", "dsnot", "sparsegpt"])
def test_method_equals_reference_under_xla(name):
    case = Case(**CASES["dense"], centre=False)
    problem = case.problem("2:4")
    problem.call = FunctionCache()
    expected = getattr(references, name)(case, problem)
    assert_equal_to_reference(solved(name, problem), expected)


@pytest.mark.parametrize("name", UPDATING)
@pytest.mark.parametrize("kind", CASES)
def test_given_mask_is_kept_to(name, kind):
    case = Case(**CASES[kind])
    problem = case.problem("channelx1")
    mask = np.random.default_rng(6).random(case.weights.shape) < 0.4
    expected = getattr(references, name)(case, problem, mask)
    found = solved(name, problem.with_mask(mask))
    np.testing.assert_array_equal(found[1], mask)
    assert_equal_to_reference(found, expected)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_bounds_of_the_sparsity(name, share):
    case = Case(**CASES["dense"], dense_target=False)
    weights, mask = solved(name, case.problem(share=share))
    assert mask.all() == (share == 0) and mask.any() == (share == 0)
    if share == 0:
        np.testing.assert_allclose(weights, case.weights, atol=2e-2)


@pytest.mark.parametrize("pattern", ["1x1", "2:4", "2x1", "1x3"])
@pytest.mark.parametrize("share", [0.3, 0.5])
def test_sparsegpt_divides_the_count_over_blocks(pattern, share):
    case = Case(columns=[[range(4)]], length=24, seed=2)
    problem = case.problem(pattern, share)
    expected = references.sparsegpt(case, problem, block_size=10)
    assert_equal_to_reference(solved("sparsegpt", problem, block_size=10), expected)


def test_sparsegpt_raises_the_damping_where_h_cannot_be_factored():
    rank_one = np.arange(1.0, 5)[:, None] * np.arange(1.0, 9)
    problem = problem_of_rows(rank_one, np.ones((8, 3)), 0.5)
    weights, _ = solved("sparsegpt", problem, damping=1e-12)
    assert np.isfinite(weights).all() and problem.error(weights) < 0.1


def test_sparsegpt_says_that_h_cannot_be_factored(monkeypatch):
    problem = Case(**CASES["dense"]).problem()
    nan = value_of(problem.parts[0].hessian) * np.nan
    problem.parts[0] = problem.parts[0]._replace(hessian=ops.convert_to_tensor(nan))
    with pytest.raises(ValueError, match="cannot be factored in float32"):
        METHODS.get("sparsegpt").solve(problem)


@pytest.mark.parametrize("pattern", ["1x1", "2:4", "2x1", "channelx1"])
def test_wanda_ranks_in_the_whole_layer_if_asked(pattern):
    case = Case(**CASES["dense"])
    problem = case.problem(pattern)
    expected = references.wanda(case, problem, per_output=False)
    assert_equal_to_reference(solved("wanda", problem, per_output=False), expected)


@pytest.mark.parametrize("kind", CASES)
def test_wanda_fits_the_kept_weights_if_asked(kind):
    case = Case(**CASES[kind])
    problem = case.problem()
    settings = {"per_output": False, "refit_steps": 5}
    found = solved("wanda", problem, **settings)
    assert_equal_to_reference(found, references.wanda(case, problem, **settings))
    plain, _ = solved("wanda", problem, per_output=False)
    assert problem.error(found[0]) < 0.9 * problem.error(plain)


@pytest.mark.parametrize("pattern", ["1x1", "2:4"])
def test_dsnot_restores_mean_outputs(pattern):
    case = Case([[range(8)]], 32, centre=False, dense_target=False)
    problem = case.problem(pattern)

    def lost(weights):
        return np.abs(value_of(problem.bias_update(weights))).sum()

    settings = {"threshold": 0.01}
    found = solved("dsnot", problem, **settings)
    assert_equal_to_reference(found, references.dsnot(case, problem, **settings))
    before = solved("wanda", problem)
    assert lost(found[0]) < 0.8 * lost(before[0])
    np.testing.assert_array_equal(
        np.count_nonzero(found[1], axis=0), np.count_nonzero(before[1], axis=0)
    )


def problem_of_rows(rows, weights, share, **settings):
    """A problem of a dense kernel without a dense target."""
    columns = [np.arange(weights.shape[1])]
    moments = Moments(columns)
    moments.add(rows[None].astype("float32"))
    layout = KernelLayout(weights.shape, (), *weights.shape)
    return KernelProblem(
        weights.astype("float32"), layout, [moments], round(share * weights.size),
        dense_target=False, **settings,
    )  # fmt: skip


def test_rows_of_low_rank_are_no_obstacle():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(29, 256))
    problem = problem_of_rows(rows, generator.normal(size=(256, 24)), 0.8)
    error = {name: problem.error(solved(name, problem)[0]) for name in UPDATING}
    assert error["admm"] < 1e-3 and error["alps"] < 1e-3
    assert error["admm"] < error["sparsegpt"] / 20


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pattern", ["1x1", "2:4", "4x1", "channelx1"])
def test_methods_rank_as_published(pattern, seed):
    case = Case(columns=[[range(16)]], length=48, num_rows=300, seed=seed)
    problem = case.problem(pattern, 0.6)
    names = ["admm", "alps", "sparsegpt", "wanda"]
    error = {name: problem.error(solved(name, problem)[0]) for name in names}
    assert error["admm"] <= error["sparsegpt"] <= error["wanda"]
    assert error["alps"] <= error["sparsegpt"]


def test_refit_ends_at_the_least_squares_fit_of_the_kept_weights():
    case = Case(**CASES["dense"])
    problem = case.problem()
    (part,) = problem.parts
    mask = np.random.default_rng(7).random(case.weights.shape) < 0.5
    start = ops.zeros_like(part.target)
    (found,) = refit(
        [part.hessian], [part.target], [start], [ops.convert_to_tensor(mask[None])],
        num_steps=60,
    )  # fmt: skip
    ((_, hessian),), target = case.hessians, case.target()
    expected = np.zeros(mask.shape)
    for column in range(mask.shape[1]):
        kept = mask[:, column]
        right = (hessian @ target[:, column])[kept]
        expected[kept, column] = np.linalg.solve(hessian[np.ix_(kept, kept)], right)
    np.testing.assert_allclose(value_of(found)[0], expected, atol=1e-3)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_that_are_all_zero_give_finite_weights(name):
    case = Case(**CASES["two parts"], dead=range(12))
    weights, _ = solved(name, case.problem())
    assert np.isfinite(weights).all()


@pytest.mark.parametrize("name", METHODS)
def test_solving_changes_nothing_of_the_problem(name):
    case = Case(**CASES["dense"], centre=False)
    problem = case.problem()
    before = [np.copy(value_of(x)) for x in (problem.weights, *problem.parts[0][1:])]
    first = solved(name, problem)
    second = solved(name, problem)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    after = [value_of(x) for x in (problem.weights, *problem.parts[0][1:])]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


class Pairs(Unstructured):
    """Whole pairs of neighbouring rows, but says nothing on rows of a group."""

    chooses_weights = is_unstructured = False
    rows_of_group = None

    def num_groups(self, layout):
        return layout.size // 2

    def group_size(self, layout):
        return 2

    def group_scores(self, scores, layout, reduction):
        pairs = ops.reshape(scores, (layout.rows // 2, 2, layout.outputs))
        return ops.sqrt(ops.sum(pairs * pairs, axis=1))

    def spread(self, values, layout):
        return ops.repeat(values, 2, axis=0)


@pytest.mark.parametrize("name", METHODS)
def test_registered_pattern_is_taken(name, monkeypatch):
    monkeypatch.setattr(PATTERNS, "_classes", dict(PATTERNS._classes))
    register_pattern("pairs")(Pairs)
    case = Case(**CASES["dense"])
    _, mask = solved(name, case.problem("pairs", 0.5))
    np.testing.assert_array_equal(mask[::2], mask[1::2])


def test_registered_method_is_found(monkeypatch):
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS._classes))

    @METHODS.register("ones")
    class Ones(OneShotMethod):
        def solve(self, problem):
            mask = problem.select(ops.ones(problem.weights.shape))
            return Solution(ops.cast(mask, "float32"), mask)

    problem = Case(**CASES["dense"]).problem()
    _, mask = solved("ones", problem)
    np.testing.assert_array_equal(mask, lowest_mask(np.ones((12, 6)), problem))
    with pytest.raises(ValueError, match="Unknown one-shot method 'onse'.*'ones'"):
        METHODS.get("onse")
    with pytest.raises(NotImplementedError, match="must define `solve`"):
        OneShotMethod().solve(problem)


@pytest.mark.parametrize("name", METHODS)
def test_config_builds_an_equal_method(name):
    method = METHODS.get(name)
    assert METHODS.get(METHODS.serialize(method)) == method
    for key, value in method.get_config().items():
        changed = not value if isinstance(value, bool) else value + 1
        if key == "first_penalty" and name == "admm":
            changed = value / 2
        other = type(method)(**{key: changed})
        assert other != method and METHODS.get(METHODS.serialize(other)) == other


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("admm", {"num_penalties": 0}, "`num_penalties` must be >= 1"),
        ("admm", {"num_steps": 1.5}, "`num_steps` must be an integer"),
        ("admm", {"first_penalty": 0}, "`first_penalty` must be .*positive"),
        ("admm", {"last_penalty": 0.01}, "`last_penalty` must be .*>= 0.03"),
        ("admm", {"refit_steps": -1}, "`refit_steps` must be >= 0"),
        ("admm", {"damping": 0}, "`damping` must be .*positive"),
        ("alps", {"first_penalty": 0}, "`first_penalty` must be .*positive"),
        ("alps", {"check_steps": 0}, "`check_steps` must be >= 1"),
        ("alps", {"max_steps": 0}, "`max_steps` must be >= 1"),
        ("sparsegpt", {"block_size": 0}, "`block_size` must be >= 1"),
        ("sparsegpt", {"damping": -1}, "`damping` must be .*positive"),
        ("wanda", {"per_output": 1}, "`per_output` must be True or False"),
        ("wanda", {"refit_steps": -1}, "`refit_steps` must be >= 0"),
        ("dsnot", {"max_cycles": -1}, "`max_cycles` must be >= 0"),
        ("dsnot", {"threshold": -1}, "`threshold` must be .*>= 0"),
    ],
)
def test_settings_out_of_range_are_refused(name, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        METHODS.get({"name": name, "config": settings})


@pytest.mark.parametrize("name", ["admm", "alps", "sparsegpt"])
def test_problems_for_other_counts_compute_once_what_they_share(name, monkeypatch):
    problem, calls = Case(**DENSE).problem(share=0.5), []
    parts = {"admm": "_inverses", "alps": "_decompose", "sparsegpt": "factors_of"}
    module = f"keras_pruner.oneshot.methods.{name}"
    own = getattr(sys.modules[module], parts[name])

    def counted(*args):
        calls.append(args)
        return own(*args)

    monkeypatch.setattr(f"{module}.{parts[name]}", counted)
    method = METHODS.get(name)
    alone = value_of(method.solve(problem).weights)
    num_calls = len(calls)
    for count in (problem.count, 20, 30):
        found = value_of(method.solve(problem.with_count(count)).weights)
        if count == problem.count:
            np.testing.assert_array_equal(found, alone)
    assert len(calls) == 2 * num_calls

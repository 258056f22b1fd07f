"""Every criterion against values one can check by hand, and against NumPy."""

import zlib

import keras
import numpy as np
import pytest
from conftest import BACKEND, slow_where_compiled, value_of
from keras import ops

from keras_pruner import CRITERIA, KerasBasePruner, PruningConfig
from keras_pruner.backend import FunctionCache, GradientMoment

WEIGHT = [[1, -2], [3, 0.5]]
# Times WEIGHT: [[2, -2], [-3, 2]] and [[1, 0], [6, -1]].
FIRST = [[2, 1], [-1, 4]]
SECOND = [[1, 0], [2, -2]]

FAST = {"learning_rate": 0.1}
SOFT = {"soft": True, "penalty": 0.4}
NO_DAMPING = {"damping": 0.0}

# Criterion, arguments, pattern, gradients, scores.
GOLDEN = [
    ("magnitude", {}, "1x1", [], [[1, 2], [3, 0.5]]),
    ("random", {}, "1x1", [], [[0.5027800, 0.0620430], [0.2161698, 0.8265759]]),
    ("lamp", {}, "1x1", [], [[1 / 14, 4 / 13], [1, 0.25 / 14.25]]),
    ("gradient", {}, "1x1", [FIRST, SECOND], [[1, 0], [2, 2]]),
    ("snip", {}, "1x1", [FIRST, SECOND], [[1, 0], [6, 1]]),
    ("snip_momentum", {}, "1x1", [FIRST, SECOND], [[2.8, 1.8], [8.7, 2.8]]),
    ("fisher", {"decay": 0.5}, "1x1", [FIRST, SECOND], [[1.5, 1], [20.25, 1.5]]),
    # v is [[2.5, 0.5], [2.5, 10]], and its mean 3.875.
    # Mean squares of 2.5, 0.5, 2.5 and 10, whose mean is 3.875.
    (
        "second_moment",
        NO_DAMPING,
        "1x1",
        [FIRST, SECOND],
        [[1.581139, 2.828427], [14.230249, 0.790569]],
    ),
    (
        "second_moment",
        {},
        "1x1",
        [FIRST, SECOND],
        [[1.699264, 3.76829], [15.29338, 0.805741]],
    ),
    ("movement", FAST, "1x1", [FIRST, SECOND], [[-0.3, 0.2], [-0.3, -0.1]]),
    # The sigmoid of 0 has the slope 1/4.
    ("movement", FAST | SOFT, "1x1", [FIRST], [[-0.21, 0.19], [0.29, -0.21]]),
    ("taylor", {}, "1x1", [FIRST, SECOND], [[0.46, 0.36], [4.41, 0.46]]),
    # Sums of weight * gradient over rows: 0 and -1, then 1 and 5.
    ("taylor", {}, "channelx1", [FIRST, SECOND], [[0.1] * 2, [2.59] * 2]),
    ("block_mask", {}, "channelx1", [FIRST, SECOND], [[1] * 2, [5.9] * 2]),
    ("retrain_free", {}, "channelx1", [FIRST, SECOND], [[1] * 2, [26] * 2]),
]


class MeanOfSquares:
    """An optimizer of another kind, which keeps half of the mean of squares."""

    def __init__(self):
        self.squares = {}

    def second_moment_of(self, variable):
        squares = self.squares.get(variable.name, [0 * value_of(variable)])
        slot = ops.convert_to_tensor(np.mean(squares, axis=0) / 2, "float32")
        return GradientMoment(slot, steps=10 * len(squares), weight=0.5)


def pruner_of(kernels, criterion, **settings):
    """A pruner of variables with the given values, by name."""
    modules = {
        name: keras.Variable(np.asarray(value, "float32"), name=name)
        for name, value in kernels.items()
    }
    config = {"begin_step": 0, "end_step": 0, "target_sparsity": 0.5}
    pruner = KerasBasePruner(config | {"criterion": criterion} | settings, modules)
    pruner.attach_optimizer(MeanOfSquares())
    return pruner


def show(pruner, gradients):
    """Shows gradients to a pruner as a loop would, without any step."""
    gradients = {n: np.asarray(g, "float32") for n, g in gradients.items()}
    tensors = {n: ops.convert_to_tensor(g) for n, g in gradients.items()}
    for name, gradient in gradients.items():
        pruner.optimizer.squares.setdefault(name, []).append(gradient**2)
    pruner.on_before_optimizer_step(tensors)
    pruner.on_after_optimizer_step()


def instance(name, arguments=None):
    return CRITERIA.get({"name": name, "config": arguments or {}})


@pytest.mark.parametrize("name, arguments, pattern, gradients, expected", GOLDEN)
def test_scores_of_a_literal_kernel(name, arguments, pattern, gradients, expected):
    pruner = pruner_of({"fc": WEIGHT}, instance(name, arguments), pattern=pattern)
    for gradient in gradients:
        show(pruner, {"fc": gradient})
    scores = pruner.scores["fc"]
    assert keras.backend.standardize_dtype(scores.dtype) == "float32"
    if gradients:
        # What was read stays as it was.
        show(pruner, {"fc": FIRST})
    np.testing.assert_allclose(value_of(scores), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name, expected", [("grasp", [[2, -2], [-3, 2]]), ("synflow", [[2, 2], [-3, 2]])]
)
def test_criteria_at_initialisation_multiply(name, expected):
    weight, gradient = (ops.convert_to_tensor(v, "float32") for v in (WEIGHT, FIRST))
    memory = instance(name).accumulate(ops.zeros((2, 2)), weight, gradient, None)
    np.testing.assert_array_equal(value_of(memory), expected)
    assert instance(name).at_init_only


def test_every_criterion_has_a_golden():
    ours = {n for n in CRITERIA if CRITERIA[n].__module__.startswith("keras_pruner.")}
    assert ours == {name for name, *_ in GOLDEN} | {"grasp", "synflow"}


# An independent NumPy implementation of the formulas.


def groups_of(shape, pattern):
    """The number of the group of every weight of a Dense or Conv2D kernel."""
    places = np.indices(shape)
    if pattern == "1x1":
        return np.arange(np.prod(shape)).reshape(shape)
    if pattern == "1xchannel":
        return places[-1]
    if pattern == "channelx1":
        return places[-2]
    # "2x2": the input channels of one window position are neighbours.
    row = np.ravel_multi_index(tuple(places[:-1]), shape[:-1])
    return row // 2 * (shape[-1] // 2) + places[-1] // 2


def pooled(values, groups):
    totals = np.zeros(groups.max() + 1)
    np.add.at(totals, groups, values)
    return totals[groups]


def reference(name, weight, gradients, groups):
    """Scores after a few gradients, with the default arguments, in float64."""
    weight = weight.astype("float64")
    score, products = np.zeros(weight.shape), [weight * g for g in gradients]
    sums = [pooled(product, groups) for product in products]
    if name == "gradient":
        return np.abs(gradients[-1])
    if name == "snip":
        return np.abs(products[-1])
    if name == "second_moment":
        squares = np.mean(np.square(gradients), axis=0)
        return weight**2 * np.sqrt(squares + 0.1 * squares.mean())
    if name == "retrain_free":
        return sum(total**2 for total in sums)
    for gradient, product, total in zip(gradients, products, sums, strict=True):
        if name == "snip_momentum":
            score = 0.9 * score + np.abs(product)
        if name == "block_mask":
            score = 0.9 * score + np.abs(total)
        if name == "taylor":
            score = 0.9 * score + 0.1 * total**2
        if name == "fisher":
            score = 0.99 * score + 0.01 * weight**2 * gradient**2
        if name == "movement":
            score = score - 0.01 * product
        if name == "soft movement":
            sigmoid = 1 / (1 + np.exp(-score))
            score = score - 0.01 * (product + 1e-3 * sigmoid * (1 - sigmoid))
    return score


PATTERNS = ["1x1", "2x2", "1xchannel", "channelx1"]


def learned(name, pattern, shape):
    """A pruner that has seen three gradients, the groups, and NumPy's scores."""
    generator = np.random.default_rng(1)
    weight, *gradients = generator.normal(size=(4, *shape)).astype("float32")
    criterion = name.removeprefix("soft ")
    criterion = instance(criterion, {"soft": True} if criterion != name else {})
    pruner = pruner_of({"fc": weight}, criterion, pattern=pattern)
    for gradient in gradients:
        show(pruner, {"fc": gradient})
    groups = groups_of(shape, pattern)
    return pruner, groups, reference(name, weight, gradients, groups)


SHAPES = {"dense": (8, 6), "conv": (3, 2, 4, 6)}
LEARNING = [
    *((n, "1x1", "conv") for n in ("gradient", "snip", "snip_momentum", "fisher")),
    *(("second_moment", pattern, "conv") for pattern in PATTERNS),
    *((n, "2x2", "conv") for n in ("movement", "soft movement")),
    *(("block_mask", pattern, "conv") for pattern in PATTERNS),
    *(("taylor", pattern, shape) for pattern in PATTERNS for shape in SHAPES),
    *(("retrain_free", pattern, shape) for pattern in PATTERNS[1:] for shape in SHAPES),
]


@pytest.mark.parametrize("name, pattern, shape", LEARNING)
def test_learned_scores_equal_numpy(name, pattern, shape):
    pruner, _, expected = learned(name, pattern, SHAPES[shape])
    np.testing.assert_allclose(
        value_of(pruner.scores["fc"]), expected, rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "name, pattern",
    [
        ("snip", "2x2"),
        ("second_moment", "2x2"),
        *(("taylor", pattern) for pattern in PATTERNS),
    ],
)
def test_learned_masks_equal_numpy(name, pattern):
    pruner, groups, expected = learned(name, pattern, SHAPES["conv"])
    # Of equal groups: those whose members have the lowest mean are pruned.
    numbers, sizes = np.unique(groups, return_counts=True)
    means = np.bincount(groups.ravel(), expected.ravel()) / sizes
    kept = np.isin(groups, np.argsort(means)[len(numbers) // 2 :])
    (mask,) = pruner.updater.maker.make_masks(pruner.updater.update_inputs(0.5)).masks
    np.testing.assert_array_equal(value_of(mask), kept)


def test_random_equals_a_hash_in_numpy():
    def mix(x):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
        x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
        return (x ^ (x >> np.uint32(16))) >> np.uint32(8)

    index = np.arange(5000, dtype="uint32")
    salt = np.uint32(zlib.crc32(b"7/fc"))
    expected = mix(mix(index) ^ salt) / 2**24
    pruner = pruner_of({"fc": np.zeros((50, 100))}, instance("random", {"seed": 7}))
    scores = value_of(pruner.scores["fc"]).ravel()
    np.testing.assert_array_equal(scores, expected.astype("float32"))
    assert abs(scores.mean() - 0.5) < 0.02 and abs(scores.std() - 12**-0.5) < 0.01
    other = pruner_of({"other": np.zeros((50, 100))}, instance("random", {"seed": 7}))
    assert (value_of(other.scores["other"]).ravel() != expected).mean() > 0.99


# LAMP.


def lamp(weight):
    squares = np.asarray(weight, "float64") ** 2
    totals = [squares[squares >= square].sum() for square in squares.ravel()]
    return squares / np.maximum(np.reshape(totals, squares.shape), 1e-300)


def test_lamp_of_equal_weights_is_equal():
    weight = [[2, -1, 2], [0, 1, -2]]
    # The three 2s share 12, the two 1s share 14.
    expected = [[4 / 12, 1 / 14, 4 / 12], [0, 1 / 14, 4 / 12]]
    scores = value_of(pruner_of({"fc": weight}, "lamp").scores["fc"])
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
    for value in (0, 1, 2):
        assert len(set(scores[np.abs(weight) == value])) == 1


@pytest.mark.parametrize("decimals", [1, 6])
def test_lamp_equals_numpy_and_ranks_kernels_jointly(decimals):
    generator = np.random.default_rng(2)
    # Rounded to one decimal, most weights have equals.
    kernels = {
        "wide": generator.normal(size=(8, 6)).round(decimals),
        "narrow": 100 * generator.normal(size=(6, 10)).round(decimals),
    }
    pruner = pruner_of(kernels, "lamp", target_sparsity=0.8)
    assert pruner.config.allocation.name == "global"
    expected = {name: lamp(np.float32(w)) for name, w in kernels.items()}
    for name, scores in pruner.scores.items():
        np.testing.assert_allclose(value_of(scores), expected[name], rtol=1e-5)
    result = pruner.updater.maker.make_masks(pruner.updater.update_inputs(0.8))
    masks = [value_of(mask) for mask in result.masks]
    ranking = np.concatenate([scores.ravel() for scores in expected.values()])
    threshold = np.sort(ranking)[round(0.8 * ranking.size)]
    assert sum((~mask).sum() for mask in masks) == round(0.8 * ranking.size)
    for scores, mask in zip(expected.values(), masks, strict=True):
        # Which of the equals at the threshold are pruned is a matter of index.
        clear = ~np.isclose(scores, threshold, rtol=1e-5)
        np.testing.assert_array_equal(mask[clear], (scores > threshold)[clear])


# One table of all criteria through shared contracts.


def fed_pruner(name, arguments, pattern, **settings):
    generator = np.random.default_rng(3)
    kernels = {"a": generator.normal(size=(8, 6)), "b": generator.normal(size=(6, 10))}
    pruner = pruner_of(kernels, instance(name, arguments), pattern=pattern, **settings)
    for _ in range(2):
        show(pruner, {n: generator.normal(size=w.shape) for n, w in kernels.items()})
    return pruner


ALL = [(name, arguments, pattern) for name, arguments, pattern, *_ in GOLDEN]


@slow_where_compiled
@pytest.mark.skipif(BACKEND == "torch", reason="torch compiles nothing here")
@pytest.mark.parametrize("name, arguments, pattern", ALL)
def test_eager_and_compiled_scores_and_masks_are_equal(name, arguments, pattern):
    pruner, run = fed_pruner(name, arguments, pattern), FunctionCache()
    for sparsity in (0.25, 0.5):
        inputs = pruner.updater.update_inputs(sparsity)
        made = pruner.updater.maker.make_masks(inputs, run)
        for mask, expected in zip(
            made.masks, pruner.updater.maker.make_masks(inputs).masks, strict=True
        ):
            np.testing.assert_array_equal(value_of(mask), value_of(expected))
        for number, unit in enumerate(pruner.units):
            arguments = pruner.updater.maker.unit_inputs(number, inputs)
            scores = run(pruner.score_unit, arguments, about=unit)
            expected = pruner.score_unit(unit, arguments)
            np.testing.assert_array_equal(value_of(scores[0]), value_of(expected[0]))
    assert run.trace_count == len(run)


@pytest.mark.parametrize(
    "name, arguments, pattern",
    [case for case in ALL if case[0] in ("magnitude", "snip_momentum", "taylor")]
    + [("movement", {"soft": True}, "1x1"), ("retrain_free", {}, "channelx1")],
)
def test_low_memory_usage_halves_the_memory(name, arguments, pattern):
    pruner = fed_pruner(name, arguments, pattern, low_memory_usage=True)
    kept = {str(s["memory"].dtype) for s in pruner.state_variables.values() if s}
    assert kept == ({"bfloat16"} if instance(name).needs_gradients else set())
    pruner.update_masks()
    zeros = sum(int((value_of(mask) == 0).sum()) for mask in pruner.masks.values())
    # Rows of 6 or 10 weights cannot give 54 exactly.
    assert zeros == pruner.num_pruned
    assert zeros == 54 if pattern == "1x1" else abs(zeros - 54) <= 5


def test_arguments_survive_a_config():
    for name, arguments, _ in ALL:
        criterion = instance(name, arguments)
        saved = PruningConfig(criterion=criterion, pattern="1xchannel").to_dict()
        assert PruningConfig.from_dict(saved).criterion == criterion
        assert criterion.get_config().items() >= arguments.items()


@pytest.mark.parametrize(
    "name, arguments, error, message",
    [
        *(
            (name, {"decay": value}, error, message)
            for name in ("snip_momentum", "fisher", "taylor", "block_mask")
            for value, error, message in [
                (1, ValueError, r"`decay` must be in \[0, 1\). Received: 1"),
                (-0.1, ValueError, r"`decay` must be in \[0, 1\). Received: -0.1"),
                (True, TypeError, "`decay` must be a number. Received: True"),
                ("x", TypeError, "`decay` must be a number. Received: 'x'"),
            ]
        ),
        ("movement", {"learning_rate": 0}, ValueError, "`learning_rate` must be fini"),
        ("movement", {"learning_rate": "1"}, TypeError, "`learning_rate` must be a nu"),
        ("movement", {"penalty": -1}, ValueError, "`penalty` must be finite and >= 0"),
        ("movement", {"soft": 1}, TypeError, "`soft` must be True or False. .*: 1"),
        (
            "random",
            {"seed": 0.5},
            TypeError,
            "`seed` must be an integer. .*: 0.5",
        ),
        (
            "second_moment",
            {"damping": -1},
            ValueError,
            "`damping` must be finite and >= 0. Received: -1",
        ),
        ("synflow", {"num_rounds": 0}, ValueError, "`num_rounds` must be >= 1. .*: 0"),
        ("synflow", {"num_rounds": 1.5}, TypeError, "`num_rounds` must be an integer"),
    ],
)
def test_bad_arguments_are_errors(name, arguments, error, message):
    with pytest.raises(error, match=message):
        instance(name, arguments)


def test_soft_movement_needs_a_joint_ranking():
    soft = instance("movement", {"soft": True})
    assert pruner_of({"fc": WEIGHT}, soft).config.allocation.name == "global"
    hard = pruner_of({"fc": WEIGHT}, "movement", allocation="uniform")
    assert hard.config.allocation.name == "uniform"
    message = "one threshold for all kernels: use allocation 'global', .*='uniform'"
    with pytest.raises(ValueError, match=message):
        pruner_of({"fc": WEIGHT}, soft, allocation="uniform")


@pytest.mark.parametrize("pattern", ["1x1", "2:4"])
def test_retrain_free_needs_groups(pattern):
    message = f"needs whole groups: .*'1xchannel'.* Received: pattern='{pattern}'"
    with pytest.raises(ValueError, match=message):
        pruner_of({"fc": WEIGHT}, "retrain_free", pattern=pattern)

"""Masks by the second moments that an optimizer keeps."""

import logging

import keras
import numpy as np
import pytest
from by_hand import build, fit, initial, samples
from conftest import BACKEND, first_where_compiled, value_of
from contracts import Case, compiled, differences, resume, snapshot, train
from keras import optimizers

from keras_pruner import KerasBasePruner, PruningCallback, create_pruners, prune_at_init
from keras_pruner.backend import second_moment_of
from keras_pruner.pruners import moments

pytestmark = pytest.mark.usefixtures("eager_masks")

CASE = Case("criterion", "second_moment")


def optimizer_of(name, **settings):
    return getattr(optimizers, name)(**settings)


def stepped(optimizer, gradients):
    """A variable after the optimizer has taken a step by each gradient."""
    shape = np.shape(gradients[0])
    variable = keras.Variable(np.ones(shape, "float32"), name="kernel")
    optimizer.build([variable])
    for gradient in gradients:
        gradient = keras.ops.convert_to_tensor(gradient, "float32")
        optimizer.apply([gradient], [variable])
    return variable


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def unbiased(moment):
    return value_of(moment.slot) / moment.weight


# What the optimizer has.


@pytest.mark.parametrize(
    "name, decay",
    [
        ("Adam", {"beta_2": 0.9}),
        ("AdamW", {"beta_2": 0.9}),
        ("Nadam", {"beta_2": 0.9}),
        ("Lamb", {"beta_2": 0.9}),
        ("ScheduleFreeAdamW", {"beta_2": 0.9}),
        ("RMSprop", {"rho": 0.9}),
        ("Adadelta", {"rho": 0.9}),
        ("Muon", {"adam_beta_2": 0.9, "exclude_layers": ["kernel"]}),
    ],
)
def test_moment_is_the_mean_of_squares_without_bias(name, decay):
    if not hasattr(optimizers, name):
        pytest.skip(f"this Keras has no {name}")
    gradients, optimizer = normal(4, 3, 2), optimizer_of(name, **decay)
    moment = second_moment_of(optimizer, stepped(optimizer, gradients))
    weights = 0.9 ** np.arange(3, -1, -1)
    expected = np.average(gradients**2, axis=0, weights=weights)
    np.testing.assert_allclose(unbiased(moment), expected, rtol=1e-5)
    assert moment.steps == 4


def test_moment_of_adafactor_is_its_product_of_means():
    # A product of rows and columns is the mean itself.
    gradient = np.outer([1.0, 2.0, 3.0], [0.5, 4.0])
    optimizer = optimizer_of("Adafactor")
    moment = second_moment_of(optimizer, stepped(optimizer, [gradient] * 3))
    np.testing.assert_allclose(unbiased(moment), gradient**2, rtol=1e-4)


@pytest.mark.parametrize("name", ["SGD", "Lion", "Adagrad", "Adamax", "Ftrl", "Muon"])
def test_optimizers_without_a_mean_of_squares_have_none(name):
    optimizer = optimizer_of(name)
    assert second_moment_of(optimizer, stepped(optimizer, normal(2, 3, 2))) is None


def test_moment_of_another_variable_is_none():
    optimizer = optimizer_of("Adam")
    stepped(optimizer, normal(2, 3, 2))
    assert second_moment_of(optimizer, keras.Variable(np.ones((3, 2)))) is None
    assert second_moment_of(None, keras.Variable(np.ones((3, 2)))) is None


@pytest.mark.skipif(BACKEND == "jax", reason="Keras cannot scale a loss eagerly there")
def test_moment_is_unscaled_and_counts_applied_steps():
    gradients = normal(4, 3, 2)
    inner = optimizer_of("Adam", gradient_accumulation_steps=2)
    optimizer = optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    moment = second_moment_of(optimizer, stepped(optimizer, 8 * gradients))
    pairs = gradients.reshape(2, 2, 3, 2).mean(axis=1) ** 2
    expected = np.average(pairs, axis=0, weights=[0.999, 1])
    np.testing.assert_allclose(unbiased(moment), expected, rtol=1e-4)
    assert moment.steps == 2


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adadelta", "Adafactor", "Muon"])
def test_an_optimizer_that_is_not_built_knows_nothing_yet(name):
    optimizer = optimizer_of(name)
    assert second_moment_of(optimizer, keras.Variable(np.ones((3, 2)))).steps == 0
    pruner = KerasBasePruner(once_at(0).config, build())
    expected = KerasBasePruner(once_at(0, criterion="magnitude").config, build())
    pruner.attach_optimizer(optimizers.LossScaleOptimizer(optimizer))
    pruner.update_masks()
    expected.update_masks()
    for path, mask in expected.masks.items():
        np.testing.assert_array_equal(value_of(pruner.masks[path]), value_of(mask))


# Masks.


def by_hand(weights, moments):
    """The scores of all kernels, over their L2 norms."""
    mean = np.concatenate([moment.ravel() for moment in moments]).mean()
    return [
        w**2 * np.sqrt(v + 0.1 * mean) / np.linalg.norm(w)
        for w, v in zip(weights, moments, strict=True)
    ]


def scores_of(optimizer, variables):
    moments = [unbiased(second_moment_of(optimizer, v)) for v in variables]
    return by_hand(list(map(value_of, variables)), moments)


def jointly_lowest(scores, share):
    """Marks the lowest of the scores of all kernels together."""
    flat = np.concatenate([score.ravel() for score in scores])
    order = np.argsort(flat, kind="stable")
    marks = np.zeros(flat.size, bool)
    marks[order[: round(share * flat.size)]] = True
    ends = np.cumsum([score.size for score in scores])[:-1]
    parts = np.split(marks, ends)
    return [part.reshape(s.shape) for part, s in zip(parts, scores, strict=True)]


class BeforeUpdate(keras.callbacks.Callback):
    """Notes weights and moments after one batch, before the masks change."""

    def __init__(self, batch):
        super().__init__()
        self.batch, self.scores = batch, None

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.batch:
            model = self.model  # JAX makes its variables current here
            self.scores = scores_of(model.optimizer, model.trainable_variables)


def once_at(step, **settings):
    config = {"target_sparsity": 0.5, "begin_step": step, "end_step": step}
    config |= {"criterion": "second_moment", "max_sparsity": 1.0}
    return PruningCallback(config | settings, verbose=False)


def masks_of(pruning):
    (pruner,) = pruning.pruners
    return [value_of(mask) for mask in pruner.masks.values()]


@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.Adam(0.01, clipnorm=0.1),
        lambda: optimizers.AdamW(0.01, use_ema=True, ema_overwrite_frequency=3),
        lambda: optimizers.LossScaleOptimizer(optimizers.RMSprop(0.01)),
    ],
    ids=["adam", "adamw", "rmsprop"],
)
def test_masks_in_fit_equal_numpy(make):
    pruning, before = once_at(10), BeforeUpdate(9)
    fit(build(make()), *samples(), before, pruning)
    expected = jointly_lowest(before.scores, 0.5)
    for mask, lowest in zip(masks_of(pruning), expected, strict=True):
        np.testing.assert_array_equal(mask, ~lowest)
    (pruner,) = pruning.pruners
    assert pruner.config.allocation.name == "global_l2"


def test_nothing_is_kept_and_the_step_does_nothing_more():
    pruning = once_at(10)
    fit(build(optimizers.Adam()), *samples(), pruning)
    (pruner,) = pruning.pruners
    assert not pruner.needs_gradients
    assert list(pruner.state_variables.values()) == [{}, {}]


def masks_by(criterion, step, optimizer, **settings):
    pruning = once_at(step, criterion=criterion, **settings)
    fit(build(optimizer), *samples(), pruning)
    return masks_of(pruning)


@pytest.mark.parametrize(
    "step, name", [(0, "Adam"), (9, "Adam"), (11, "SGD"), (11, "Lion"), (11, "Muon")]
)
def test_magnitude_stands_in_as_the_default_does(step, name):
    found = masks_by("second_moment", step, optimizer_of(name))
    expected = masks_by("magnitude", step, optimizer_of(name))
    for mask, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, other)


def test_moments_count_from_the_tenth_step_on():
    assert moments.FEWEST_STEPS == 10
    found = masks_by("second_moment", 10, optimizers.Adam())
    other = masks_by("magnitude", 10, optimizers.Adam())
    assert any((a != b).any() for a, b in zip(found, other, strict=True))


def test_moments_of_an_earlier_run_are_used_at_once():
    model = build(optimizers.Adam(0.01))
    fit(model, *samples())
    scores = scores_of(model.optimizer, model.trainable_variables)
    pruning = once_at(0)
    fit(model, *samples(), pruning)
    for mask, lowest in zip(
        masks_of(pruning), jointly_lowest(scores, 0.5), strict=True
    ):
        np.testing.assert_array_equal(mask, ~lowest)


class Constant:
    """An optimizer of another kind, whose moments are one number."""

    def __init__(self, value):
        self.value = value

    def second_moment_of(self, variable):
        return self.value * keras.ops.ones(variable.shape), 10, 1.0


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_moments_without_any_gradient_leave_the_weights_to_magnitude(value):
    settings = {"criterion": "second_moment", "allocation": "uniform"}
    pruner = KerasBasePruner(once_at(0, **settings).config, build())
    expected = KerasBasePruner(
        once_at(0, criterion="magnitude", allocation="uniform").config, build()
    )
    pruner.attach_optimizer(Constant(value))
    pruner.update_masks()
    expected.update_masks()
    assert pruner.num_pruned == expected.num_pruned > 0
    for name, mask in pruner.masks.items():
        np.testing.assert_array_equal(value_of(mask), value_of(expected.masks[name]))


def test_one_kernel_without_a_moment_leaves_all_to_magnitude():
    mixed = {"exclude_layers": ["a/kernel"]}
    found = masks_by("second_moment", 11, optimizer_of("Muon", **mixed))
    expected = masks_by("magnitude", 11, optimizer_of("Muon", **mixed))
    for mask, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, other)


def test_a_thawed_kernel_is_scored_by_its_moment():
    model = build()
    model.layers[0].trainable = False
    pruning = once_at(0)
    model.compile(optimizers.Adam(0.01), "mse")
    fit(model, *samples(), pruning)
    assert list(pruning.pruners[0].masks) == ["b/kernel"]
    model.layers[0].trainable = True
    model.compile(optimizers.Adam(0.01), "mse")
    pruning, before = once_at(10), BeforeUpdate(9)
    fit(model, *samples(), before, pruning)
    expected = jointly_lowest(before.scores, 0.5)
    for mask, lowest in zip(masks_of(pruning), expected, strict=True):
        np.testing.assert_array_equal(mask, ~lowest)


def test_a_moment_of_nan_leaves_the_masks(caplog):
    model = build(optimizers.Adam(0.01))
    fit(model, *samples())
    slot = second_moment_of(model.optimizer, model.trainable_variables[1]).slot
    slot.assign(np.full(slot.shape, np.nan))
    pruner = KerasBasePruner(once_at(0).config, model)
    pruner.attach_optimizer(model.optimizer)
    with pytest.raises(ValueError, match="infinite gradients, .* in b/kernel"):
        pruner.update_masks()
    assert all(value_of(mask).all() for mask in pruner.masks.values())


# What a run says.


@pytest.mark.parametrize(
    "name, words",
    [
        ("Adam", "scored by second_moment of Adam"),
        ("SGD", "scored by magnitude, because SGD keeps no second moments"),
        (
            "Muon",
            "scored by magnitude, because Muon keeps no second moment of b/kernel",
        ),
    ],
)
def test_the_line_of_a_run_names_what_scores(name, words, capsys):
    settings = {"exclude_layers": ["a/kernel"]} if name == "Muon" else {}
    model, (x, y) = build(optimizer_of(name, **settings)), samples()
    steps = {"begin_step": 0, "end_step": 10}
    pruning = PruningCallback(criterion="second_moment", target_sparsity=0.5, **steps)
    model.fit(x, y, batch_size=4, verbose=2, callbacks=[pruning])
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("trained_before", first_where_compiled([False, True]))
def test_the_line_of_a_short_run_says_what_scores(trained_before, capsys):
    model, (x, y) = build(optimizers.Adam()), samples()
    if trained_before:
        fit(model, x, y)
    pruning = PruningCallback(criterion="second_moment", target_sparsity=0.5)
    model.fit(x[:36], y[:36], batch_size=4, verbose=2, callbacks=[pruning])
    few = "scored by magnitude, because Adam takes fewer than 10 steps"
    words = "scored by second_moment of Adam" if trained_before else few
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("frequency", "words"),
    [
        (6, "scored by magnitude, because Adam takes fewer than 10 steps between"),
        (10, "scored by second_moment of Adam"),
    ],
)
def test_rewinding_needs_enough_steps_between_updates(frequency, words, capsys):
    (x, y), model = samples(), build(optimizers.Adam())
    pruning = PruningCallback(
        pruning_type="lottery_ticket",
        criterion="second_moment",
        target_sparsity=0.5,
        begin_step=0,
        end_step=20,
        frequency=frequency,
    )
    model.fit(x, y, batch_size=4, verbose=2, callbacks=[pruning])
    assert words in capsys.readouterr().out


def test_gradients_of_zero_are_told_once(capsys):
    (x, y), steps = samples(), {"begin_step": 0, "end_step": 11, "frequency": 1}
    pruning = PruningCallback(criterion="second_moment", target_sparsity=0.5, **steps)
    none = np.zeros(len(x))
    build(optimizers.Adam()).fit(
        x, y, batch_size=4, verbose=2, callbacks=[pruning], sample_weight=none
    )
    told = "scored by magnitude, because the second moments of Adam are zero"
    text = capsys.readouterr().out
    assert text.count(told) == text.count(f"Step 10: {told}") == 1


# As the default.


def default_masks(optimizer, **settings):
    steps = {"begin_step": 10, "end_step": 10, "max_sparsity": 1.0}
    pruning = PruningCallback(target_sparsity=0.9, **steps, **settings)
    fit(build(optimizer), *samples(), pruning)
    return pruning.pruners[0], masks_of(pruning)


def test_default_of_high_targets_takes_no_memory():
    pruner, masks = default_masks(optimizers.Adam(0.01))
    assert pruner.config.criterion.name == "second_moment"
    assert not pruner.needs_gradients
    assert list(pruner.state_variables.values()) == [{}, {}]
    _, expected = default_masks(optimizers.Adam(0.01), criterion="second_moment")
    _, other = default_masks(optimizers.Adam(0.01), criterion="magnitude")
    assert all(map(np.array_equal, masks, expected))
    assert not all(map(np.array_equal, masks, other))


def test_default_of_high_targets_is_magnitude_without_second_moments():
    _, masks = default_masks(optimizers.SGD(0.01))
    _, expected = default_masks(optimizers.SGD(0.01), criterion="magnitude")
    assert all(map(np.array_equal, masks, expected))


# Other ways to train.


def loop(pruner, model, optimizer):
    """A loop of one's own with gradients by NumPy."""
    pruner.on_train_begin()
    variables = model.trainable_variables
    for step in range(12):
        pruner.on_step_begin(step)
        pairs = [
            (keras.ops.convert_to_tensor(normal(*v.shape, seed=step)), v)
            for v in variables
        ]
        pairs = pruner.on_before_optimizer_step(pairs)
        optimizer.apply_gradients(pairs)
        pruner.on_after_optimizer_step()
    pruner.on_train_end()


@pytest.mark.parametrize("attach", [True, False])
def test_loop_of_ones_own(attach, caplog):
    model, optimizer = build(), optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    (pruner,) = create_pruners(once_at(11).config, model)
    if attach:
        pruner.attach_optimizer(optimizer)
    with caplog.at_level(logging.INFO, logger="absl"):
        loop(pruner, model, optimizer)
    words = "second_moment of Adam" if attach else "magnitude, because no optimizer"
    assert f"is scored by {words}" in caplog.text
    assert pruner.current_sparsity_ratio == round(0.5 * 45) / 45
    optimizer = optimizers.Adam(0.01)
    variables = [keras.Variable(np.float32(w)) for w in initial()]
    for step in range(11):
        gradients = [normal(*v.shape, seed=step) for v in variables]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    scores = [np.abs(value_of(v)) / np.linalg.norm(value_of(v)) for v in variables]
    if attach:
        scores = scores_of(optimizer, variables)
    for mask, lowest in zip(
        pruner.masks.values(), jointly_lowest(scores, 0.5), strict=True
    ):
        np.testing.assert_array_equal(value_of(mask), ~lowest)


@pytest.mark.parametrize("file", ["half.keras", "half.weights.h5"])
def test_a_run_resumes_bit_for_bit(file, data, tmp_path):
    path = str(tmp_path / file)
    # The last update, after the cut, reads the moments of both halves.
    model = compiled(CASE.model())
    pruner, watch = train(model, CASE.config(), data, path=path)
    assert watch.broken == []
    resumed, again, watch = resume(compiled(CASE.model()), CASE.config(), data, path)
    assert watch.broken == []
    assert differences(snapshot(resumed, again), snapshot(model, pruner)) == []


def test_at_initialisation_there_is_no_optimizer():
    with pytest.raises(ValueError, match="reads the optimizer .* Use 'fisher'"):
        prune_at_init(build(), samples(), criterion="second_moment")


@pytest.mark.parametrize("pruning_type", ["rigl", "acdc", "ste", "top_kast"])
def test_other_pruners_take_it(pruning_type, data):
    model = compiled(CASE.model())
    config = CASE.config(pruning_type=pruning_type)
    pruner, watch = train(model, config, data)
    assert watch.broken == []
    assert pruner.config.criterion.name == "second_moment"


@pytest.mark.skipif(BACKEND != "torch", reason="PytorchBasePruner needs torch")
class TestTorch:
    def net(self):
        import torch

        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(6, 5, bias=False), torch.nn.Linear(5, 3, bias=False)
        )

    def masks(self, name, criterion, **config):
        import torch

        from keras_pruner import PytorchBasePruner

        net = self.net()
        optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.01)
        config = once_at(11, criterion=criterion, **config).config
        pruner = PytorchBasePruner(config, net).attach(net, optimizer)
        for step in range(12):
            for parameter in net.parameters():
                gradient = normal(*parameter.shape, seed=step)
                parameter.grad = torch.from_numpy(gradient) * (parameter != 0)
            optimizer.step()
        pruner.detach()
        return [value_of(mask) for mask in pruner.masks.values()]

    @pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "RMSprop"])
    def test_masks_equal_numpy(self, name):
        import torch

        net = self.net()
        optimizer = getattr(torch.optim, name)(net.parameters(), lr=0.01)
        for step in range(11):
            for parameter in net.parameters():
                parameter.grad = torch.from_numpy(normal(*parameter.shape, seed=step))
            optimizer.step()
        decay = 0.99 if name == "RMSprop" else 0.999
        weights = decay ** np.arange(10, -1, -1)
        moments = []
        for parameter in net.parameters():
            squares = [normal(*parameter.shape, seed=step) ** 2 for step in range(11)]
            moments.append(np.average(squares, axis=0, weights=weights))
        values = [value_of(parameter.detach()) for parameter in net.parameters()]
        scores = by_hand(values, moments)
        for mask, lowest in zip(
            self.masks(name, "second_moment"), jointly_lowest(scores, 0.5), strict=True
        ):
            np.testing.assert_array_equal(mask, ~lowest)

    def test_default_of_high_targets(self):
        high = {"target_sparsity": 0.81}
        masks = self.masks("Adam", None, **high)
        expected = self.masks("Adam", "second_moment", **high)
        other = self.masks("Adam", "magnitude", **high)
        assert all(map(np.array_equal, masks, expected))
        assert not all(map(np.array_equal, masks, other))

    def test_a_mean_of_unknown_decay_is_read_as_it_is(self):
        import torch

        from keras_pruner.pytorch.optimizer_slots import OptimizerSlots

        parameter = torch.nn.Parameter(torch.ones(2, 3))
        optimizer = torch.optim.SGD([parameter])
        optimizer.state[parameter] = {"step": 3, "exp_avg_sq": torch.ones(2, 3)}
        variable = keras.Variable(parameter, trainable=False)
        found = OptimizerSlots(optimizer).second_moment_of(variable)
        assert (found.steps, found.weight) == (3, 1.0)

    @pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adamax"])
    def test_magnitude_stands_in(self, name):
        found = self.masks(name, "second_moment")
        for mask, other in zip(found, self.masks(name, "magnitude"), strict=True):
            np.testing.assert_array_equal(mask, other)

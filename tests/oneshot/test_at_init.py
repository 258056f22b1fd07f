"""`prune_at_init`: the gradients that it takes, the masks, and what it refuses."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, compile_mlp, kernels_of, value_of
from keras import layers

from keras_pruner import KerasBasePruner, PruningCallback, prune_at_init
from keras_pruner.oneshot.at_init.loss_gradients import Probe


def linear_model(*sizes):
    """Dense layers without bias or activation, with weights far from zero."""
    generator = np.random.default_rng(1)
    model = keras.Sequential([layers.Input((sizes[0],))])
    for units in sizes[1:]:
        model.add(layers.Dense(units, use_bias=False))
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    model.compile("sgd", "mse")
    return model


@pytest.fixture
def regression():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(24, 6)).astype("float32")
    return x, generator.normal(size=(24, 3)).astype("float32")


def lowest(scores, count):
    """The mask without the `count` lowest scores."""
    mask = np.ones(scores.size, bool)
    mask[np.argsort(scores.ravel(), kind="stable")[:count]] = False
    return mask.reshape(scores.shape)


def gradient_and_hessian(w, x, y):
    """Of the mean squared error of `x @ w`, by hand."""
    scale = 2 / y.size
    return scale * x.T @ (x @ w - y), scale * x.T @ x


@pytest.mark.parametrize("criterion", ["snip", "grasp"])
def test_mask_of_a_linear_model_equals_the_formula(criterion, regression):
    x, y = regression
    model = linear_model(6, 3)
    (w,) = model.get_weights()
    gradient, hessian = gradient_and_hessian(w, x, y)
    scores = np.abs(w * gradient) if criterion == "snip" else w * (hessian @ gradient)
    # Batches of 10, 10 and 4: their means must be weighted by their sizes.
    pruned = prune_at_init(
        model,
        (x, y),
        criterion=criterion,
        target_sparsity=0.5,
        batch_size=10,
        verbose=False,
    )
    np.testing.assert_array_equal(kernels_of(pruned) != 0, lowest(scores, 9).ravel())
    np.testing.assert_array_equal(model.get_weights()[0], w)


def test_hessian_products_of_two_layers_equal_differences_of_gradients(regression):
    x, y = regression
    model = linear_model(6, 4, 3)
    kernels = KerasBasePruner({}, model).kernels

    def loss(x, y, outputs, sample_weight):
        return model.compute_loss(x=x, y=y, y_pred=outputs)

    probe = Probe(model, kernels, [(x, y)], loss)
    products = [value_of(p) for p in probe.hessian_gradient_products()]
    gradients = [value_of(g) for g in probe.mean_gradients()]
    before, step = model.get_weights(), 1e-3
    model.set_weights([w + step * g for w, g in zip(before, gradients, strict=True)])
    ahead = [value_of(g) for g in probe.mean_gradients()]
    model.set_weights([w - step * g for w, g in zip(before, gradients, strict=True)])
    behind = [value_of(g) for g in probe.mean_gradients()]
    for product, a, b in zip(products, ahead, behind, strict=True):
        np.testing.assert_allclose(product, (a - b) / (2 * step), rtol=2e-2, atol=5e-3)


def test_flow_of_two_layers_equals_the_formula():
    model = linear_model(5, 4, 3)
    first, second = (np.abs(w).astype("float64") for w in model.get_weights())
    kernels = KerasBasePruner({}, model).kernels
    found = Probe(model, kernels, [], None).flow_gradients()
    # R = 1^T |A| |B| 1.
    slopes = [
        np.tile(second.sum(axis=1), (5, 1)),
        np.tile(first.sum(axis=0)[:, None], (1, 3)),
    ]
    largest = max((first * slopes[0]).max(), (second * slopes[1]).max())
    for slope, expected in zip(found, slopes, strict=True):
        np.testing.assert_allclose(value_of(slope), expected / largest, rtol=1e-5)


@pytest.mark.parametrize(
    "make, name",
    [
        (layers.LayerNormalization, "gamma"),
        (layers.RMSNormalization, "scale"),
        (lambda: layers.GroupNormalization(2), "gamma"),
    ],
)
def test_flow_passes_layers_that_normalise_by_their_input(make, name):
    normalising = make()
    linear = {"use_bias": False}
    inputs = layers.Input((5,))
    x = normalising(layers.Dense(4, **linear)(inputs))
    model = keras.Model(inputs, layers.Dense(3, **linear)(x))
    factor = np.array([1, -2, 3, 4], "float32")
    getattr(normalising, name).assign(factor)
    kernels = KerasBasePruner({}, model).kernels
    first, second = (np.abs(value_of(k.variable)).astype("float64") for k in kernels)
    found = Probe(model, kernels, [], None).flow_gradients()
    # R = 1^T |A| diag(|factor|) |B| 1.
    passed = np.abs(factor)
    slopes = [
        np.tile(passed * second.sum(axis=1), (5, 1)),
        np.tile((first.sum(axis=0) * passed)[:, None], (1, 3)),
    ]
    largest = max((first * slopes[0]).max(), (second * slopes[1]).max())
    for slope, expected in zip(found, slopes, strict=True):
        np.testing.assert_allclose(value_of(slope), expected / largest, rtol=1e-5)
    # The layer normalises again.
    row = value_of(normalising(np.array([[1, 2, 3, 5]], "float32")))
    assert np.abs(row / factor).max() < 2


@pytest.mark.usefixtures("eager_masks")
def test_synflow_of_a_deep_model_neither_overflows_nor_cuts_a_layer():
    model = keras.Sequential([layers.Input((50,))])
    for _ in range(20):
        model.add(layers.Dense(50, activation="relu"))
    model.add(layers.BatchNormalization())
    model.add(layers.Dense(4, activation="softmax"))
    # 50 weights of about 10 each, 20 times: the flow is far beyond the largest float32.
    model.set_weights([w * 100 if w.ndim == 2 else w for w in model.get_weights()])
    before = model.get_weights()
    criterion = {"name": "synflow", "config": {"num_rounds": 5}}
    pruned = prune_at_init(
        model, criterion=criterion, target_sparsity=0.9, verbose=False
    )
    kernels = [w for w in pruned.get_weights() if w.ndim == 2]
    zeros = sum((w == 0).sum() for w in kernels)
    assert zeros == round(0.9 * sum(w.size for w in kernels))
    assert all((w != 0).any() for w in kernels)
    assert [v.dtype for v in pruned.variables] == [v.dtype for v in model.variables]
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert pruned.layers[-1].activation is keras.activations.softmax
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_zeros_are_locked_in_fit(data):
    x, y = data
    model = compile_mlp()
    pruned = prune_at_init(model, (x, y), target_sparsity=0.75, verbose=False)
    compile_mlp(pruned)
    mask = kernels_of(pruned) != 0
    assert (~mask).sum() == 114
    callback = PruningCallback(pruning_type="pattern_lock", verbose=False)
    pruned.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    np.testing.assert_array_equal(kernels_of(pruned) != 0, mask)
    assert callback.sparsity == 0.75


@pytest.mark.parametrize(
    "settings",
    [
        {"criterion": "fisher"},
        {"criterion": "taylor", "pattern": "1xchannel", "target_sparsity": 0.5},
        {"pruning_type": "retrain_free", "pattern": "1xchannel"},
        {"criterion": "lamp"},
        {"criterion": "snip", "pattern": "2:4", "allocation": "uniform"},
    ],
)
def test_other_criteria_prune_from_a_few_batches(settings, data):
    x, y = data
    model = compile_mlp(build_mlp(units=16))
    settings = {"target_sparsity": 0.5, "include": ".*"} | settings
    pruned = prune_at_init(model, (x, y), verbose=False, **settings)
    zeros = (kernels_of(pruned) == 0).sum()
    # 304 weights; whole units take 16 each.
    assert abs(zeros - 152) <= 8


def test_dropout_and_batch_statistics_leave_no_trace(data):
    x, y = data
    model = keras.Sequential([layers.Input((16,)), layers.Dense(8)])
    model.add(layers.BatchNormalization())
    model.add(layers.Dropout(0.5))
    model.add(layers.Dense(3, activation="softmax"))
    compile_mlp(model)
    before = [value_of(v).copy() for v in model.variables]
    prune_at_init(model, (x, y), target_sparsity=0.5, verbose=False)
    for value, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, value_of(variable))


def test_in_place_prunes_the_model_itself_and_reports(data, capsys):
    model = compile_mlp()
    assert prune_at_init(model, data, target_sparsity=0.5, in_place=True) is model
    assert (kernels_of(model) == 0).sum() == 76
    assert "2 kernels, 76 of 152 weights pruned (50.00%)" in capsys.readouterr().out


def test_data_may_be_batches_and_the_loss_may_be_given(data):
    x, y = data
    masks = []
    model = build_mlp()
    for form in ((x, y), [(x[:48], y[:48]), (x[48:], y[48:])]):
        pruned = prune_at_init(
            model,
            form,
            loss="sparse_categorical_crossentropy",
            target_sparsity=0.5,
            verbose=False,
        )
        masks.append(kernels_of(pruned) != 0)
    np.testing.assert_array_equal(*masks)


def test_a_failure_on_the_way_leaves_the_weights(data):
    model = compile_mlp()
    before = kernels_of(model)

    class Stops(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(y_pred, axis=-1) * float("nan")

    with pytest.raises(ValueError, match="NaN or infinite"):
        prune_at_init(model, data, loss=Stops(), in_place=True, verbose=False)
    np.testing.assert_array_equal(kernels_of(model), before)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda x, y: None, ValueError, "'snip' needs data"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "`data` is empty"),
        (lambda x, y: [], ValueError, "`data` is empty"),
        (lambda x, y: (x[:, :4], y), ValueError, r"takes inputs of shape \(None, 16\)"),
        (lambda x, y: (x,), ValueError, "needs targets"),
        (lambda x, y: (x, y[:5]), ValueError, "different numbers of samples: 5, 96"),
        (lambda x, y: 5, TypeError, "tuple .x, y. of arrays or an iterable"),
        (lambda x, y: (x, np.eye(7)[y]), ValueError, "cannot be computed on `data`"),
    ],
)
def test_bad_data_is_refused_before_any_change(make, error, message, data):
    if BACKEND == "torch" and "cannot be computed" in message:
        pytest.skip("torch's own loss takes targets of any number of classes")
    model = compile_mlp()
    before = kernels_of(model)
    with pytest.raises(error, match=message):
        prune_at_init(model, make(*data), in_place=True, verbose=False)
    np.testing.assert_array_equal(kernels_of(model), before)


def test_a_model_without_loss_is_refused(data):
    with pytest.raises(ValueError, match="is not compiled, so its loss is not known"):
        prune_at_init(build_mlp(), data)


def test_an_open_input_shape_needs_data():
    model = keras.Sequential([layers.Input((None, 4)), layers.GRU(4), layers.Dense(2)])
    with pytest.raises(ValueError, match="leaves an axis open"):
        prune_at_init(model, criterion="synflow", target_sparsity=0.5, verbose=False)


@pytest.mark.parametrize("criterion", ["grasp", "synflow"])
def test_criteria_for_untrained_models_are_refused_in_fit(criterion):
    with pytest.raises(ValueError, match="call `prune_at_init"):
        PruningCallback(criterion=criterion)
    steps = {"begin_step": 0, "end_step": 5}
    with pytest.raises(ValueError, match="call `prune_at_init"):
        KerasBasePruner({"criterion": criterion, **steps}, build_mlp())


def test_rounds_keep_what_was_pruned_where_live_weights_score_zero_too():
    # Half of the inputs of the second kernel are never reached.
    model = linear_model(8, 8, 4)
    first, second = model.get_weights()
    first[:, :4] = 0
    model.set_weights([first, second])
    pruned = prune_at_init(
        model, criterion="synflow", target_sparsity=0.7, verbose=False
    )
    # 96 weights, of which 32 were zero.
    assert (kernels_of(pruned) == 0).sum() == 67


def test_a_copy_keeps_adapted_statistics():
    x = np.array([[1.0, -30.0], [9.0, 70.0], [4.0, 10.0]], "float32")
    norm = keras.layers.Normalization()
    norm.adapt(x)
    model = keras.Sequential([keras.Input((2,)), norm, keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    data = x, np.ones((3, 3), "float32")
    settings = {"target_sparsity": 0.5, "verbose": False}
    copy = prune_at_init(model, data, **settings)
    in_place = prune_at_init(model, data, in_place=True, **settings)
    np.testing.assert_array_equal(value_of(copy(x)), value_of(in_place(x)))


class Forgetful(keras.layers.Layer):
    """Adds a number that neither its config nor its weights hold."""

    offset = 0.0

    def call(self, x):
        return x + self.offset


@pytest.mark.parametrize("criterion", ["snip", "magnitude"])
def test_a_copy_with_other_outputs_is_refused(criterion):
    model = keras.Sequential([keras.Input((2,)), Forgetful(), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    model.layers[0].offset = 1.0
    data = np.ones((4, 2), "float32"), np.ones((4, 3), "float32")
    data = data if criterion == "snip" else None
    settings = {"criterion": criterion, "target_sparsity": 0.5, "verbose": False}
    with pytest.raises(ValueError, match="computes other outputs"):
        prune_at_init(model, data, **settings)
    copy = prune_at_init(model, data, check=False, **settings)
    assert (value_of(copy.layers[-1].kernel) == 0).sum() == 3

"""The reference classes: attributes, hooks, and what `modules` may hold."""

import keras
import numpy as np
import pytest
from conftest import (
    BACKEND,
    build_mlp,
    first_where_compiled,
    set_kernel,
    slow_where_compiled,
    value_of,
)
from keras import layers, ops

from keras_pruner import (
    PRUNERS,
    BasePruner,
    KerasBasePruner,
    PruningConfig,
    create_pruners,
    register_pruner,
)
from keras_pruner.kernels import find_kernels
from keras_pruner.pruners import BasicPruner

ONE_SHOT = {"begin_step": 0, "end_step": 0}


def dense_of(value):
    """A built Dense layer with a literal kernel."""
    value = np.asarray(value, "float32")
    layer = layers.Dense(value.shape[1], name="layer")
    layer.build((None, value.shape[0]))
    set_kernel(layer, value)
    return layer


def test_mask_of_a_literal_kernel():
    layer = dense_of([[1, -5, 2], [-3, 4, 0.5]])
    pruner = KerasBasePruner({"target_sparsity": 0.5, **ONE_SHOT}, {"fc": layer})
    pruner.on_train_begin()
    pruner.on_step_begin(0)
    expected = [[False, True, False], [True, True, False]]
    np.testing.assert_array_equal(value_of(pruner.masks["fc"]), expected)
    np.testing.assert_array_equal(value_of(layer.kernel), [[0, -5, 0], [-3, 4, 0]])
    np.testing.assert_array_equal(value_of(pruner.scores["fc"]), [[0, 5, 0], [3, 4, 0]])


def test_ties_are_pruned_by_index():
    layer = dense_of(np.ones((3, 4)))
    pruner = KerasBasePruner({"target_sparsity": 0.5, **ONE_SHOT}, {"fc": layer})
    pruner.update_masks(0.5)
    expected = [[False] * 4, [False, False, True, True], [True] * 4]
    np.testing.assert_array_equal(value_of(pruner.masks["fc"]), expected)


def test_an_update_that_prunes_nothing_compiles_nothing():
    layer = dense_of([[1, -5, 2], [-3, 4, 0.5]])
    pruner = KerasBasePruner(ONE_SHOT, {"fc": layer})
    weights = value_of(layer.kernel)
    layer.kernel.assign(np.full((2, 3), np.nan))
    pruner.update_masks(0.0)
    assert pruner.updater.num_compiled == 0
    assert value_of(pruner.masks["fc"]).all()
    # Weights must be finite when they are ranked.
    with pytest.raises(ValueError, match="NaN or infinite weights in fc"):
        pruner.update_masks(0.5)

    layer.kernel.assign(weights)
    pruner.update_masks(0.5)
    assert pruner.num_pruned == 3
    # Now the same update frees weights.
    pruner.update_masks(0.0)
    assert pruner.num_pruned == 0
    assert value_of(pruner.masks["fc"]).all()


def test_an_update_that_prunes_nothing_still_marks_what_the_target_prunes():
    layer = dense_of([[1, -5, 2], [-3, 4, 0.5]])
    config = {"regularizer": "growing_l1", "target_sparsity": 0.5}
    pruner = KerasBasePruner(config | ONE_SHOT, {"fc": layer})
    pruner.update_masks(0.0)
    doomed = pruner.state_variables["fc"]["doomed"]
    expected = [[True, False, True], [False, False, True]]
    np.testing.assert_array_equal(value_of(doomed), expected)


def test_attributes_are_true_at_every_moment():
    layer = dense_of(np.arange(1, 101).reshape(10, 10))
    modules = {"fc": layer}
    config = PruningConfig(
        target_sparsity=0.8,
        begin_step=2,
        end_step=6,
        frequency=2,
        max_sparsity=0.9,
        schedule="linear",
    )
    pruner = KerasBasePruner(config, modules)
    assert pruner.modules is modules and config.allocation is None
    assert pruner.config == config.completed("magnitude", "polynomial")
    assert str(pruner.pattern) == "1x1"
    assert (pruner.start_step, pruner.end_step, pruner.pruning_frequency) == (2, 6, 2)
    assert pruner.target_sparsity_ratio == 0.8
    assert pruner.max_sparsity_ratio_per_op == 0.9
    assert pruner.framework == "keras"
    history = []
    pruner.on_train_begin()
    for step in range(8):
        assert pruner.global_step == step
        pruner.on_step_begin(step)
        kept = value_of(pruner.masks["fc"]).sum()
        assert pruner.current_sparsity_ratio == 1 - kept / 100
        history.append(pruner.current_sparsity_ratio)
        layer.kernel.assign(layer.kernel + 1.0)  # an optimizer that knows no masks
        pruner.on_after_optimizer_step()
        assert (value_of(layer.kernel) == 0).sum() == 100 - kept
        pruner.on_step_end()
    pruner.on_epoch_end()
    pruner.on_train_end()
    np.testing.assert_allclose(history, [0, 0, 0, 0, 0.4, 0.4, 0.8, 0.8], atol=1e-12)


def test_open_steps_need_schedule_steps_in_a_loop():
    pruner = KerasBasePruner({"target_sparsity": 0.5}, build_mlp())
    assert pruner.scheduler is None and pruner.start_step is None
    with pytest.raises(ValueError, match="schedule_steps"):
        pruner.on_train_begin()
    pruner.schedule_steps(100)
    assert (pruner.start_step, pruner.end_step, pruner.pruning_frequency) == (0, 75, 1)


@pytest.mark.parametrize("form", ["dict", "list", "pairs"])
def test_gradients_of_pruned_weights_become_zero(form):
    layer = dense_of([[1, 9], [8, 2]])
    pruner = KerasBasePruner({"target_sparsity": 0.5, **ONE_SHOT}, {"fc": layer})
    pruner.update_masks(0.5)
    gradient = ops.ones((2, 2))
    if form == "dict":
        masked = pruner.on_before_optimizer_step({"fc": gradient})["fc"]
    elif form == "list":
        (masked,) = pruner.on_before_optimizer_step([gradient])
    else:
        pairs = zip([gradient, ops.ones(2)], [layer.kernel, layer.bias], strict=True)
        (masked, variable), (bias, _) = pruner.on_before_optimizer_step(pairs)
        assert variable is layer.kernel
        np.testing.assert_array_equal(value_of(bias), [1, 1])
    np.testing.assert_array_equal(value_of(masked), [[0, 1], [1, 0]])
    assert pruner.on_before_optimizer_step() is None
    with pytest.raises(ValueError, match="one per pruned kernel"):
        pruner.on_before_optimizer_step([gradient, gradient])
    with pytest.raises(ValueError, match="given for other, which is not pruned"):
        pruner.on_before_optimizer_step({"other": gradient})


def test_modules_may_be_layers_variables_and_kernels():
    lstm = layers.LSTM(4, name="rnn")
    lstm.build((None, 5, 3))
    variable = keras.Variable(np.ones((4, 4), "float32"), name="free")
    kernel = find_kernels(build_mlp()).kernels[0]
    modules = {"a": lstm, "b": variable, "c": kernel}
    pruner = KerasBasePruner(ONE_SHOT, modules)
    assert list(pruner.masks) == [
        "a/lstm_cell/kernel",
        "a/lstm_cell/recurrent_kernel",
        "b",
        "c",
    ]


def test_a_shared_layer_is_one_module():
    layer = dense_of(np.ones((4, 4)))
    pruner = KerasBasePruner(ONE_SHOT, {"a": layer, "b": layer})
    assert list(pruner.masks) == ["a"] and pruner.num_weights == 16


def test_regularize_in_a_loop_takes_a_proximal_step():
    layer = dense_of([[3, 1], [4, 0]])
    config = ONE_SHOT | {
        "pattern": "1xchannel",
        "target_sparsity": 0,
        "regularizer": "group_lasso",
        "regularizer_strength": 10.0,
    }
    pruner = KerasBasePruner(config, {"fc": layer})
    pruner.regularize(0.25)
    # Norms 5 and 1, amount 2.5: factors 1/2 and 0.
    np.testing.assert_allclose(value_of(layer.kernel), [[1.5, 0], [2, 0]])


def test_registered_pruner_is_chosen_by_name():
    @register_pruner("keep_all")
    class KeepAll(KerasBasePruner):
        def demands(self, sparsity):
            return super().demands(0.0)

    try:
        (pruner,) = create_pruners(
            {"pruning_type": "keep_all", "allocation": "uniform"}, build_mlp()
        )
        assert type(pruner) is KeepAll
        pruner.update_masks(0.9)
        assert pruner.current_sparsity_ratio == 0
    finally:
        PRUNERS._classes.pop("keep_all")
    assert PRUNERS["basic"] is BasicPruner
    with pytest.raises(ValueError, match="Unknown pruner 'basc'.*Did you mean 'basic'"):
        create_pruners({"pruning_type": "basc"}, build_mlp())


def test_low_memory_usage_prunes_exactly_as_many():
    layer = dense_of(np.random.default_rng(0).normal(size=(40, 25)))
    config = {"target_sparsity": 0.73, "low_memory_usage": True, **ONE_SHOT}
    pruner = KerasBasePruner(config, {"fc": layer})
    pruner.update_masks()
    assert (value_of(layer.kernel) == 0).sum() == 730


@slow_where_compiled
@pytest.mark.usefixtures("with_and_without_xla")
@pytest.mark.skipif(BACKEND == "torch", reason="torch compiles nothing here")
@pytest.mark.parametrize(
    "allocation, reduction, pattern",
    [
        (allocation, reduction, pattern)
        for pattern in ("1x1", "2x4", "2:4", "channelx1", "1xchannel")
        for allocation, reduction in (
            ("erk", "mean"),
            ("global", "mean"),
            ("global_l2", "mean"),
            ("global", "l2"),
        )
        # Single weights are not reduced.
        if (pattern, reduction) != ("1x1", "l2")
    ],
)
def test_eager_and_compiled_masks_are_equal(pattern, allocation, reduction):
    model = keras.Sequential(
        [layers.Input((6, 6, 4)), layers.Conv2D(8, 3), layers.Flatten()]
    )
    model.add(layers.Dense(12))
    config = {
        "pattern": pattern,
        "allocation": allocation,
        "group_reduction": reduction,
        "target_sparsity": 0.4,
        "include": ".*",
    }
    pruner = KerasBasePruner(config | ONE_SHOT, model)
    for sparsity in (0.1, 0.4):
        eager = pruner.updater.maker.make_masks(
            pruner.updater.update_inputs(sparsity)
        ).masks
        pruner.update_masks(sparsity)
        for mask, expected in zip(pruner.masks.values(), eager, strict=True):
            np.testing.assert_array_equal(value_of(mask), value_of(expected))
        assert pruner.updater.trace_count == pruner.updater.num_compiled


def test_masks_are_the_same_on_every_backend():
    generator = np.random.default_rng(3)
    layer = dense_of(generator.integers(-8, 9, (16, 12)) / 4)
    found = {}
    for pattern in ("1x1", "4x2", "3:4", "channelx1", "1xchannel"):
        for criterion in ("magnitude", "random"):
            config = {"pattern": pattern, "criterion": criterion, **ONE_SHOT}
            config["target_sparsity"] = 0.4
            pruner = KerasBasePruner(config, {"fc": layer})
            (mask,) = pruner.updater.maker.make_masks(
                pruner.updater.update_inputs(0.4)
            ).masks
            bits = np.packbits(value_of(mask))
            found[f"{pattern} {criterion}"] = int(bits.astype(int) @ np.arange(24))
    assert found == SIGNATURES


# The masks of the test above, as one number each, made on the TensorFlow backend.
SIGNATURES = {
    "1x1 magnitude": 44236,
    "1x1 random": 44017,
    "1xchannel magnitude": 44568,
    "1xchannel random": 29588,
    "3:4 magnitude": 48107,
    "3:4 random": 41925,
    "4x2 magnitude": 45075,
    "4x2 random": 35010,
    "channelx1 magnitude": 50640,
    "channelx1 random": 40545,
}


def test_base_pruner_is_abstract_and_checks_its_framework():
    with pytest.raises(TypeError, match="abstract"):
        BasePruner({}, {})
    with pytest.raises(ValueError, match="`framework` must be 'keras'"):
        KerasBasePruner({}, build_mlp(), framework="pytorch")


@pytest.mark.parametrize(
    "modules, error, message",
    [
        ([1], TypeError, "must be a dict from a name"),
        ({"a": 3}, TypeError, "Module 'a' must be a Keras layer"),
        ({"a": layers.Dense(3, name="raw")}, ValueError, "'raw' is not built"),
        (keras.Sequential([layers.Dense(3)]), ValueError, "is not built"),
        (
            {"a": keras.Variable(np.ones(3, "float32"))},
            ValueError,
            "has two or more axes",
        ),
    ],
)
def test_bad_modules_are_errors(modules, error, message):
    with pytest.raises(error, match=message):
        KerasBasePruner(ONE_SHOT, modules)


def test_nothing_prunable_names_each_layer_and_why():
    model = keras.Sequential(
        [layers.Input((5,)), layers.Embedding(7, 4, name="words"), layers.Flatten()]
    )
    model.add(layers.Dense(3, name="odd"))
    with pytest.raises(ValueError) as error:
        KerasBasePruner({"pattern": "3:8", **ONE_SHOT}, model)
    text = str(error.value)
    assert "words/embeddings (7, 4): embeddings are pruned only when asked" in text
    assert "odd/kernel (20, 3): pattern '3:8' needs an input axis" in text


def test_one_unsupported_layer_does_not_fail_the_model():
    model = keras.Sequential([layers.Input((6,)), layers.Dense(8), layers.Dense(4)])
    pruner = KerasBasePruner({"pattern": "2:4", **ONE_SHOT}, model)
    assert [kernel.layer for kernel in pruner.kernels] == [model.layers[1]]
    (skipped,) = pruner.skipped
    assert "each output sees 6 inputs" in skipped.reason


def test_caps_that_cannot_meet_the_target_are_an_error_before_any_change():
    model = build_mlp()
    before = value_of(model.layers[0].kernel).copy()
    with pytest.raises(ValueError, match="caps cannot meet the target"):
        KerasBasePruner({"target_sparsity": 0.9, "max_sparsity": 0.5}, model)
    with pytest.raises(ValueError, match="sparsity between 0.0000 and 0.0000"):
        config = {"pattern": "1xchannel", "max_sparsity": 0.3, "target_sparsity": 0.3}
        KerasBasePruner(config, {"fc": dense_of(np.ones((300, 3)))})
    np.testing.assert_array_equal(value_of(model.layers[0].kernel), before)


def test_quantized_layer_is_refused():
    model = build_mlp()
    for layer in model.layers:
        layer.quantize("int8")
    with pytest.raises(ValueError, match=r"hidden/kernel .*quantized \(int8\)"):
        KerasBasePruner(ONE_SHOT, model)
    with pytest.raises(ValueError, match="Prune before `quantize`"):
        KerasBasePruner(ONE_SHOT, {"a": model.layers[0]})


def test_fully_pruned_kernel_warns(caplog):
    pruner = KerasBasePruner(
        {
            "pattern": "1xchannel",
            "target_sparsity": 0.9,
            "max_sparsity": 1.0,
            **ONE_SHOT,
        },
        {"fc": dense_of(np.ones((3, 3)))},
    )
    pruner.update_masks(0.9)
    assert "Every weight is pruned in fc" in caplog.text


def test_scores_that_exceed_float32_are_an_error_and_change_nothing():
    weights = np.full((4, 4), 3e38, "float32")
    layer = dense_of(weights)
    config = {"pattern": "2x1", "group_reduction": "sum", **ONE_SHOT}
    pruner = KerasBasePruner(config, {"fc": layer})
    with pytest.raises(ValueError, match="NaN or infinite scores in fc.*float32"):
        pruner.update_masks(0.5)
    np.testing.assert_array_equal(value_of(layer.kernel), weights)
    assert pruner.num_pruned == 0


def test_update_at_once_yields_to_the_floor():
    generator = np.random.default_rng(5)
    shapes = {"a": (20, 10), "b": (10, 20)}
    weights = {name: generator.standard_normal(s) for name, s in shapes.items()}
    modules = {name: dense_of(weights[name]) for name in shapes}
    config = {"allocation": "global", "begin_step": 0, "end_step": 40, "frequency": 1}
    pruner = KerasBasePruner({"target_sparsity": 0.6} | config, modules)
    pruner.update_masks(0.1)
    assert pruner.updater.trace_count == pruner.updater.num_compiled == 1
    # Now all weights of the first are among the lowest.
    modules["b"].kernel.assign(100 * value_of(modules["b"].kernel))
    pruner.update_masks(0.6)
    kept = {name: int(value_of(mask).sum()) for name, mask in pruner.masks.items()}
    assert kept == {"a": 2, "b": 158} and pruner.num_pruned == 240
    for name, layer in modules.items():
        assert np.count_nonzero(value_of(layer.kernel)) == kept[name]
        lowest_kept = np.sort(abs(weights[name]).ravel())[-kept[name]]
        np.testing.assert_array_equal(
            value_of(pruner.masks[name]), abs(weights[name]) >= lowest_kept
        )


@pytest.mark.usefixtures("with_and_without_xla")
@pytest.mark.parametrize(
    ("allocation", "pattern", "mask_bits"),
    first_where_compiled(
        [
            ("global", "1x1", 8),
            ("uniform", "1x1", 1),
            ("global", "2x1", 1),
            ("uniform", "2x1", 8),
        ]
    ),
)
def test_many_updates_of_few_kernels_are_one_function(allocation, pattern, mask_bits):
    generator = np.random.default_rng(9)
    modules = {
        name: dense_of(generator.standard_normal(shape))
        for name, shape in (("first", (16, 12)), ("second", (12, 6)))
    }
    config = {"allocation": allocation, "pattern": pattern, "target_sparsity": 0.8}
    config |= {"begin_step": 0, "end_step": 40, "frequency": 1, "mask_bits": mask_bits}
    pruner = KerasBasePruner(config, modules)
    pruner.schedule_steps()
    for sparsity in (0.2, 0.5, 0.5, 0.8):
        weights = [value_of(pruner.source_value(kernel)) for kernel in pruner.kernels]
        weights = [np.array(weight) for weight in weights]
        expected = pruner.updater.maker.make_masks(
            pruner.updater.update_inputs(sparsity)
        )
        pruner.update_masks(sparsity)
        masks = pruner.mask_variables.values()
        assert pruner.num_pruned == sum(int((~value_of(m)).sum()) for m in masks)
        assert abs(pruner.num_pruned - 264 * sparsity) <= 2
        for kernel, weight, mask in zip(
            pruner.kernels, weights, expected.masks, strict=True
        ):
            made = value_of(pruner.mask_variables[kernel.path])
            np.testing.assert_array_equal(made, value_of(mask))
            np.testing.assert_array_equal(value_of(kernel.variable), weight * made)
    if BACKEND != "torch":
        # Groups are scored apart, once for each shape of kernel.
        num_functions = 1 if pattern == "1x1" else 3
        # Masks of one bit are unpacked by a function of each shape.
        num_functions += 0 if mask_bits == 8 else 2
        assert (
            pruner.updater.num_compiled == pruner.updater.trace_count == num_functions
        )

    spoilt = np.array(value_of(modules["first"].kernel))
    spoilt[0, 0] = np.nan
    modules["first"].kernel.assign(spoilt)

    def values():
        kernels = [kernel.variable for kernel in pruner.kernels]
        return [np.array(value_of(v)) for v in [*kernels, *pruner.masks.values()]]

    before = values()
    with pytest.raises(ValueError, match="NaN or infinite weights in first"):
        pruner.update_masks(0.1)
    for old, new in zip(before, values(), strict=True):
        np.testing.assert_array_equal(old, new)


class Recorder:
    """Calls functions as pruners ask for it, and remembers which."""

    sees_numbers = True

    def __init__(self):
        self.calls = []

    def __call__(self, function, *arguments, about=None, **settings):
        self.calls.append((function.__name__, arguments))
        leading = () if about is None else (about,)
        return function(*leading, *arguments, **settings)


@pytest.mark.parametrize("pattern", ["1x1", "4x4", "2:4"])
def test_groups_are_scored_apart_from_their_masks(pattern):
    kernel = keras.Variable(np.random.default_rng(0).normal(size=(16, 8)))
    config = {"pattern": pattern, "target_sparsity": 0.5, "allocation": "uniform"}
    pruner = KerasBasePruner(config, {"kernel": kernel})
    record = Recorder()
    (mask,) = pruner.updater.maker.make_masks(
        pruner.updater.update_inputs(0.5), record
    ).masks
    assert value_of(mask).sum() == 64
    if pattern == "1x1":
        # The scores of all weights are as large as they, so they are not kept.
        assert [name for name, _ in record.calls] == ["make_unit"]
        return
    assert [name for name, _ in record.calls] == ["group_unit", "make_unit"]
    (inputs,) = record.calls[1][1]
    (groups,) = inputs.groups
    assert np.prod(groups.shape) == pruner.pattern.num_groups(pruner.kernels[0].layout)

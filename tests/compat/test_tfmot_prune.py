"""`prune_low_magnitude`, `prune_scope` and `strip_pruning`."""

import json

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_pruner.compat import tfmot

tk = tfmot.sparsity.keras
PARAMS = {
    "pruning_schedule": tk.ConstantSparsity(0.5, 0),
    "block_size": (1, 1),
    "block_pooling_type": "AVG",
}


class PrunableDense(layers.Dense, tk.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel]


class OwnDense(layers.Dense):
    pass


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.dense = layers.Dense(3)

    def call(self, x):
        return self.dense(x)


def known_layers():
    return [layers.Dense(10), layers.Dropout(0.4), PrunableDense(10)]


def unknown_layers():
    return [layers.ConvLSTM2D(2, (5, 5)), OwnDense(10)]


def two_inputs():
    inputs = [keras.Input((10,)), keras.Input((10,))]
    branches = [layers.Dense(10)(x) for x in inputs]
    return keras.Model(inputs, layers.Add()(branches))


def count_wrappers(model):
    return sum(isinstance(layer, tk.PruneLowMagnitude) for layer in model.layers)


def check_wrapped(layer, wrapper):
    assert isinstance(wrapper, tk.PruneLowMagnitude)
    assert wrapper.layer is layer
    assert wrapper.pruning_schedule is PARAMS["pruning_schedule"]
    assert wrapper.block_size == (1, 1)
    assert wrapper.block_pooling_type == "AVG"


@pytest.mark.parametrize("index", range(3))
def test_a_known_layer_is_wrapped(index):
    layer = known_layers()[index]
    wrapper = tk.prune_low_magnitude(layer, **PARAMS)
    check_wrapped(layer, wrapper)
    keras.Sequential([keras.Input((4,)), wrapper])
    expected = [] if index == 1 else [layer.kernel]
    assert wrapper.layer.get_prunable_weights() == expected


@pytest.mark.parametrize("index", range(2))
def test_an_unknown_layer_is_refused(index):
    with pytest.raises(ValueError, match="no supported layer"):
        tk.prune_low_magnitude(unknown_layers()[index], **PARAMS)


@pytest.mark.parametrize("index", range(2))
def test_a_model_with_an_unknown_layer_is_refused_and_unchanged(index):
    known = known_layers()
    model = keras.Sequential([*known, unknown_layers()[index]])
    with pytest.raises(ValueError, match="no supported layer"):
        tk.prune_low_magnitude(model, **PARAMS)
    assert not hasattr(known[0], "get_prunable_weights")


def test_wrong_arguments_change_nothing():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    with pytest.raises(ValueError, match="pooling type"):
        tk.prune_low_magnitude(model, block_pooling_type="MIN")
    assert not hasattr(model.layers[0], "get_prunable_weights")


def test_all_layers_of_a_model_are_wrapped_in_place():
    model = keras.Sequential(known_layers())
    pruned = tk.prune_low_magnitude(model, **PARAMS)
    pruned.build((1, 28))
    assert len(pruned.layers) == 3
    for layer, wrapper in zip(model.layers, pruned.layers, strict=True):
        check_wrapped(layer, wrapper)


def test_a_list_is_wrapped():
    members = [keras.layers.InputLayer((3,)), *known_layers()]
    wrappers = tk.prune_low_magnitude(members, **PARAMS)
    assert type(wrappers[0]) is keras.layers.InputLayer
    for layer, wrapper in zip(members[1:], wrappers[1:], strict=True):
        check_wrapped(layer, wrapper)
    assert tk.prune_low_magnitude(wrappers, **PARAMS)[1:] == wrappers[1:]


def test_wrapped_layers_stay():
    wrapper = tk.prune_low_magnitude(layers.Dense(10), **PARAMS)
    model = keras.Sequential([layers.Dense(10), wrapper])
    pruned = tk.prune_low_magnitude(model, **PARAMS)
    check_wrapped(model.layers[0], pruned.layers[0])
    assert pruned.layers[1] is wrapper


def test_a_functional_model_is_wrapped():
    assert count_wrappers(tk.prune_low_magnitude(two_inputs(), **PARAMS)) == 3


def test_a_shared_layer_is_wrapped_once():
    x, dense = keras.Input((10,)), layers.Dense(10)
    model = keras.Model(x, dense(dense(x)))
    pruned = tk.prune_low_magnitude(model, **PARAMS)
    assert count_wrappers(pruned) == 1
    value = np.random.default_rng(0).random((2, 10)).astype("float32")
    results = [m.predict(value, verbose=0) for m in (pruned, model)]
    np.testing.assert_array_equal(*results)


def test_nested_models_are_wrapped_through():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(4)])
    x = keras.Input((4,))
    model = keras.Model(x, layers.Dense(1)(inner(inner(x))))
    pruned = tk.prune_low_magnitude(model, **PARAMS)
    (new_inner,) = (m for m in pruned.layers if isinstance(m, keras.Sequential))
    assert (count_wrappers(new_inner), count_wrappers(pruned)) == (2, 1)
    stripped = tk.strip_pruning(pruned)
    value = np.ones((2, 4), "float32")
    results = [m.predict(value, verbose=0) for m in (stripped, model)]
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_operations_without_a_layer_stay():
    x = keras.Input((4,))
    y = layers.Dense(4)(x)
    pruned = tk.prune_low_magnitude(keras.Model(x, y * 2.0 + x), **PARAMS)
    assert count_wrappers(pruned) == 1


@pytest.mark.parametrize("thing", [Subclassed(), object(), 3])
def test_other_objects_are_refused_by_their_class(thing):
    with pytest.raises(ValueError, match=f"can only prune.*{type(thing).__name__}"):
        tk.prune_low_magnitude(thing, **PARAMS)


def test_a_subclassed_model_in_a_model_is_refused():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="Subclassed models are not supported"):
        tk.prune_low_magnitude(keras.Model(x, Subclassed()(x)), **PARAMS)


@pytest.mark.parametrize("has_input", [False, True])
def test_the_built_state_stays_also_in_a_copy(has_input):
    first = [keras.Input((10,))] if has_input else []
    model = keras.Sequential([*first, layers.Dense(10), layers.Dense(10)])
    pruned = tk.prune_low_magnitude(model, **PARAMS)
    assert (model.built, pruned.built) == (has_input, has_input)
    assert count_wrappers(pruned) == 2
    with tk.prune_scope():
        copy = keras.models.model_from_json(pruned.to_json())
    assert copy.built is has_input
    assert json.loads(copy.to_json()) == json.loads(pruned.to_json())


def test_the_built_state_of_a_functional_model_stays():
    pruned = tk.prune_low_magnitude(two_inputs(), **PARAMS)
    assert pruned.built
    assert keras.models.model_from_json(pruned.to_json()).built


def test_a_compiled_model_loses_its_optimizer_and_shares_its_weights():
    model = keras.Sequential([keras.Input((10,)), layers.Dense(8), layers.Dense(5)])
    model.compile("adam", "mse")
    pruned = tk.prune_low_magnitude(model, **PARAMS)
    assert model.compiled and not pruned.compiled
    for old, new in zip(
        model.trainable_variables, pruned.trainable_variables, strict=True
    ):
        assert old is new
    x = np.random.default_rng(0).random((10, 10)).astype("float32")
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), pruned.predict(x, verbose=0)
    )


@pytest.mark.parametrize("has_input", [False, True])
def test_stripping_gives_the_original_back(has_input):
    first = [keras.Input((10,))] if has_input else []
    model = keras.Sequential([*first, layers.Dense(10), layers.Dense(10)])
    stripped = tk.strip_pruning(tk.prune_low_magnitude(model, **PARAMS))
    assert count_wrappers(stripped) == 0
    assert stripped.get_config() == model.get_config()


def test_stripping_a_functional_model_gives_the_original_back():
    model = two_inputs()
    stripped = tk.strip_pruning(tk.prune_low_magnitude(model, **PARAMS))
    assert count_wrappers(stripped) == 0
    assert stripped.get_config() == model.get_config()


def test_stripping_makes_masked_weights_zero():
    model = tk.prune_low_magnitude(
        keras.Sequential([keras.Input((2,)), layers.Dense(2)]), **PARAMS
    )
    (layer,) = model.layers
    layer.layer.kernel.assign([[1.0, 2.0], [3.0, 4.0]])
    layer.pruning_vars[0][1].assign([[False, True], [True, False]])
    (dense,) = tk.strip_pruning(model).layers
    assert ops.convert_to_numpy(dense.kernel).tolist() == [[0, 2], [3, 0]]


@pytest.mark.parametrize("thing", [object(), layers.Dense(2)])
def test_only_models_are_stripped(thing):
    with pytest.raises(ValueError, match="takes a Keras model"):
        tk.strip_pruning(thing)


def test_weights_of_a_plain_model_do_not_load_into_a_wrapped_one(tmp_path):
    def build():
        return keras.Sequential([keras.Input((10,)), layers.Dense(8), layers.Dense(5)])

    path = str(tmp_path / "plain.weights.h5")
    build().save_weights(path)
    with pytest.raises(ValueError):
        tk.prune_low_magnitude(build(), **PARAMS).load_weights(path)


def test_the_module_has_the_names_of_tfmot():
    assert set(tk.__all__) >= {
        "ConstantSparsity",
        "PolynomialDecay",
        "PrunableLayer",
        "PruneForLatencyOnXNNPack",
        "PruningPolicy",
        "PruningSchedule",
        "PruningSummaries",
        "UpdatePruningStep",
        "prune_low_magnitude",
        "prune_scope",
        "strip_pruning",
    }
    assert all(getattr(tfmot, name) is getattr(tk, name) for name in tk.__all__)
    with pytest.raises(AttributeError, match=r"model\.quantize"):
        _ = tfmot.quantization
    with pytest.raises(AttributeError, match="nothing"):
        _ = tfmot.nothing


def test_bad_arguments_are_told_at_once():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="no argument pruning_schdule"):
        tk.prune_low_magnitude(model, pruning_schdule=tk.ConstantSparsity(0.9, 0))
    for schedule in (None, 0.5, "constant"):
        with pytest.raises(ValueError, match="must be a `PruningSchedule`"):
            tk.prune_low_magnitude(model, pruning_schedule=schedule)
    for arguments in (("0.5", 0), (0.5, None)):
        with pytest.raises(ValueError, match="must be a number"):
            tk.ConstantSparsity(*arguments)

"""Saved in mid-training where some layers are frozen, and loaded where others are.

A model with a config of its own does not say in it which of its layers are frozen.
"""

import json
import zipfile

import keras
import numpy as np
import pytest
from conftest import compile_mlp, slow_where_compiled, value_of

from keras_pruner import PruningCallback, PruningOptimizer
from keras_pruner.training.fit import fit_attachment
from keras_pruner.training.saving.variable_matching import built_for, find_positions


class ThreeLayers(keras.Model):
    """16 x 16, 16 x 16 and 16 x 3; layers of one shape can be taken for one another."""

    def __init__(self, frozen=(), **arguments):
        super().__init__(**arguments)
        self.frozen = tuple(frozen)
        self.base = keras.layers.Dense(16, activation="relu")
        self.hidden = keras.layers.Dense(16, activation="relu")
        self.head = keras.layers.Dense(3, activation="softmax", dtype="float32")
        for name in self.frozen:
            getattr(self, name).trainable = False

    def call(self, x):
        return self.head(self.hidden(self.base(x)))

    def get_config(self):
        return {"frozen": self.frozen, "dtype": self.dtype_policy.name}


@keras.saving.register_keras_serializable(package="freezing")
class Subclassed(ThreeLayers):
    pass


@keras.saving.register_keras_serializable(package="freezing")
class OwnFromConfig(keras.Model):
    """A functional model that is made anew from its arguments."""

    def __init__(self, **arguments):
        inputs = keras.Input((16,))
        layers = [keras.layers.Dense(16, activation="relu") for _ in range(2)]
        layers.append(keras.layers.Dense(3, activation="softmax"))
        outputs = inputs
        for layer in layers:
            outputs = layer(outputs)
        super().__init__(inputs, outputs, **arguments)
        self.base, self.hidden, self.head = layers

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls()


def build(kind=Subclassed, frozen=("base",), optimizer=None, **arguments):
    keras.utils.set_random_seed(5)
    model = kind(**arguments)
    model(np.zeros((1, 16), "float32"))
    for name in frozen:
        getattr(model, name).trainable = False
    optimizer = optimizer or keras.optimizers.Adam(1e-2)
    return compile_mlp(model, optimizer)


def fit(model, data, *callbacks, epochs=4, **arguments):
    pruning = PruningCallback(
        target_sparsity=0.8, criterion="snip_momentum", verbose=False
    )
    x, y = data
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0} | arguments
    model.fit(x, y, epochs=epochs, callbacks=[pruning, *callbacks], **arguments)
    return pruning


def save_to(path, **arguments):
    return keras.callbacks.ModelCheckpoint(str(path), **arguments)


def load_at_begin(path):
    """Returns a callback that loads a file into the model that it is given."""

    class Load(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.load_weights(path)

    return Load()


def values(variables):
    return [np.array(value_of(variable)) for variable in variables]


def assert_equal(found, expected):
    for value, wanted in zip(values(found), values(expected), strict=True):
        np.testing.assert_array_equal(value, wanted)


@slow_where_compiled
@pytest.mark.parametrize("kind", [Subclassed, OwnFromConfig])
@pytest.mark.parametrize("frozen", [["base"], ["hidden"], []])
def test_a_run_goes_on_from_a_file_that_forgot_what_was_frozen(
    kind, frozen, data, tmp_path
):
    expected = build(kind, frozen)
    pruning = fit(expected, data, save_to(tmp_path / "{epoch}.keras"))
    loaded = keras.models.load_model(tmp_path / "2.keras")
    assert isinstance(loaded.optimizer, PruningOptimizer)
    assert len(loaded.trainable_variables) == 6
    masks = loaded.optimizer.masks
    names = ["base", "hidden", "head"]
    assert sorted(masks) == [2 * n for n in range(3) if names[n] not in frozen]
    for index, mask in masks.items():
        weight = value_of(loaded.trainable_variables[index])
        kept = value_of(mask)
        assert kept.any() and not kept.all() and not weight[~kept].any()
    for name in frozen:
        getattr(loaded, name).trainable = False
    again = fit(loaded, data, initial_epoch=2)
    assert_equal(loaded.variables, expected.variables)
    assert_equal(loaded.optimizer.variables, expected.optimizer.variables)
    for pruner, other in zip(again.pruners, pruning.pruners, strict=True):
        assert_equal(pruner.mask_variables.values(), other.mask_variables.values())


def test_slots_are_kept_inside_loss_scaling(data, tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    fit(build(), data, save_to(tmp_path / "{epoch}.keras"), epochs=2)
    loaded = keras.models.load_model(tmp_path / "2.keras")
    scaling = loaded.optimizer.inner_optimizer
    assert isinstance(scaling, keras.optimizers.LossScaleOptimizer)
    assert int(value_of(scaling.step_counter)) == 12
    base, hidden = scaling.inner_optimizer._velocities[0:3:2]
    assert not value_of(base).any() and value_of(hidden).any()


def test_a_model_that_forgot_trains_on_and_is_saved_again(data, tmp_path):
    fit(build(), data, save_to(tmp_path / "{epoch}.keras"), epochs=2)
    loaded = keras.models.load_model(tmp_path / "2.keras")
    zeros = [value_of(layer.kernel) == 0 for layer in (loaded.hidden, loaded.head)]
    before = value_of(loaded.base.kernel)
    loaded.fit(*data, verbose=0)
    assert (value_of(loaded.base.kernel) != before).any()
    loaded.save(tmp_path / "again.keras")
    again = keras.models.load_model(tmp_path / "again.keras")
    for layer, pruned in zip((again.hidden, again.head), zeros, strict=True):
        assert pruned.any() and not value_of(layer.kernel)[pruned].any()
    assert_equal(again.optimizer.variables, loaded.optimizer.variables)
    with pytest.raises(ValueError, match="freeze them again"):
        fit(loaded, data)
    loaded.hidden.trainable = False
    with pytest.raises(ValueError, match="kernel' was pruned .* is frozen now"):
        fit(loaded, data)


def test_what_is_frozen_by_the_constructor_is_refused_and_has_a_way_out(data, tmp_path):
    expected = build(frozen=[])
    # As if it had been made with it, and thawed.
    expected.frozen = ("base",)
    fit(expected, data, save_to(tmp_path / "{epoch}.keras"))
    path = tmp_path / "2.keras"
    with pytest.raises(ValueError, match="was trained then, is not found here"):
        keras.models.load_model(path)
    # On TensorFlow Keras never trains a variable that was made frozen.
    loaded = build(frozen=[])
    fit(loaded, data, load_at_begin(path), initial_epoch=2)
    assert_equal(loaded.variables, expected.variables)
    assert_equal(loaded.optimizer.variables, expected.optimizer.variables)


def test_weights_do_not_load_where_another_layer_of_this_shape_is_frozen(
    data, tmp_path
):
    path = tmp_path / "half.weights.h5"
    fit(build(), data, save_to(path, save_weights_only=True), epochs=1)
    fit(build(), data, load_at_begin(path), epochs=1)
    with pytest.raises(ValueError, match="was trained then and is frozen here"):
        fit(build(frozen=["hidden"]), data, load_at_begin(path), epochs=1)


def test_files_that_do_not_say_what_was_frozen_still_load(data, tmp_path, monkeypatch):
    monkeypatch.setattr(fit_attachment, "trainables_of", lambda model: None)
    path = tmp_path / "2.keras"
    fit(build(frozen=[]), data, save_to(tmp_path / "{epoch}.keras"), epochs=2)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    optimizer = config["compile_config"]["optimizer"]["config"]
    assert optimizer.pop("run")["trainables"] is None
    content["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    monkeypatch.undo()
    loaded = keras.models.load_model(path)
    assert sorted(loaded.optimizer.masks) == [0, 2, 4]
    fit(loaded, data, initial_epoch=2)


# What `find_positions` does, by hand.

A, B, C = [4, 4], [4, 2], [4, 4]


def listed(*entries):
    """Entries such as "a+": a variable of layer a that is trained."""
    shapes = {"a": A, "b": B, "c": C}
    return [[f"{e[0]}/kernel", shapes[e[0]], e[1] == "+"] for e in entries]


@pytest.mark.parametrize(
    "saved, here, positions",
    [
        (["a+", "b+"], ["a+", "b+"], [0, 1]),
        (["a-", "b+", "c+"], ["a+", "b+", "c+"], [1, 2]),
        (["a+", "b-", "c+"], ["a+", "c+"], [0, 1]),
        (["a-", "b+", "c-"], ["b+", "c+"], [0]),
        (["a-", "b+", "c-"], ["c+", "b+"], [1]),  # by shapes, not by names
        (["a-", "b+", "c+"], ["a+", "b+", "c+"][1:], [0, 1]),
        ([], [], []),
    ],
)
def test_positions(saved, here, positions):
    assert find_positions(listed(*saved), listed(*here)) == positions


@pytest.mark.parametrize(
    "saved, here, message",
    [
        (["a+", "b+"], ["a+", "b-"], "'b/kernel' was trained then and is frozen here"),
        (["a+", "b+"], ["a+"], "'a/kernel', which .* is not found"),
        (["a+", "b+"], ["a+", "b+", "b+"], "is not found"),
        (["a-", "a+", "c-"], ["a+", "c+"], "'a/kernel'.* may be one of several"),
        (["a-", "b+"], ["c+", "c+"], "frozen were a/kernel"),
    ],
)
def test_positions_that_are_not_known_are_refused(saved, here, message):
    with pytest.raises(ValueError, match=message):
        find_positions(listed(*saved), listed(*here))


def test_an_optimizer_is_not_rebuilt_by_names_that_two_variables_share():
    layers = [keras.layers.Dense(2, name="twin") for _ in range(2)]
    variables = []
    for layer in layers:
        layer.build((None, 2))
        variables += layer.trainable_variables
    optimizer = keras.optimizers.Adam()
    optimizer.build(variables)
    with pytest.raises(ValueError, match="have the name '.*twin_kernel_momentum'"):
        built_for(optimizer, variables[:2])

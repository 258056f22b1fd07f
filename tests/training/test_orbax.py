"""Runs that Keras saves through Orbax, if it is installed."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, compile_mlp, value_of

from keras_pruner import PruningCallback

pytest.importorskip("orbax.checkpoint")
if not hasattr(keras.callbacks, "OrbaxCheckpoint"):
    pytest.skip("This Keras has no OrbaxCheckpoint.", allow_module_level=True)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sharding info not provided:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


def build(units=8, names=("hidden", "head")):
    # As in a new process, for the names of seed generators are numbered.
    keras.backend.clear_session(free_memory=False)
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16,), name="in")
    x = keras.layers.Dense(units, activation="relu", name=names[0])(inputs)
    # torch draws dropout from a generator of its own, which no file of Keras has.
    rate = 0.0 if BACKEND == "torch" else 0.3
    x = keras.layers.Dropout(rate, name="dropout")(x)
    outputs = keras.layers.Dense(3, activation="softmax", name=names[1])(x)
    optimizer = keras.optimizers.Adam(1e-2)
    return compile_mlp(keras.Model(inputs, outputs, name="m"), optimizer)


def fit(model, data, *callbacks, settings=None, **arguments):
    settings = settings or {"criterion": "snip_momentum"}
    pruning = PruningCallback(target_sparsity=0.8, verbose=False, **settings)
    x, y = data
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0} | arguments
    model.fit(x, y, callbacks=[pruning, *callbacks], **{"epochs": 4} | arguments)
    return pruning


def save_to(folder, last=1, **arguments):
    """Returns a callback that saves at the end of each epoch up to one."""

    class Early(keras.callbacks.OrbaxCheckpoint):
        def on_epoch_end(self, epoch, logs=None):
            if epoch <= last:
                super().on_epoch_end(epoch, logs)

    return Early(str(folder), save_on_background=False, **arguments)


def load_at_begin(folder):
    class Load(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.load_weights(str(folder))

    return Load()


def everything(model, pruning):
    variables = [*model.variables, *model.optimizer.variables]
    for pruner in pruning.pruners:
        variables += pruner.mask_variables.values()
        for states in pruner.state_variables.values():
            variables += states.values()
    return [np.array(value_of(variable)) for variable in variables]


@pytest.fixture
def half(data, tmp_path):
    """A run whose first half was saved: the folder, and what came out at its end."""
    model = build()
    pruning = fit(model, data, save_to(tmp_path / "run"))
    return tmp_path / "run", everything(model, pruning), pruning


@pytest.mark.parametrize("how", ["load_weights in fit", "load_model"])
def test_a_run_goes_on_from_orbax(how, half, data):
    folder, expected, first = half
    keras.backend.clear_session(free_memory=False)
    if how == "load_model":
        model = keras.models.load_model(str(folder))
        assert 0 < np.mean(value_of(model.optimizer.masks[0])) < 1
        pruning = fit(model, data, initial_epoch=2)
    else:
        model = build()
        pruning = fit(model, data, load_at_begin(folder), initial_epoch=2)
    assert pruning.pruners[0].end_step == first.pruners[0].end_step
    for value, wanted in zip(everything(model, pruning), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=2e-3, atol=1e-5)


def test_the_plan_of_the_steps_is_kept(half, data):
    folder, _, first = half
    pruning = fit(build(), data, load_at_begin(folder), epochs=9, initial_epoch=2)
    assert pruning.pruners[0].end_step == first.pruners[0].end_step


@pytest.mark.parametrize(
    "model, settings, message",
    [
        ({"units": 9}, None, r"m?/?hidden/kernel' has shape .16, 8. in it"),
        ({"names": ("first", "head")}, None, "it has no '.*first/kernel'"),
        ({}, {"criterion": "magnitude"}, "it has '.*memory', which is not kept"),
        ({}, {"criterion": "fisher"}, "criterion=.*snip_momentum.*fisher"),
        ({}, {"exclude": "head"}, "it has '.*head_kernel_ma?"),
    ],
)
def test_what_does_not_fit_is_refused_whole(model, settings, message, half, data):
    folder, _, _ = half
    model = build(**model)
    before = [np.array(value_of(variable)) for variable in model.variables]
    if settings == {"exclude": "head"}:
        settings = {"criterion": "snip_momentum", "exclude": "head"}
    with pytest.raises(ValueError, match=message):
        fit(model, data, load_at_begin(folder), settings=settings)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)


def test_a_folder_without_masks_is_refused(data, tmp_path):
    model = build()
    model.fit(*data, verbose=0, callbacks=[save_to(tmp_path / "run")])
    with pytest.raises(ValueError, match="it has no 'optimizer_variables/pruning_opt"):
        fit(build(), data, load_at_begin(tmp_path / "run"))


def test_paths_of_files_are_none_of_orbax(tmp_path):
    from keras_pruner.training.saving.orbax import is_orbax

    build_mlp().save(tmp_path / "model.keras")
    assert not is_orbax(tmp_path / "model.keras") and not is_orbax(tmp_path)

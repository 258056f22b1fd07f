"""Defects of older pruning packages that must be impossible here, one test each."""

import keras
import numpy as np
import pytest
from conftest import (
    build_mlp,
    compile_mlp,
    kernels_of,
    slow_where_compiled,
    value_of,
)
from keras import layers

from keras_pruner import (
    PRUNERS,
    KerasBasePruner,
    PrunedLayer,
    PruningCallback,
    PruningConfig,
)
from keras_pruner.components import SCHEDULES
from keras_pruner.components.schedules import Linear
from keras_pruner.pruners import PruningScheduler

pytestmark = pytest.mark.usefixtures("eager_masks")


def train(model, data, epochs=3, callbacks=(), **settings):
    pruning = PruningCallback(**({"verbose": False} | settings))
    x, y = data
    history = model.fit(
        x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=[pruning, *callbacks]
    )
    return pruning, history


def test_first_update_is_at_begin_not_a_frequency_later(data):
    model = compile_mlp()
    sparsities = []
    pruning = PruningCallback(
        target_sparsity=0.8,
        initial_sparsity=0.25,
        begin_step=2,
        end_step=12,
        frequency=5,
        verbose=False,
    )
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, logs: sparsities.append(logs["sparsity"])
    )
    x, y = data
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[pruning, watch])
    assert sparsities[0] == 0
    assert sparsities[1] == 38 / 152  # after 2 updates


def test_target_is_reached_though_frequency_does_not_divide_the_range(data):
    model = compile_mlp()
    _, history = train(
        model, data, target_sparsity=0.8, begin_step=0, end_step=10, frequency=4
    )
    assert history.history["sparsity"][-1] == 122 / 152


def test_frequency_longer_than_the_range_still_reaches_the_target(data):
    model = compile_mlp()
    train(model, data, target_sparsity=0.8, begin_step=3, end_step=5, frequency=100)
    assert (kernels_of(model) == 0).sum() == 122


@pytest.mark.parametrize("samples, epochs", [(16, 1), (32, 1), (48, 1), (16, 2)])
def test_a_short_run_reaches_the_target(samples, epochs, data):
    x, y = data
    model = compile_mlp()
    train(model, (x[:samples], y[:samples]), epochs, target_sparsity=0.8)
    assert (kernels_of(model) == 0).sum() == 122


def test_pruned_weights_do_not_grow_back_after_end_step(data):
    model = compile_mlp(optimizer=keras.optimizers.Adam(0.1))
    zeros = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, logs: zeros.append(
            (kernels_of(watch.model) == 0).sum()
        )
    )
    settings = dict(target_sparsity=0.8, begin_step=0, end_step=4, frequency=2)
    train(model, data, epochs=5, callbacks=[watch], **settings)
    assert zeros[3:] == [122] * 27


def test_a_shared_layer_counts_once():
    shared = layers.Dense(8, name="shared")
    inputs = keras.Input((8,))
    model = keras.Model(inputs, shared(shared(shared(inputs))))
    pruner = KerasBasePruner({"begin_step": 0, "end_step": 0}, model)
    assert [k.path for k in pruner.kernels] == ["shared/kernel"]
    assert pruner.num_weights == 64


def test_one_unsupported_layer_does_not_fail_training(data):
    model = keras.Sequential(
        [layers.Input((16,)), layers.Dense(6, name="fits"), layers.PReLU(name="odd")]
    )
    model.add(layers.Dense(3, activation="softmax", name="indivisible"))
    model.compile("adam", "sparse_categorical_crossentropy")
    pruning, _ = train(model, data, pattern="2:4")
    assert pruning.sparsity == 0.5
    assert [s.path for s in pruning.skipped] == ["indivisible/kernel"]


def test_n_m_settings_survive_save_and_load(tmp_path):
    model = keras.Sequential(
        [
            layers.Input((8,)),
            PrunedLayer(layers.Dense(4), {"pattern": "3:4", "frequency": 7}),
        ]
    )
    path = str(tmp_path / "model.keras")
    model.save(path)
    config = keras.models.load_model(path).layers[0].pruning_config
    assert config == PruningConfig(pattern="3:4", frequency=7)
    assert config.target_sparsity == 0.75


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_reloads(name):
    config = PruningConfig(schedule=name)
    loaded = PruningConfig.from_dict(config.to_dict())
    assert loaded == config and type(loaded.schedule) is SCHEDULES[name]


@pytest.mark.parametrize("checkpoint_first", [True, False])
def test_checkpoints_hold_sparse_weights_whatever_the_order(
    checkpoint_first, data, tmp_path
):
    model = compile_mlp(optimizer=keras.optimizers.Adam(0.1))
    path = str(tmp_path / "at_{epoch}.weights.h5")
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    pruning = PruningCallback(
        target_sparsity=0.8, begin_step=0, end_step=0, verbose=False
    )
    pair = [checkpoint, pruning] if checkpoint_first else [pruning, checkpoint]
    x, y = data
    model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=pair)
    import h5py

    for epoch in (1, 2):
        with h5py.File(path.format(epoch=epoch)) as file:
            groups = [file[f"layers/{name}/vars/0"] for name in file["layers"]]
            zeros = sum((np.asarray(group) == 0).sum() for group in groups)
        assert zeros == 122


def test_a_filter_that_matches_nothing_is_an_error():
    for key in ("include", "exclude"):
        with pytest.raises(ValueError, match="matches no prunable kernel"):
            KerasBasePruner({key: "dens"}, build_mlp())
    with pytest.raises(ValueError, match="prunable layers are of the classes: Dense"):
        KerasBasePruner({"layer_types": ["Conv2D"]}, build_mlp())


def test_defaults_do_not_leak_between_configs():
    first = PruningConfig.from_dict({"excluded_op_names": ["head"]})
    second = PruningConfig()
    assert first.exclude == ("head",) and second.exclude == ()
    names = ["hidden"]
    third = PruningConfig(include=names)
    names.append("head")
    assert third.include == ("hidden",)
    with pytest.raises(AttributeError):
        third.include = ()


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("sparsity", [0.1, 1 / 3, 0.5, 0.9, 0.999])
def test_k_not_k_plus_one_is_pruned(value, sparsity):
    layer = layers.Dense(10)
    layer.build((None, 10))
    layer.kernel.assign(np.full((10, 10), value))
    # At 0.999 all weights go, which only a cap of 1 allows.
    config = {"target_sparsity": sparsity, "max_sparsity": 1.0}
    config |= {"begin_step": 0, "end_step": 0}
    pruner = KerasBasePruner(config, {"fc": layer})
    pruner.update_masks(sparsity)
    assert (~value_of(pruner.masks["fc"])).sum() == round(100 * sparsity)


def test_scheduler_is_exact_at_its_last_update():
    scheduler = PruningScheduler(
        Linear(), initial=0.0, target=0.7, begin=10, end=29, frequency=6
    )
    steps = [step for step in range(60) if scheduler.latest_update(step) == step]
    assert steps == [10, 16, 22, 28]
    assert scheduler(28) == 0.7 and scheduler(22) < 0.7


@slow_where_compiled
@pytest.mark.parametrize("name", ["ste", "top_kast", "str"])
def test_hidden_dense_weights_follow_training_without_the_pruner(name, data):
    model = compile_mlp()
    settings = {"pruning_type": name, "target_sparsity": 0.5}
    callback = PruningCallback(verbose=False, **settings)
    model.fit(*data, verbose=0, callbacks=[callback])
    model.fit(*data, verbose=0)
    trained = kernels_of(model)
    model.optimizer.learning_rate = 0.0
    model.fit(*data, verbose=0, callbacks=[callback])
    kept = kernels_of(model) != 0
    np.testing.assert_allclose(kernels_of(model)[kept], trained[kept], atol=1e-3)


@pytest.mark.parametrize("name", ["rigl", "acdc", "ste"])
def test_pruners_that_regrow_refuse_to_keep_a_checkpoints_zeros(name):
    with pytest.raises(ValueError, match="cannot keep the zeros of a checkpoint"):
        PRUNERS[name].complete({"resume_from_pruned_checkpoint": True})


def test_a_frozen_model_stays_whole_under_ema_and_accumulation(data):
    model = compile_mlp(
        build_mlp(units=16),
        keras.optimizers.Adam(use_ema=True, gradient_accumulation_steps=2),
    )
    before = kernels_of(model)
    callback = PruningCallback(
        pruning_type="retrain_free",
        pattern="1xchannel",
        include=".*",
        target_sparsity=0.5,
        verbose=False,
    )
    model.fit(*data, batch_size=16, verbose=0, callbacks=[callback])
    kept = kernels_of(model) != 0
    assert 0.4 < kept.mean() < 0.6
    np.testing.assert_array_equal(kernels_of(model)[kept], before[kept])

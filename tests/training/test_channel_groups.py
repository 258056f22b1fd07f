"""Pattern "channel_groups" in `fit`: masked models equal those that are cut by hand."""

import copy
import logging

import keras
import numpy as np
import pytest
from channel_models import CHAIN, DENSE, RECURRENT, RESIDUAL, data_for, variables_of
from conftest import BACKEND, first_where_compiled, slow_where_compiled, value_of
from keras import layers

import keras_pruner
from keras_pruner import KerasBasePruner, PruningCallback
from keras_pruner.channels import ChannelGraph
from keras_pruner.components.patterns import ChannelGroups

pytestmark = pytest.mark.usefixtures("eager_masks", "optimized")

NETS = {
    "chain": CHAIN,
    "residual": RESIDUAL,
    "dense": DENSE,
    "recurrent": RECURRENT,
}


def compiled(net, optimizer=None):
    model = net.model()
    model.compile(
        optimizer or keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def pruning(**settings):
    settings = {"pattern": "channel_groups", "target_sparsity": 0.5} | settings
    return PruningCallback(verbose=False, **settings)


def fit(model, callbacks, epochs=2, **settings):
    x, y = data_for(model)
    settings = {"batch_size": 16, "verbose": 0, "shuffle": False} | settings
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **settings)


def assert_equals_cut(net, model, atol=2e-6):
    """The model must compute the same as one without its pruned channels."""
    pruned = net.pruned_channels(model)
    x, _ = data_for(model)
    outputs = value_of(model(x))
    smaller = net.cut(model, pruned)
    np.testing.assert_allclose(value_of(smaller(x)), outputs, atol=atol)
    assert outputs.std(axis=0).min() > 1e-2
    # A control: without another channel than the pruned one, some are dead anyway.
    name = next(name for name, channels in pruned.items() if channels)
    differences = []
    for channel in np.setdiff1d(np.arange(net.widths[name]), pruned[name]):
        wrong = net.cut(model, pruned | {name: [*pruned[name][1:], int(channel)]})
        differences.append(np.abs(value_of(wrong(x)) - outputs).max())
    assert max(differences) > 1e-2
    return pruned, smaller


class EachBatch(keras.callbacks.Callback):
    """Records the pruned channels of each group after every batch."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.channels = []

    def on_train_batch_end(self, batch, logs=None):
        self.channels.append(self.net.pruned_channels(self.model))


@pytest.mark.parametrize("name", NETS)
def test_the_masked_model_equals_the_cut_one(name):
    net = NETS[name]
    model = compiled(net)
    callback = pruning()
    history = fit(model, [callback]).history
    pruned, smaller = assert_equals_cut(net, model)
    assert sum(map(len, pruned.values())) >= 4
    # Sparsity is the share of zeros in all that lies in a group.
    held = [v for p, v in variables_of(model).items() if p in net.places]
    held = [v for v in held if v.trainable]
    zeros = sum(int((value_of(v) == 0).sum()) for v in held)
    size = sum(value_of(v).size for v in held)
    assert callback.sparsity == pytest.approx(zeros / size, abs=1e-12)
    assert history["sparsity"][-1] == pytest.approx(callback.sparsity)
    assert callback.sparsity >= 0.5
    removed = sum(
        value_of(v).size - value_of(variables_of(smaller)[p]).size
        for p, v in variables_of(model).items()
        if v.trainable
    )
    assert removed == zeros
    assert callback.skipped == ()


def test_channels_are_pruned_gradually_and_stay_pruned():
    model = compiled(DENSE)
    watch = EachBatch(DENSE)
    callback = pruning(begin_step=0, end_step=9, frequency=3, schedule="linear")
    fit(model, [callback, watch], epochs=4)
    counts = [sum(map(len, channels.values())) for channels in watch.channels]
    assert len(counts) == 12 and counts[0] == 0
    assert len(set(counts)) >= 4 and counts == sorted(counts)
    assert len(set(counts[9:])) == 1


@pytest.mark.parametrize("step", [3, 6])
def test_the_masked_model_equals_the_cut_one_at_every_update(step):
    model = compiled(CHAIN)
    fit(model, [pruning(begin_step=0, end_step=9, frequency=3)], epochs=step // 3)
    assert_equals_cut(CHAIN, model)


def test_moving_statistics_are_not_masked():
    model = compiled(CHAIN)
    fit(model, [pruning()])
    pruned = CHAIN.pruned_channels(model)["a"]
    assert pruned
    held = variables_of(model)
    for part in ("gamma", "beta"):
        assert not value_of(held[f"norm/{part}"])[pruned].any()
    assert value_of(held["norm/moving_variance"])[pruned].all()
    assert not value_of(held["a/bias"])[pruned].any()


CRITERIA = {
    "magnitude": {},
    "snip_momentum": {"criterion": "snip_momentum"},
    "snip": {"criterion": "snip", "allocation": "global"},
    "random": {"criterion": "random"},
    "fisher": {"criterion": "fisher", "group_reduction": "sum"},
    "lamp": {"criterion": "lamp", "low_memory_usage": True},
    "uniform": {"allocation": "uniform", "mask_bits": 1},
    "custom": {"allocation": {"a": 0.5, "b": 0.3}, "group_reduction": "l2"},
    "group_lasso": {"regularizer": "group_lasso", "regularizer_strength": 1.0},
    "growing_l2": {"regularizer": "growing_l2", "regularizer_strength": 1.0},
    "lottery_ticket": {"pruning_type": "lottery_ticket"},
    "round_to": {"pattern": ChannelGroups(round_to=4)},
}


@pytest.mark.parametrize("name", first_where_compiled(CRITERIA))
def test_settings_choose_channels_and_keep_equality(name):
    net = RESIDUAL if name in ("snip_momentum", "group_lasso", "round_to") else DENSE
    model = compiled(net)
    callback = pruning(**CRITERIA[name])
    fit(model, [callback])
    pruned, _ = assert_equals_cut(net, model, atol=1e-5)
    assert callback.is_done and callback.sparsity > 0.3
    if name == "round_to":
        assert {8 - len(pruned["a"]), (12 - len(pruned["b"])) % 4} <= {8, 4, 0}


def test_group_lasso_draws_channels_to_zero_together():
    norms = {}
    for strength in (0.0, 10.0):
        model = compiled(DENSE)
        fit(
            model,
            [
                pruning(
                    regularizer="group_lasso", regularizer_strength=strength,
                    begin_step=100, end_step=101,
                )
            ],
        )  # fmt: skip
        held = variables_of(model)
        # The outputs of two layers are channels; the head has only inputs that are.
        norms[strength] = {
            "a": np.linalg.norm(value_of(held["a/kernel"]), axis=0),
            "b": np.linalg.norm(value_of(held["b/kernel"]), axis=0),
            "head": np.linalg.norm(value_of(held["head/kernel"]), axis=1),
        }
    for name in ("a", "b", "head"):
        assert norms[10.0][name].sum() < 0.8 * norms[0.0][name].sum()


def test_the_channels_of_the_lowest_scores_are_pruned():
    model = compiled(DENSE, keras.optimizers.SGD(0.0))
    held = variables_of(model)
    scale = np.linspace(1.0, 2.0, 10, dtype="float32")
    held["a/kernel"].assign(np.ones((6, 10)) * scale[::-1])
    held["b/kernel"].assign(np.ones((10, 10)) * scale[::-1, None])
    fit(model, [pruning(max_sparsity=0.5, target_sparsity=0.3)], epochs=1)
    pruned = DENSE.pruned_channels(model)["a"]
    # Their columns of one kernel, and rows of the other, are the smallest.
    assert pruned == list(range(10 - len(pruned), 10)) and pruned


def test_a_kernel_of_large_weights_does_not_decide_alone():
    scaled = compiled(DENSE, keras.optimizers.SGD(0.0))
    plain = compiled(DENSE, keras.optimizers.SGD(0.0))
    kernel = variables_of(scaled)["a/kernel"]
    kernel.assign(value_of(kernel) * 1024)
    for model in (scaled, plain):
        fit(model, [pruning()], epochs=1)
    assert DENSE.pruned_channels(scaled) == DENSE.pruned_channels(plain)


def test_flops_are_those_of_the_cut_model():
    model = compiled(RESIDUAL)
    callback = pruning(pattern=ChannelGroups(cost="flops"), target_sparsity=0.5)
    fit(model, [callback])
    pruned, smaller = assert_equals_cut(RESIDUAL, model)

    def count(model):
        graph = ChannelGraph(model)
        return sum(np.prod([len(a) for a in c.axes]) for c in graph.contractions)

    share = 1 - count(smaller) / count(model)
    assert 0.5 <= share < 0.62
    graph = ChannelGraph(model)
    names = {"a": "a", "b": "b"}
    kept = graph.kept({names[name]: own for name, own in pruned.items()})
    sizes = [[kept.size_of(axis) for axis in c.axes] for c in graph.contractions]
    assert sum(map(np.prod, sizes)) == count(smaller)
    # What is logged is the share of zero weights.
    assert callback.sparsity != pytest.approx(share, abs=1e-3)


def test_embeddings_are_masked_with_their_group():
    inputs = layers.Input((5,), dtype="int32")
    x = layers.Embedding(11, 8, name="table")(inputs)
    x = layers.Dense(6, activation="relu", name="hidden")(x)
    x = layers.GlobalAveragePooling1D()(x)
    model = keras.Model(inputs, layers.Dense(3, name="head")(x))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = pruning()
    x = np.random.default_rng(0).integers(0, 11, size=(32, 5))
    y = np.arange(32) % 3
    model.fit(x, y, epochs=2, batch_size=8, verbose=0, callbacks=[callback])
    table = value_of(model.get_layer("table").embeddings)
    hidden = value_of(model.get_layer("hidden").kernel)
    dead = np.flatnonzero(~table.any(axis=0)).tolist()
    assert dead and dead == np.flatnonzero(~hidden.any(axis=1)).tolist()
    assert callback.skipped == ()


def test_a_group_with_a_kernel_that_is_not_selected_stays_whole():
    model = compiled(CHAIN)
    callback = pruning(exclude=["b"], target_sparsity=0.2)
    fit(model, [callback])
    pruned = CHAIN.pruned_channels(model)
    assert not pruned["a"] and not pruned["b"] and pruned["c"]
    reasons = {skip.path: skip.reason for skip in callback.skipped}
    assert set(reasons) == {"a/kernel", "b/kernel"}
    assert (
        "channel group 'a' stays whole: 'b/kernel' is not selected"
        in (reasons["a/kernel"])
    )
    assert "excluded" in reasons["b/kernel"]


def test_a_group_with_a_frozen_kernel_stays_whole():
    model = CHAIN.model()
    model.get_layer("b").trainable = False
    model.get_layer("norm").trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    callback = pruning(target_sparsity=0.2)
    before = value_of(variables_of(model)["b/kernel"])
    fit(model, [callback])
    pruned = CHAIN.pruned_channels(model)
    assert not pruned["a"] and not pruned["b"] and pruned["c"]
    assert (value_of(variables_of(model)["b/kernel"]) == before).all()
    assert any("'b/kernel' is frozen" in skip.reason for skip in callback.skipped)


def test_frozen_normalization_does_not_keep_a_group_whole():
    model = CHAIN.model()
    model.get_layer("norm").trainable = False
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, _ = data_for(model)
    fit(model, [pruning(exclude=["c"], target_sparsity=0.3)])
    pruned = CHAIN.pruned_channels(model)
    assert pruned["a"]
    smaller = CHAIN.cut(model, pruned)
    np.testing.assert_allclose(value_of(smaller(x)), value_of(model(x)), atol=2e-6)


def test_nothing_left_to_prune_names_the_reasons():
    model = compiled(DENSE)
    with pytest.raises(ValueError, match="(?s)excluded by .*not selected"):
        fit(model, [pruning(exclude=["b"])])


def test_local_configs_prune_their_own_groups():
    model = compiled(CHAIN)
    local = {"include": ["c", "head"], "pattern": "1x1", "target_sparsity": 0.25}
    callback = pruning(target_sparsity=0.2, local_configs=[local])
    fit(model, [callback])
    pruned = CHAIN.pruned_channels(model)
    # The kernel of c holds rows of b, so only a is left.
    assert pruned["a"] and not pruned["b"] and not pruned["c"]
    assert float((value_of(variables_of(model)["c/kernel"]) == 0).mean()) > 0.2


def test_early_stopping_at_target_keeps_the_masks():
    model = compiled(DENSE)
    callback = pruning(begin_step=0, end_step=3, frequency=1)
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=0, min_delta=10.0, restore_best_weights=True
    )
    fit(model, [callback, callback.at_target(stop)], epochs=10)
    assert callback.is_done and stop.stopped_epoch
    assert_equals_cut(DENSE, model)


def test_a_second_fit_continues_with_the_same_masks():
    model = compiled(DENSE)
    callback = pruning()
    fit(model, [callback])
    before = DENSE.pruned_channels(model)
    fit(model, [callback])
    assert DENSE.pruned_channels(model) == before


def test_a_sparse_model_keeps_its_zeros():
    model = compiled(DENSE)
    fit(model, [pruning(target_sparsity=0.3)])
    before = DENSE.pruned_channels(model)
    more = pruning(resume_from_pruned_checkpoint=True)
    fit(model, [more])
    after = DENSE.pruned_channels(model)
    assert all(set(before[name]) <= set(after[name]) for name in before)
    assert before != after
    assert_equals_cut(DENSE, model)


def test_zeros_of_a_whole_group_are_counted_and_told(caplog):
    model = compiled(DENSE)
    for path, places in DENSE.places.items():
        if places.get(1) == "a" or path == "a/bias":
            variable = variables_of(model)[path]
            variable.assign(np.zeros(variable.shape))
    kernel = variables_of(model)["b/kernel"]
    kernel.assign(np.zeros(kernel.shape))
    flops = ChannelGroups(cost="flops")
    callback = pruning(
        pattern=flops, resume_from_pruned_checkpoint=True, target_sparsity=0.8
    )
    with caplog.at_level(logging.WARNING, logger="absl"):
        fit(model, [callback], epochs=1)
    assert len(DENSE.pruned_channels(model)["a"]) == 10
    assert callback.sparsity > 0.7
    assert "Every weight is pruned in a" in caplog.text


@slow_where_compiled
def test_a_killed_run_resumes_with_the_same_channels(tmp_path):
    def run(epochs, directory, model):
        backup = keras_pruner.BackupAndResume(directory)
        fit(model, [pruning(frequency=1), backup], epochs=epochs)

    whole = compiled(CHAIN)
    fit(whole, [pruning(frequency=1)], epochs=4)

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise Killed

    killed = compiled(CHAIN)
    backup = keras_pruner.BackupAndResume(tmp_path / "backup")
    with pytest.raises(Killed):
        fit(killed, [pruning(frequency=1), backup, Kill()], epochs=4)
    resumed = compiled(CHAIN)
    run(4, tmp_path / "backup", resumed)
    assert CHAIN.pruned_channels(resumed) == CHAIN.pruned_channels(whole)
    for path, variable in variables_of(whole).items():
        np.testing.assert_array_equal(
            value_of(variable), value_of(variables_of(resumed)[path]), err_msg=path
        )


def test_a_model_saved_in_training_loads_with_its_masks(tmp_path):
    path = tmp_path / "model.keras"

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.model.save(path)

    model = compiled(DENSE)
    fit(model, [pruning(begin_step=0, end_step=2, frequency=1), Save()], epochs=1)
    pruned = DENSE.pruned_channels(model)
    loaded = keras.models.load_model(path)
    fit(loaded, None)
    assert DENSE.pruned_channels(loaded) == pruned
    # A callback continues with the masks of the file.
    again = keras.models.load_model(path)
    fit(again, [pruning(begin_step=0, end_step=2, frequency=1)])
    assert DENSE.pruned_channels(again) == pruned


def test_a_custom_loop_prunes_channels():
    model = DENSE.model()
    config = {
        "pattern": "channel_groups",
        "target_sparsity": 0.5,
        "begin_step": 0,
        "end_step": 4,
        "frequency": 1,
    }
    pruner = KerasBasePruner(config, model)
    pruner.on_train_begin()
    generator = np.random.default_rng(3)
    for step in range(6):
        pruner.on_step_begin(step)
        gradients = {
            path: keras.ops.convert_to_tensor(
                generator.normal(size=mask.shape).astype("float32")
            )
            for path, mask in pruner.masks.items()
        }
        shaped = pruner.on_before_optimizer_step(gradients)
        for kernel in pruner.kernels:
            move = 0.01 * value_of(shaped[kernel.path])
            kernel.variable.assign(value_of(kernel.variable) - move)
        pruner.on_after_optimizer_step()
    pruner.on_train_end()
    assert_equals_cut(DENSE, model)
    assert set(pruner.masks) == {
        "a/kernel", "a/bias", "b/kernel", "b/bias", "head/kernel"
    }  # fmt: skip
    assert set(pruner.scores) == {"a/kernel", "b/kernel", "head/kernel"}
    assert 0.5 <= pruner.current_sparsity_ratio < 0.6
    state = pruner.state_dict()
    other = KerasBasePruner(config, DENSE.model(seed=1))
    other.load_state_dict(state)
    for path, mask in pruner.masks.items():
        assert (value_of(other.masks[path]) == value_of(mask)).all()


@pytest.mark.skipif(BACKEND == "jax", reason="a gradient of zeros reaches all kernels")
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_kernels_without_a_gradient_release_their_groups(caplog):
    """A second branch that the loss does not see stays dense."""
    inputs = layers.Input((6,))
    x = layers.Dense(10, activation="relu", name="a")(inputs)
    y = layers.Dense(10, activation="relu", name="idle")(inputs)
    outputs = {
        "used": layers.Dense(3, name="head")(x),
        "unused": layers.Dense(3, name="idle_head")(y),
    }
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", {"used": loss})
    callback = pruning(begin_step=0)
    x, y = data_for(model)
    before = value_of(model.get_layer("idle").kernel)
    with caplog.at_level(logging.WARNING, logger="absl"):
        model.fit(
            x, {"used": y}, epochs=2, batch_size=16, verbose=0, callbacks=[callback]
        )
    assert (value_of(model.get_layer("idle").kernel) == before).all()
    assert value_of(model.get_layer("idle").kernel).all()
    assert not value_of(model.get_layer("a").kernel).any(axis=0).all()
    assert "'idle/kernel'" in caplog.text and "'a/kernel'" not in caplog.text
    assert 0.5 <= callback.sparsity < 0.6


def test_the_callback_and_its_config_are_copied_and_saved():
    pattern = ChannelGroups(cost="flops", floor=0.25, round_to=8)
    callback = pruning(pattern=pattern)
    config = callback.config
    assert keras_pruner.PruningConfig.from_dict(config.to_dict()) == config
    assert copy.deepcopy(callback).config.pattern == pattern


REFUSALS = {
    "acdc": ({"pruning_type": "acdc"}, "Pruner 'acdc' does not take pattern"),
    "rigl": ({"pruning_type": "rigl"}, "Pruner 'rigl' does not take pattern"),
    "ste": ({"pruning_type": "ste"}, "Pruner 'ste' does not take pattern"),
    "progressive": ({"pruning_type": "progressive"}, "does not take pattern"),
    "pattern_lock": ({"pruning_type": "pattern_lock"}, "does not take pattern"),
    "block_mask": ({"criterion": "block_mask"}, "does not score channels"),
    "movement": ({"criterion": "movement"}, "does not score channels"),
    "per_output": ({"allocation": "per_output"}, "ranks groups within each output"),
    "floor": ({"pattern": {"name": "channel_groups", "config": {"floor": 2}}}, "floor"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_settings_that_do_not_fit_are_refused(name):
    settings, message = REFUSALS[name]
    with pytest.raises(ValueError, match=message):
        pruning(**settings)


def test_functions_that_prune_single_kernels_refuse():
    model = DENSE.model()
    x, y = data_for(model)
    config = {"pattern": "channel_groups"}
    with pytest.raises(ValueError, match="`prune_one_shot` treats each kernel by"):
        keras_pruner.prune_one_shot(model, x, config=config)
    with pytest.raises(ValueError, match="`prune_at_init` treats each kernel by"):
        keras_pruner.prune_at_init(model, (x, y), **config)
    with pytest.raises(ValueError, match="`wrap` treats each kernel by itself"):
        keras_pruner.wrap(model, **config)
    with pytest.raises(ValueError, match="through a whole model.*Received: dict"):
        KerasBasePruner(config, {"a": model.get_layer("a")})


def test_models_with_wrapper_layers_refuse():
    model = keras_pruner.wrap(DENSE.model(), include="a")
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match="a model without wrapper layers"):
        PruningCallback(pattern="channel_groups").set_model(model)


def test_strip_returns_a_plain_model_with_the_zeros():
    model = compiled(CHAIN)
    fit(model, [pruning()])
    stripped = keras_pruner.strip(model)
    assert CHAIN.pruned_channels(stripped) == CHAIN.pruned_channels(model)


def test_the_report_counts_the_zeros():
    model = compiled(RESIDUAL)
    callback = pruning()
    fit(model, [callback])
    report = keras_pruner.report(model, config=callback.config)
    assert "channel_groups" in str(report)


@pytest.mark.skipif(BACKEND != "torch", reason="torch modules need its backend")
def test_torch_modules_are_sent_to_torch_pruning():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    with pytest.raises(ValueError, match="Torch-Pruning"):
        keras_pruner.PytorchBasePruner({"pattern": "channel_groups"}, module)

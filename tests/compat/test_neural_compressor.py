"""`compat.neural_compressor`: keys, defaults, hooks, for Keras and for torch."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, compile_mlp, slow_where_compiled
from keras import layers, ops

from keras_pruner.compat.neural_compressor import (
    WeightPruningConfig,
    prepare_compression,
    prepare_pruning,
)

SINGLE = {"pattern": "1x1", "pruning_type": "magnitude", "pruning_scope": "local"}


def sparsity_of(layer):
    return float(np.mean(ops.convert_to_numpy(layer.kernel) == 0))


def test_the_keys_and_defaults_are_those_of_intel():
    config = WeightPruningConfig()
    assert config.pruning_configs == [{}]
    assert config.backend is None
    assert config.weight_compression == {
        "target_sparsity": 0.9,
        "pruning_type": "snip_momentum",
        "pattern": "4x1",
        "op_names": [],
        "excluded_op_names": [],
        "start_step": 0,
        "end_step": 0,
        "pruning_scope": "global",
        "pruning_frequency": 1,
        "min_sparsity_ratio_per_op": 0.0,
        "max_sparsity_ratio_per_op": 0.98,
        "sparsity_decay_type": "exp",
        "pruning_op_types": ["Conv", "Linear"],
        "low_memory_usage": False,
    }
    assert config.weight_compression.pattern == "4x1"
    config.weight_compression.pattern = "2:4"
    assert config.weight_compression["pattern"] == "2:4"
    with pytest.raises(AttributeError, match="no key 'patern'"):
        _ = config.weight_compression.patern


def test_the_defaults_make_a_config_of_this_package():
    made = WeightPruningConfig(start_step=3, end_step=9).to_pruning_config()
    assert (str(made.pattern), made.criterion.name) == ("4x1", "snip_momentum")
    assert (made.allocation.name, made.schedule.name) == ("global", "exp")
    assert (made.begin_step, made.end_step, made.frequency) == (3, 9, 1)
    assert (made.min_sparsity, made.max_sparsity) == (0.0, 0.98)
    assert "Dense" in made.layer_types and "Conv2D" in made.layer_types
    assert (made.include, made.exclude) == (None, ())


@pytest.mark.parametrize(
    ("pruning_type", "begin", "end"), [("snip", 1, 1), ("magnitude", 0, 0)]
)
def test_gradient_criteria_begin_after_the_first_gradient(pruning_type, begin, end):
    made = WeightPruningConfig(pruning_type=pruning_type).to_pruning_config()
    assert (made.begin_step, made.end_step) == (begin, end)


@pytest.mark.parametrize(
    "keys",
    [
        {"pruning_type": "magnitude_progressive"},
        {"pruning_type": "snip_momentum_progressive", "start_step": 1, "end_step": 9},
        {"pruning_type": "pattern_lock"},
        {"pattern": "2:4", "target_sparsity": 0.5},
        {"pattern": "channelx1"},
        {"sparsity_decay_type": "cube"},
        {"reg_type": "group_lasso", "reg_coeff": 0.01},
        {"resume_from_pruned_checkpoint": True, "pruning_type": "magnitude"},
    ],
)
def test_keys_of_intel_are_taken(keys):
    assert WeightPruningConfig(**keys).to_pruning_config()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"target_sparsity": 1.0}, "target_sparsity"),
        ({"pattern": "2:4"}, "0.5"),
        ({"pruning_scope": "planet"}, "planet"),
        (
            {"start_step": 5, "end_step": 1, "pruning_type": "magnitude"},
            "not come before `start_step`. Received: start_step=5",
        ),
        ({"pruning_frequency": 0}, "`pruning_frequency` must be >= 1"),
        ({"pruning_configs": [{"start_step": -1}]}, "`start_step` must be >= 0"),
        ({"op_names": ["["]}, "regular expression"),
        ({"op_names": "head"}, "`op_names` must be a list of strings.*'head'"),
        ({"excluded_op_names": "head"}, "`excluded_op_names` must be a list"),
        ({"pruning_op_types": "Conv"}, "`pruning_op_types` must be a list"),
        ({"pruning_configs": [{"op_names": "head"}]}, "`op_names` must be a list"),
        ({"pruning_configs": {"op_names": ["head"]}}, "must be a list of dicts"),
        ({"pruning_configs": ["head"]}, "must be a list of dicts"),
        ({"sparsity": 0.5}, "target_sparsity"),
    ],
)
def test_wrong_values_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        WeightPruningConfig(**keys).to_pruning_config()


def wide_mlp():
    return keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(8, activation="relu", name="block_query"),
            layers.Dense(8, activation="relu", name="block_key"),
            layers.Dense(4, name="head"),
        ]
    )


@pytest.mark.usefixtures("eager_masks")
@pytest.mark.parametrize(
    ("keys", "sparsities"),
    [
        ({}, [0.5, 0.5, 0.5]),
        ({"op_names": ["query"]}, [0.5, 0, 0]),
        ({"op_names": ["query", "^head"]}, [0.5, 0, 0.5]),
        ({"excluded_op_names": ["head$"]}, [0.5, 0.5, 0]),
        ({"pruning_configs": []}, [0.5, 0.5, 0.5]),
        ({"pruning_configs": [{"op_names": ["key"]}]}, [0, 0.5, 0]),
        (
            {"pruning_configs": [{"op_names": ["key"], "target_sparsity": 0.25}, {}]},
            [0.5, 0.25, 0.5],
        ),
        (
            {
                "pruning_configs": [
                    {"op_names": ["key"], "target_sparsity": 0.25},
                    {"op_names": ["head"]},
                ]
            },
            [0, 0.25, 0.5],
        ),
    ],
)
def test_layers_are_chosen_by_parts_of_their_names(keys, sparsities):
    model = wide_mlp()
    config = WeightPruningConfig(target_sparsity=0.5, **SINGLE, **keys)
    pruning = prepare_pruning(model, config)
    pruning.on_train_begin()
    pruning.on_step_begin(0)
    assert [sparsity_of(layer) for layer in model.layers] == sparsities


def test_a_keras_model_is_pruned_in_fit(data):
    config = WeightPruningConfig(
        target_sparsity=0.5, pattern="1x1", start_step=1, end_step=6
    )
    model = compile_mlp()
    pruning = prepare_pruning(model, config, framework="keras")
    model.fit(*data, epochs=2, verbose=0, batch_size=16, callbacks=[pruning])
    assert pruning.sparsity == pytest.approx(0.5)
    zeros = sum(np.count_nonzero(np.array(w.kernel) == 0) for w in model.layers)
    assert zeros == 76


def test_a_manager_has_model_and_callbacks(data, tmp_path):
    model = compile_mlp()
    config = WeightPruningConfig(target_sparsity=0.5, **SINGLE)
    manager = prepare_compression(model, confs=[config])
    assert manager.model is model
    model.fit(*data, verbose=0, callbacks=[manager.callbacks])
    assert sparsity_of(model.layers[0]) == 0.5
    manager.save(str(tmp_path / "model.keras"))
    assert keras.models.load_model(str(tmp_path / "model.keras")).built
    with pytest.raises(ValueError, match="Only one config"):
        prepare_compression(model, [config, config])


@slow_where_compiled
def test_hooks_of_a_callback_prune_in_fit(data):
    model = compile_mlp()
    config = WeightPruningConfig(target_sparsity=0.5, end_step=4, **SINGLE)
    hooks = prepare_compression(model, config).callbacks

    class Loop(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            hooks.on_step_begin(batch)

        def on_train_batch_end(self, batch, logs=None):
            hooks.on_after_optimizer_step()
            hooks.on_step_end()

    hooks.on_train_begin()
    model.fit(*data, verbose=0, batch_size=16, callbacks=[Loop()])
    hooks.on_train_end()
    assert sparsity_of(model.layers[0]) == 0.5


def gradients_of(model, x, y):
    """Gradients of the loss, on any backend."""

    def loss():
        outputs = model(x, training=True)
        return ops.mean(keras.losses.sparse_categorical_crossentropy(y, outputs))

    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, model.trainable_variables)
    if BACKEND == "torch":
        model.zero_grad()
        loss().backward()
        return [v.value.grad for v in model.trainable_variables]
    import jax

    def stateless(values):
        outputs, _ = model.stateless_call(values, [], x, training=True)
        return ops.mean(keras.losses.sparse_categorical_crossentropy(y, outputs))

    return jax.grad(stateless)([v.value for v in model.trainable_variables])


def test_hooks_of_a_loop_prune_by_gradients(data):
    model = build_mlp()
    x, y = (ops.convert_to_tensor(part[:16]) for part in data)
    optimizer = keras.optimizers.Adam(0.01)
    optimizer.build(model.trainable_variables)
    config = WeightPruningConfig(
        target_sparsity=0.5, pattern="1x1", start_step=1, end_step=4
    )
    hooks = prepare_pruning(model, config).callbacks
    hooks.on_train_begin()
    for epoch in range(2):
        hooks.on_epoch_begin(epoch)
        for step in range(3):
            hooks.on_step_begin(step)
            gradients = gradients_of(model, x, y)
            assert hooks.on_after_compute_loss(x, None, 1.5) == 1.5
            gradients = hooks.on_before_optimizer_step(gradients)
            optimizer.apply(gradients, model.trainable_variables)
            hooks.on_after_optimizer_step()
            hooks.on_step_end()
        hooks.on_epoch_end()
        hooks.on_before_eval()
        hooks.on_after_eval()
    hooks.on_train_end()
    zeros = sum(np.count_nonzero(np.array(w.kernel) == 0) for w in model.layers)
    assert zeros == 76


def test_hooks_need_a_loop():
    hooks = prepare_pruning(build_mlp(), WeightPruningConfig(**SINGLE))
    with pytest.raises(ValueError, match="call `on_train_begin"):
        hooks.on_step_begin(0)


def test_wrong_arguments_are_refused():
    model = build_mlp()
    with pytest.raises(TypeError, match="WeightPruningConfig"):
        prepare_pruning(model, {"target_sparsity": 0.5})
    with pytest.raises(TypeError, match="Keras model or a torch module"):
        prepare_pruning(3, WeightPruningConfig())
    with pytest.raises(ValueError, match="framework='pytorch'"):
        prepare_pruning(model, WeightPruningConfig(), framework="pytorch")
    with pytest.raises(ValueError, match="dataloader"):
        prepare_pruning(model, WeightPruningConfig(pruning_type="sparse_gpt"))


def test_sparse_gpt_prunes_at_once(data):
    model = build_mlp()
    config = WeightPruningConfig(
        target_sparsity=0.5, pattern="1x1", pruning_type="sparse_gpt"
    )
    prepare_pruning(model, config, dataloader=data[0])
    assert sparsity_of(model.layers[0]) == 0.5


on_torch = pytest.mark.skipif(BACKEND != "torch", reason="prunes a torch module")


def torch_net():
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)
    )
    return net, torch.optim.AdamW(net.parameters(), 0.01), torch.randn(32, 16)


def zeros_of(net):
    return [float((net[i].weight == 0).float().mean()) for i in (0, 2)]


@on_torch
def test_a_torch_loop_stays_unchanged():
    net, optimizer, x = torch_net()
    config = WeightPruningConfig(target_sparsity=0.5, start_step=1, end_step=4)
    pruning = prepare_pruning(net, config, optimizer)
    for step in range(6):
        # These do nothing beside the hooks of the optimizer.
        pruning.on_step_begin(step)
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
        pruning.on_after_optimizer_step()
    pruning.on_train_end()
    assert pruning.pruner.current_sparsity_ratio == pytest.approx(0.5)
    # Blocks of four outputs and one input.
    blocks = (net[0].weight == 0).reshape(2, 4, 16).float().mean(1)
    assert set(blocks.unique().tolist()) <= {0.0, 1.0}


@on_torch
def test_hooks_of_a_torch_loop_prune():
    net, optimizer, x = torch_net()
    config = WeightPruningConfig(
        target_sparsity=0.5,
        pattern="1x1",
        start_step=1,
        end_step=4,
        pruning_scope="local",
        op_names=["^0$"],
    )
    manager = prepare_compression(net, config)
    assert manager.model is net and len(manager.pruners) == 1
    hooks = manager.callbacks
    hooks.on_train_begin()
    for epoch in range(2):
        hooks.on_epoch_begin(epoch)
        for step in range(3):
            hooks.on_step_begin(step)
            optimizer.zero_grad()
            net(x).square().mean().backward()
            hooks.on_before_optimizer_step()
            optimizer.step()
            hooks.on_after_optimizer_step()
            hooks.on_step_end()
        hooks.on_epoch_end()
    hooks.on_train_end()
    assert zeros_of(net) == [0.5, 0.0]


@on_torch
def test_sparse_gpt_prunes_a_torch_module_in_place():
    net, _, x = torch_net()
    config = WeightPruningConfig(
        target_sparsity=0.5, pattern="1x1", pruning_type="sparse_gpt"
    )
    prepare_pruning(net, config, dataloader=x.numpy())
    assert zeros_of(net) == [0.5, 0.5]

"""`PrunedLayer`, `wrap` and `strip`."""

import concurrent.futures
import zipfile

import keras
import numpy as np
import pytest
from conftest import BACKEND, build_mlp, compile_mlp, slow_where_compiled, value_of
from keras import layers, ops

from keras_pruner import (
    KerasBasePruner,
    PrunedLayer,
    PruningCallback,
    PruningConfig,
    report,
    strip,
    wrap,
)
from keras_pruner.kernels import find_wrapped

CHECKER = np.arange(128).reshape(16, 8) % 2 == 0


def wrapped_mlp():
    return keras.Sequential(
        [
            layers.Input((16,)),
            PrunedLayer(layers.Dense(8, activation="relu", name="hidden")),
            layers.Dropout(0.2),
            PrunedLayer(
                layers.Dense(3, activation="softmax", name="head"),
                PruningConfig(target_sparsity=0.5),
            ),
        ]
    )


def test_wrapped_layer_computes_with_masked_kernel(data):
    layer = PrunedLayer(layers.Dense(8))
    x, _ = data
    layer(x)
    weights = layer.trainable_weights[0]
    layer.mask_of(weights).assign(CHECKER)
    expected = value_of(weights) * CHECKER
    assert (value_of(weights)[~CHECKER] != 0).any()
    np.testing.assert_array_equal(value_of(layer.layer.kernel), expected)
    np.testing.assert_allclose(value_of(layer(x)), x @ expected, rtol=1e-4, atol=1e-5)
    assert layer.mask_of(layer.layer.kernel) is layer.mask_of(weights)


LAYERS = {
    "conv": (lambda: layers.Conv2D(4, 3), (8, 8, 2)),
    "depthwise": (lambda: layers.DepthwiseConv2D(3), (8, 8, 2)),
    "separable": (lambda: layers.SeparableConv1D(4, 3), (8, 2)),
    "transpose": (lambda: layers.Conv1DTranspose(4, 3), (8, 2)),
    "einsum": (lambda: layers.EinsumDense("abc,cd->abd", (5, 4)), (5, 3)),
    "lstm": (lambda: layers.LSTM(4, dropout=0.2), (5, 3)),
    "bidirectional": (lambda: layers.Bidirectional(layers.GRU(4)), (5, 3)),
    "time distributed": (lambda: layers.TimeDistributed(layers.Dense(4)), (5, 3)),
}


@pytest.mark.usefixtures("eager_masks")
@pytest.mark.parametrize("name", LAYERS)
def test_wrapped_layer_trains_saves_and_strips(name, tmp_path):
    make, shape = LAYERS[name]
    model = keras.Sequential([layers.Input(shape), PrunedLayer(make())])
    model.compile("adam", "mse")
    x = np.random.default_rng(0).random((8, *shape)).astype("float32")
    y = np.zeros(value_of(model(x)).shape, "float32")
    callback = PruningCallback(target_sparsity=0.5, verbose=False)
    model.fit(x, y, batch_size=4, epochs=3, verbose=0, callbacks=[callback])
    kept = pruned = 0
    for kernel in callback.pruners[0].kernels:
        mask = value_of(kernel.wrapper.mask_of(kernel.variable))
        assert (value_of(kernel.variable)[~mask] == 0).all()
        kept, pruned = kept + mask.sum(), pruned + (~mask).sum()
    assert pruned == round(0.5 * (kept + pruned))
    expected = value_of(model.predict(x, verbose=0))
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), expected, atol=1e-6)
    plain = strip(model)
    assert not find_wrapped(plain)
    np.testing.assert_allclose(plain.predict(x, verbose=0), expected, atol=1e-6)


def test_wrapped_attention_prunes_its_four_kernels():
    inputs = keras.Input((5, 8))
    layer = PrunedLayer(layers.MultiHeadAttention(2, 4, name="attention"))
    model = keras.Model(inputs, layer(inputs, inputs))
    assert [path.split("/")[1] for path in layer.masks] == [
        "query",
        "key",
        "value",
        "attention_output",
    ]
    x = np.random.default_rng(0).random((4, 5, 8)).astype("float32")
    expected = value_of(layer.layer(x, x))
    np.testing.assert_allclose(model.predict(x, verbose=0), expected, atol=1e-5)


def test_masking_passes_through_a_wrapped_recurrent_layer():
    inputs = keras.Input((5,), dtype="int32")
    embedded = layers.Embedding(7, 4, mask_zero=True)(inputs)
    layer = PrunedLayer(layers.LSTM(3))
    model = keras.Model(inputs, layer(embedded))
    plain = keras.Model(inputs, layer.layer(embedded))
    x = np.array([[1, 2, 0, 0, 0]])
    np.testing.assert_allclose(
        model.predict(x, verbose=0), plain.predict(x, verbose=0), atol=1e-6
    )


def test_fit_prunes_wrapped_layers_by_their_own_configs(data):
    x, y = data
    model = compile_mlp(wrapped_mlp(), keras.optimizers.Adam(1e-2))
    callback = PruningCallback(target_sparsity=0.75, verbose=False)
    model.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=[callback])
    hidden, head = find_wrapped(model)
    assert value_of(hidden.masks["hidden/kernel"]).sum() == 32
    assert value_of(head.masks["head/kernel"]).sum() == 12
    assert callback.sparsity == (96 + 12) / 152
    paths = [kernel.path for p in callback.pruners for kernel in p.kernels]
    assert paths == ["hidden/kernel", "head/kernel"]


@slow_where_compiled
def test_config_of_the_callback_prunes_what_was_wrapped_without_one(data):
    x, y = data
    for settings, zeros in (
        ({}, 76),
        ({"exclude": "head"}, 64),
        ({"layer_types": ["Dense"]}, 76),
        ({"target_sparsity": 0.25}, 38),
    ):
        model = compile_mlp(wrap(build_mlp(), **settings))
        for wrapper in find_wrapped(model):
            is_open = wrapper.pruning_config is None
            assert is_open == ("target_sparsity" not in settings)
        callback = PruningCallback(target_sparsity=0.5, verbose=False)
        model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[callback])
        masks = [m for w in find_wrapped(model) for m in w.masks.values()]
        assert sum((~value_of(mask)).sum() for mask in masks) == zeros


@keras.saving.register_keras_serializable("keras_pruner_tests")
class Block(layers.Layer):
    def build(self, shape):
        self.table = layers.Embedding(8, 4, name="table")
        self.dense = layers.Dense(4, name="dense")
        self.table.build(shape)
        self.dense.build((*shape, 4))

    def call(self, x):
        return self.dense(self.table(x))


def embedded():
    inputs = keras.Input((3,), dtype="int32")
    x = Block(name="block")(inputs)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(1, name="out")(x))


@pytest.mark.usefixtures("eager_masks")
@pytest.mark.parametrize(
    "settings, paths",
    [
        ({}, ["block/dense/kernel", "out/kernel"]),
        ({"layer_types": "Embedding"}, ["block/table/embeddings"]),
        ({"include": "block"}, ["block/dense/kernel"]),
        ({"layer_types": ["Embedding"], "pattern": "1x1"}, ["block/table/embeddings"]),
    ],
)
def test_wrapper_masks_the_chosen_kernels_of_its_layer(settings, paths, tmp_path):
    model = wrap(embedded(), **settings)
    found = [path for wrapper in find_wrapped(model) for path in wrapper.masks]
    assert found == paths
    model.compile("sgd", "mse")
    x = np.arange(24).reshape(8, 3) % 8
    callback = PruningCallback(target_sparsity=0.5, verbose=False)
    model.fit(x, np.ones((8, 1)), epochs=3, verbose=0, callbacks=[callback])
    assert [k.path for p in callback.pruners for k in p.kernels] == paths
    expected = 0.9 if "pattern" in settings else 0.5
    assert abs(callback.sparsity - expected) < 0.02
    path = str(tmp_path / "model.keras")
    model.save(path)
    loaded = keras.models.load_model(path)
    assert [path for w in find_wrapped(loaded) for path in w.masks] == paths
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


def test_wrapper_takes_settings_beside_or_instead_of_a_config():
    layer = PrunedLayer(layers.Dense(4), target_sparsity=0.5, name="mine")
    assert layer.pruning_config == PruningConfig(target_sparsity=0.5)
    assert layer.name == "mine"
    config = PruningConfig(target_sparsity=0.5)
    layer = PrunedLayer(layers.Dense(4), config, pattern="2:4")
    assert layer.pruning_config == PruningConfig(target_sparsity=0.5, pattern="2:4")
    model = wrap(build_mlp(), config, pattern="4x1", exclude="head")
    assert [w.pruning_config for w in find_wrapped(model)] == [
        PruningConfig(target_sparsity=0.5, pattern="4x1")
    ]
    assert PrunedLayer(layers.Dense(4), PruningConfig()).pruning_config is not None


@pytest.mark.parametrize("make", [PrunedLayer, wrap])
def test_unknown_setting_is_an_error(make):
    taken = layers.Dense(4) if make is PrunedLayer else build_mlp()
    with pytest.raises(ValueError, match="target_sparsty"):
        make(taken, target_sparsty=0.5)


def test_attributes_of_the_layer_are_those_of_the_wrapper():
    layer = PrunedLayer(layers.LSTM(4, stateful=True, return_sequences=True))
    first, second = (value_of(layer(np.ones((2, 3, 5), "float32"))) for _ in range(2))
    assert (layer.units, layer.stateful, layer.return_sequences) == (4, True, True)
    assert np.abs(first - second).max() > 1e-4
    layer.reset_states()
    again = value_of(layer(np.ones((2, 3, 5), "float32")))
    np.testing.assert_array_equal(again, first)
    for name in ("no_such", "_no_such"):
        with pytest.raises(AttributeError, match=f"has no attribute '{name}'"):
            getattr(layer, name)
    assert layer.trainable and layer.trainable_weights
    layer.layer.trainable = False
    assert not layer.trainable and not layer.trainable_weights
    layer.trainable = True
    assert layer.layer.trainable and layer.cell.trainable
    assert not PrunedLayer(layers.Dense(2), trainable=False).layer.trainable


def test_kernel_is_read_masked_and_assigned_as_it_is():
    layer = PrunedLayer(layers.Dense(2, use_bias=False))
    layer.build((None, 2))
    (variable,) = layer.trainable_weights
    kernel = layer.kernel
    kernel.assign([[1.0, np.inf], [3.0, 4.0]])
    next(iter(layer.masks.values())).assign([[True, False], [True, True]])
    assert isinstance(kernel, keras.Variable) and variable is not kernel
    assert (kernel.name, kernel.path) == (variable.name, variable.path)
    np.testing.assert_array_equal(value_of(kernel), [[1, 0], [3, 4]])
    np.testing.assert_array_equal(value_of(kernel[0]), [1, 0])
    np.testing.assert_array_equal(np.array(kernel), value_of(kernel + 0.0))
    np.testing.assert_array_equal(value_of(variable), [[1, np.inf], [3, 4]])
    np.testing.assert_array_equal(value_of(layer(np.ones((1, 2)))), [[4, 4]])
    kernel.assign_add(np.ones((2, 2)))
    np.testing.assert_array_equal(value_of(variable), [[2, np.inf], [4, 5]])
    kernel.trainable = False
    assert not variable.trainable and not kernel.trainable


@pytest.mark.parametrize("passes", [False, True])
def test_gradients_pass_masks_when_asked_to(passes):
    layer = PrunedLayer(layers.Dense(2, use_bias=False))
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.kernel.assign([[1.0, 2.0], [np.inf, 4.0]])
    (mask,) = layer.masks.values()
    mask.assign([[True, False], [False, True]])
    layer.straight_through = passes
    x, y = np.array([[1.0, 2.0]], "float32"), np.zeros((1, 2), "float32")
    loss_fn = keras.losses.MeanSquaredError(reduction="sum")
    (gradient,) = gradients_of(model, loss_fn, x, y)
    # Outputs are 1 and 8. An infinite weight has no gradient.
    expected = [[1, 8], [0, 16]] if passes else [[1, 0], [0, 16]]
    np.testing.assert_allclose(value_of(gradient), expected)
    np.testing.assert_array_equal(value_of(model(x)), [[1, 8]])


class Hidden(layers.Layer):
    """Keeps its kernel where nobody finds it."""

    def build(self, shape):
        kernel = self.add_weight(shape=(shape[-1], 2), name="secret")
        self.read = lambda: kernel

    def prunable_kernels(self):
        from keras_pruner.kernels import dense_layout

        return {"secret": dense_layout(self.read().shape)}

    def call(self, x):
        return x @ self.read()


def test_kernel_in_no_attribute_is_an_error():
    layer = PrunedLayer(Hidden(name="hidden"))
    with pytest.raises(ValueError, match="'hidden/secret' in no attribute"):
        layer.build((None, 3))
    assert layer.masks == {} and len(layer.weights) == 1


def test_kernel_of_a_wrapped_layer_in_another_layer_is_an_error():
    class Tied(layers.Layer):
        def build(self, shape):
            self.table = first.kernel

        def call(self, x):
            return x @ ops.transpose(self.table)

    first = PrunedLayer(layers.Dense(3, name="first"))
    model = keras.Sequential([keras.Input((4,)), first, Tied(name="tied")])
    with pytest.raises(ValueError, match="'tied'.*kernel of a wrapped layer"):
        report(model)


@pytest.mark.parametrize("form", ["keras", "weights.h5"])
def test_masks_survive_a_round_trip(form, data, tmp_path):
    model = wrapped_mlp()
    model.layers[0].masks["hidden/kernel"].assign(CHECKER)
    path = str(tmp_path / f"model.{form}")
    if form == "keras":
        model.save(path)
        loaded = keras.models.load_model(path)
    else:
        model.save_weights(path)
        loaded = wrapped_mlp()
        loaded.load_weights(path)
    mask = value_of(loaded.layers[0].masks["hidden/kernel"])
    np.testing.assert_array_equal(mask, CHECKER)
    assert loaded.layers[2].pruning_config == PruningConfig(target_sparsity=0.5)
    x, _ = data
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


@pytest.mark.skipif(BACKEND != "tensorflow", reason="SavedModel is TensorFlow's")
@pytest.mark.filterwarnings("ignore")
def test_saved_model_computes_with_masks(data, tmp_path):
    import tensorflow as tf

    model = wrapped_mlp()
    model.layers[0].masks["hidden/kernel"].assign(CHECKER)
    model.export(str(tmp_path), verbose=False)
    x, _ = data
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(
        loaded.serve(x).numpy(), model.predict(x, verbose=0), atol=1e-6
    )


def nested_and_shared():
    inner = keras.Sequential(
        [layers.Input((8,)), layers.Dense(8, activation="relu", name="deep")],
        name="inner",
    )
    shared = layers.Dense(8, name="shared")
    inputs = keras.Input((16,))
    x = layers.Dense(8, name="first")(inputs)
    x = layers.Add()([shared(x), shared(inner(x))])
    return keras.Model(inputs, layers.Dense(3, name="last")(x))


def test_wrap_keeps_outputs_and_leaves_the_model_alone(data):
    x, _ = data
    model = nested_and_shared()
    before = [value_of(v).copy() for v in model.variables]
    wrapped = wrap(model, {"exclude": "last"})
    names = {layer.layer.name for layer in find_wrapped(wrapped)}
    assert names == {"first", "shared", "deep"}
    assert len(find_wrapped(wrapped)) == 3
    np.testing.assert_allclose(
        wrapped.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(value_of(variable), value)
    assert not find_wrapped(model) and not wrapped.compiled


def test_strip_of_nested_and_shared_bakes_the_masks(data, tmp_path):
    x, _ = data
    wrapped = wrap(nested_and_shared(), {"target_sparsity": 0.5})
    for layer in find_wrapped(wrapped):
        for mask in layer.masks.values():
            pattern = np.arange(mask.shape[0] * mask.shape[1]) % 2 == 0
            mask.assign(pattern.reshape(mask.shape))
    plain = strip(wrapped)
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), wrapped.predict(x, verbose=0), atol=1e-6
    )
    zeros = sum((value_of(v) == 0).sum() for v in plain.variables if v.ndim == 2)
    weights = sum(np.prod(v.shape) for v in plain.variables if v.ndim == 2)
    assert zeros == weights // 2
    assert [layer.name for layer in plain.layers if layer.weights] == [
        "first",
        "inner",
        "shared",
        "last",
    ]
    path = str(tmp_path / "plain.keras")
    plain.save(path)
    with zipfile.ZipFile(path) as archive:
        assert b"keras_pruner" not in archive.read("config.json")


def test_strip_inside_other_wrappers():
    model = keras.Sequential(
        [layers.Input((5, 3)), layers.TimeDistributed(PrunedLayer(layers.Dense(4)))]
    )
    wrapper = find_wrapped(model)[0]
    wrapper.mask_of(wrapper.layer.kernel).assign(np.eye(3, 4, dtype=bool))
    plain = strip(model)
    assert not find_wrapped(plain)
    x = np.random.default_rng(0).random((2, 5, 3)).astype("float32")
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6
    )


def test_strip_after_the_callback_is_an_uncompiled_copy(data):
    x, y = data
    model = compile_mlp()
    callback = PruningCallback(target_sparsity=0.8, verbose=False)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[callback])
    plain = strip(model)
    assert plain is not model and not plain.compiled and model.compiled
    for a, b in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(value_of(a), value_of(b))


@keras.saving.register_keras_serializable("keras_pruner_tests")
class Subclassed(keras.Model):
    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.blocks = [layers.Dense(units), layers.Dense(units)]
        self.heads = {"a": layers.Dense(2)}

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.heads["a"](x)

    def get_config(self):
        return super().get_config() | {"units": self.units}


def test_subclassed_model_strips_to_a_copy_but_cannot_be_wrapped(data):
    x, _ = data
    model = Subclassed(5)
    model(x)
    plain = strip(model)
    np.testing.assert_allclose(value_of(plain(x)), value_of(model(x)), atol=1e-6)
    with pytest.raises(ValueError, match="subclassed model.*PruningCallback"):
        wrap(model)


def test_custom_loop_with_wrapped_layers(data):
    x, y = data
    model = wrapped_mlp()
    optimizer = keras.optimizers.SGD(0.1)
    loss_fn = keras.losses.SparseCategoricalCrossentropy()
    pruner = KerasBasePruner(
        {"target_sparsity": 0.5, "begin_step": 0, "end_step": 6, "frequency": 2}, model
    )
    optimizer.build(model.trainable_variables)
    pruner.on_train_begin()
    for step in range(8):
        pruner.on_step_begin(step)
        gradients = gradients_of(model, loss_fn, x, y)
        optimizer.apply(gradients, model.trainable_variables)
        pruner.on_after_optimizer_step()
        pruner.on_step_end()
    pruner.on_train_end()
    assert pruner.current_sparsity_ratio == 0.5
    for layer in find_wrapped(model):
        for path, mask in layer.masks.items():
            np.testing.assert_array_equal(value_of(mask), value_of(pruner.masks[path]))
    assert report(model).pruned_sparsity == 0.5


def test_wrapped_models_compute_in_threads_while_files_are_saved(tmp_path):
    layer = PrunedLayer(layers.Dense(64, use_bias=False))
    model = keras.Sequential([keras.Input((64,)), layer])
    layer.masks["dense/kernel"].assign(np.eye(64, dtype=bool))
    x = np.eye(64, dtype="float32")
    diagonal = np.diag(value_of(layer.kernel))

    def compute():
        for _ in range(20):
            np.testing.assert_array_equal(value_of(model(x)), np.diag(diagonal))

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        running = [pool.submit(compute) for _ in range(3)]
        for _ in range(5):
            model.save_weights(tmp_path / "model.weights.h5")
        for future in running:
            future.result()


def gradients_of(model, loss_fn, x, y):
    """Gradients of the loss, by each backend's own means."""
    variables = model.trainable_variables
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        return tape.gradient(loss, variables)
    if BACKEND == "jax":
        import jax

        def loss_of(values):
            outputs, _ = model.stateless_call(
                values, [v.value for v in model.non_trainable_variables], x
            )
            return loss_fn(y, outputs)

        return jax.grad(loss_of)([v.value for v in variables])
    model.zero_grad()
    loss_fn(ops.convert_to_tensor(y), model(x, training=True)).backward()
    return [v.value.grad for v in variables]


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: PrunedLayer("dense"), TypeError, "wraps a Keras layer"),
        (
            lambda: PrunedLayer(PrunedLayer(layers.Dense(2))),
            ValueError,
            "wrapped for pruning already",
        ),
        (
            lambda: PrunedLayer(layers.ReLU()).build((None, 4)),
            ValueError,
            "Nothing in the model can be pruned",
        ),
        (
            lambda: PrunedLayer(layers.Dense(4), {"pattern": "2:4"}).build((None, 6)),
            ValueError,
            "needs an input axis divisible by 4",
        ),
        (lambda: wrap(keras.Sequential([layers.Dense(2)])), ValueError, "not built"),
        (lambda: wrap(wrap(build_mlp())), ValueError, "wrapped layers already"),
        (lambda: strip("model"), TypeError, "Expected a Keras model"),
    ],
)
def test_bad_input_is_an_error(make, error, message):
    with pytest.raises(error, match=message):
        make()

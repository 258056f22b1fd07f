"""Training with `UpdatePruningStep`: sparsities, files, and loops of one's own."""

import copy

import keras
import numpy as np
import pytest
from conftest import BACKEND, slow_where_compiled
from keras import layers, ops

from keras_pruner import PruningCallback
from keras_pruner.compat import tfmot

tk = tfmot.sparsity.keras
HALF = tk.ConstantSparsity(0.5, 0, -1, 1)


def build_dense():
    return keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(8, activation="relu"),
            layers.Dense(5, activation="softmax"),
        ]
    )


# XLA would compile each of these models for longer than it trains.
JIT = BACKEND == "jax"


def compiled(model, optimizer="sgd"):
    model.compile(optimizer, "categorical_crossentropy", jit_compile=JIT)
    return model


def pruned_dense(schedule=HALF, **kwargs):
    return compiled(tk.prune_low_magnitude(build_dense(), schedule, **kwargs))


def train(model, epochs=1, callbacks=None):
    generator = np.random.default_rng(0)
    x = generator.random((20, 10)).astype("float32")
    y = np.eye(5, dtype="float32")[generator.integers(0, 5, 20)]
    callbacks = [tk.UpdatePruningStep()] if callbacks is None else callbacks
    model.fit(x, y, epochs=epochs, batch_size=20, verbose=0, callbacks=callbacks)
    return model


def train_to_own_shape(model, integers=None):
    """Trains one batch of random numbers."""
    generator = np.random.default_rng(0)
    shape = (32, *model.input_shape[1:])
    x = generator.standard_normal(shape).astype("float32")
    if integers:
        x = generator.integers(0, integers, shape)
    y = generator.standard_normal((32, *model.output_shape[1:])).astype("float32")
    model.compile("sgd", "mse", jit_compile=JIT)
    model.fit(x, y, verbose=0, callbacks=[tk.UpdatePruningStep()])
    return x


def wrappers_of(model):
    return [m for m in model.layers if isinstance(m, tk.PruneLowMagnitude)]


def sparsities(model):
    weights = [w for m in wrappers_of(model) for w in m.layer.get_prunable_weights()]
    return [float(np.mean(ops.convert_to_numpy(w) == 0)) for w in weights]


def steps(model):
    return [int(ops.convert_to_numpy(m.pruning_step)) for m in wrappers_of(model)]


def masks_of(model):
    return [
        ops.convert_to_numpy(mask)
        for m in wrappers_of(model)
        for _, mask, _ in m.pruning_vars
    ]


def check_sparsity(model, sparsity):
    np.testing.assert_allclose(sparsities(model), sparsity, rtol=1e-6)


def check_stripped(model, inputs=None):
    if inputs is None:
        shape = (3, *model.input_shape[1:])
        inputs = np.random.default_rng(1).standard_normal(shape).astype("float32")
    stripped = tk.strip_pruning(model)
    assert wrappers_of(stripped) == []
    results = [m.predict(inputs, verbose=0) for m in (stripped, model)]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


def test_training_needs_the_callback():
    model = pruned_dense()
    with pytest.raises(ValueError, match="without the callback UpdatePruningStep"):
        train(model, callbacks=[])
    train(model)
    check_sparsity(model, 0.5)
    # As in tfmot, it is missed only before the first training.
    train(model, callbacks=[])
    check_sparsity(model, 0.5)


def test_inference_does_not_need_the_callback():
    model = pruned_dense()
    x = np.ones((4, 10), "float32")
    assert model.predict(x, verbose=0).shape == (4, 5)
    assert model.evaluate(x, np.eye(5, dtype="float32")[:4], verbose=0) > 0


@slow_where_compiled
def test_steps_are_counted_over_runs():
    model = pruned_dense()
    assert steps(model) == [-1, -1]
    assert steps(train(model, epochs=3)) == [3, 3]
    assert steps(train(model, epochs=2)) == [5, 5]


def test_a_sparsity_of_zero_changes_nothing():
    plain, twin = build_dense(), build_dense()
    twin.set_weights(plain.get_weights())
    pruned = compiled(
        tk.prune_low_magnitude(twin, tk.ConstantSparsity(0, 0, frequency=1))
    )
    train(compiled(plain), callbacks=[])
    train(pruned)
    for old, new in zip(
        plain.trainable_variables, pruned.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(old, new, rtol=1e-6)


def test_every_kernel_keeps_a_weight():
    model = train(pruned_dense(tk.ConstantSparsity(0.99, 0, frequency=1)))
    kept = [np.count_nonzero(m.layer.kernel) for m in wrappers_of(model)]
    assert kept == [1, 1]


@slow_where_compiled
def test_a_floor_takes_nothing_from_other_kernels():
    model = keras.Sequential(
        [keras.Input((10,)), layers.Dense(100), layers.Dense(5), layers.Dense(1)]
    )
    pruned = tk.prune_low_magnitude(model, tk.ConstantSparsity(0.99, 0, frequency=1))
    train_to_own_shape(pruned)
    kept = [np.count_nonzero(m.layer.kernel) for m in wrappers_of(pruned)]
    # 1000, 500 and 5 weights.
    assert kept == [10, 5, 1]


def test_ties_are_pruned_to_the_exact_count():
    model = pruned_dense()
    for layer in wrappers_of(model):
        layer.layer.kernel.assign(ops.ones(layer.layer.kernel.shape))
    check_sparsity(train(model), 0.5)


@slow_where_compiled
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: layers.Conv1D(4, 2), (3, 6)),
        (lambda: layers.Conv2D(4, 2), (4, 6, 1)),
        (lambda: layers.Conv2DTranspose(2, 3), (7, 6, 3)),
        (lambda: layers.Conv3D(2, 3), (5, 7, 6, 3)),
        (lambda: layers.SeparableConv1D(4, 3), (3, 6)),
        (lambda: layers.SeparableConv2D(4, 2), (4, 6, 1)),
        (lambda: layers.Dense(4), (6,)),
        (lambda: layers.LSTM(10), (3, 4)),
        (lambda: layers.GRU(10), (3, 4)),
        (lambda: layers.SimpleRNN(10), (3, 4)),
        (
            lambda: layers.RNN(
                [layers.LSTMCell(10), layers.GRUCell(10), layers.SimpleRNNCell(10)]
            ),
            (3, 4),
        ),
    ],
)
def test_a_layer_reaches_its_target(make, shape):
    layer = tk.prune_low_magnitude(make(), HALF)
    model = keras.Sequential([keras.Input(shape), layer])
    check_sparsity(model, 0.0)
    train_to_own_shape(model)
    check_sparsity(model, 0.5)
    check_stripped(model)


def test_an_embedding_reaches_its_target():
    embedding = tk.prune_low_magnitude(layers.Embedding(10, 3), HALF)
    model = keras.Sequential(
        [keras.Input((5,), dtype="int32"), embedding, layers.Flatten(), layers.Dense(1)]
    )
    x = train_to_own_shape(model, integers=10)
    check_sparsity(model, 0.5)
    assert len(sparsities(model)) == 1
    check_stripped(model, x)


@slow_where_compiled
def test_attention_reaches_its_target():
    x = keras.Input((5, 4))
    model = keras.Model(x, layers.MultiHeadAttention(2, 4)(x, x))
    pruned = tk.prune_low_magnitude(model, HALF)
    train_to_own_shape(pruned)
    assert len(sparsities(pruned)) == 4
    check_sparsity(pruned, 0.5)


def members():
    return [
        layers.Conv2D(4, 5, padding="same", activation="relu"),
        layers.MaxPooling2D(2),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(16, activation="relu"),
        layers.Dropout(0.4),
        layers.Dense(10, activation="softmax"),
    ]


def as_sequential():
    return tk.prune_low_magnitude(
        keras.Sequential([keras.Input((8, 8, 2)), *members()]), HALF
    )


def as_functional():
    x = y = keras.Input((8, 8, 2))
    for layer in members():
        y = layer(y)
    return tk.prune_low_magnitude(keras.Model(x, y), HALF)


def as_list():
    return keras.Sequential(
        [keras.Input((8, 8, 2)), *tk.prune_low_magnitude(members(), HALF)]
    )


def by_layer():
    wrapped = [
        tk.prune_low_magnitude(m, HALF) if hasattr(m, "kernel_initializer") else m
        for m in members()
    ]
    return keras.Sequential([keras.Input((8, 8, 2)), *wrapped])


@slow_where_compiled
@pytest.mark.parametrize("build", [as_sequential, as_functional, as_list, by_layer])
def test_a_conv_net_reaches_its_target(build):
    model = build()
    train_to_own_shape(model)
    assert len(sparsities(model)) == 3
    check_sparsity(model, 0.5)
    check_stripped(model)


@slow_where_compiled
def test_a_nested_model_reaches_its_target():
    inner = keras.Sequential([keras.Input((10,)), layers.Dense(10)])
    model = keras.Sequential([keras.Input((10,)), inner, layers.Dense(2)])
    pruned = tk.prune_low_magnitude(model, HALF)
    train_to_own_shape(pruned)
    check_sparsity(pruned, 0.5)
    check_sparsity(pruned.layers[0], 0.5)


def test_a_subclassed_model_of_wrapped_layers():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = tk.prune_low_magnitude(layers.Dense(8), HALF)
            self.second = tk.prune_low_magnitude(layers.Dense(5), HALF)

        def call(self, x):
            return ops.softmax(self.second(self.first(x)))

    model = compiled(Own())
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        train(model, callbacks=[])
    # The first batch builds it.
    train(model, epochs=2)
    check_sparsity(model, 0.5)


def test_only_the_wrapped_layers_are_pruned():
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(8),
            tk.prune_low_magnitude(layers.Dense(5, activation="softmax"), HALF),
        ]
    )
    train(compiled(model))
    check_sparsity(model, 0.5)
    assert np.all(ops.convert_to_numpy(model.layers[0].kernel) != 0)


@pytest.mark.parametrize("wrapped", [[], [layers.Dropout]])
def test_the_callback_does_nothing_without_a_mask(wrapped):
    extra = [tk.prune_low_magnitude(kind(0.1)) for kind in wrapped]
    model = keras.Sequential(
        [keras.Input((10,)), *extra, layers.Dense(5, activation="softmax")]
    )
    train(compiled(model))
    assert np.all(ops.convert_to_numpy(model.layers[-1].kernel) != 0)


def test_frozen_wrapped_layers_leave_the_others_dense():
    wrapper = tk.prune_low_magnitude(layers.Dense(8), HALF)
    model = keras.Sequential(
        [keras.Input((10,)), wrapper, layers.Dense(5, activation="softmax")]
    )
    wrapper.trainable = False
    with pytest.raises(ValueError, match="frozen"):
        train(compiled(model))


@slow_where_compiled
def test_layers_may_have_schedules_of_their_own():
    quarter = tk.ConstantSparsity(0.25, 0, frequency=1)
    model = keras.Sequential(
        [
            keras.Input((10,)),
            tk.prune_low_magnitude(layers.Dense(8), HALF),
            tk.prune_low_magnitude(layers.Dense(5, activation="softmax"), quarter),
        ]
    )
    assert sparsities(train(compiled(model))) == [0.5, 0.25]


@slow_where_compiled
def test_a_polynomial_continues_after_loading(tmp_path):
    decay = tk.PolynomialDecay(0.2, 0.6, 1, 4, 3, 1)
    model = pruned_dense(decay)
    check_sparsity(model, 0.0)
    train(model)
    check_sparsity(model, 0.2)
    path = str(tmp_path / "model.keras")
    model.save(path)
    with tk.prune_scope():
        model = keras.models.load_model(path)
    check_sparsity(model, 0.2)
    assert steps(model) == [1, 1]
    train(model, epochs=3)
    check_sparsity(model, 0.6)
    check_stripped(model)


@slow_where_compiled
def test_sparsity_stays_after_the_end(tmp_path):
    model = train(pruned_dense(tk.PolynomialDecay(0.2, 0.6, 0, 2, 3, 1)), epochs=3)
    check_sparsity(model, 0.6)
    path = str(tmp_path / "model.keras")
    model.save(path)
    model = keras.models.load_model(path)
    check_sparsity(model, 0.6)
    masks = [
        np.array(mask) for m in wrappers_of(model) for _, mask, _ in m.pruning_vars
    ]
    train(model)
    check_sparsity(model, 0.6)
    after = [
        np.array(mask) for m in wrappers_of(model) for _, mask, _ in m.pruning_vars
    ]
    for old, new in zip(masks, after, strict=True):
        np.testing.assert_array_equal(old, new)


@slow_where_compiled
def test_a_legacy_file_holds_the_masks_and_no_count(tmp_path):
    model = train(pruned_dense())
    path = str(tmp_path / "model.h5")
    model.save(path)
    with tk.prune_scope():
        loaded = keras.models.load_model(path, compile=False)
    check_sparsity(loaded, 0.5)
    for old, new in zip(masks_of(model), masks_of(loaded), strict=True):
        np.testing.assert_array_equal(old, new)
    assert steps(loaded) == [-1, -1]


@slow_where_compiled
def test_a_checkpoint_within_fit_is_sparse(tmp_path):
    model = pruned_dense()
    path = str(tmp_path / "{epoch}.weights.h5")
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    train(model, callbacks=[tk.UpdatePruningStep(), save])
    fresh = tk.prune_low_magnitude(build_dense(), HALF)
    fresh.load_weights(str(tmp_path / "1.weights.h5"))
    check_sparsity(fresh, 0.5)
    assert steps(fresh) == [1, 1]


@slow_where_compiled
def test_masks_begin_at_the_first_step():
    # tfmot updates them first at step `frequency`.
    model = train(pruned_dense(tk.ConstantSparsity(0.5, 0)))
    check_sparsity(model, 0.5)


@slow_where_compiled
def test_the_last_update_reaches_the_final_sparsity():
    # The grid 0, 3, 6 does not meet `end_step`.
    model = train(pruned_dense(tk.PolynomialDecay(0.2, 0.6, 0, 7, 3, 3)), epochs=8)
    check_sparsity(model, 0.6)


@slow_where_compiled
def test_a_falling_polynomial_is_followed():
    decay = tk.PolynomialDecay(0.6, 0.2, 0, 4, 1, 2)
    model = train(pruned_dense(decay), epochs=1)
    check_sparsity(model, 0.6)


class Given(tk.PruningSchedule):
    """Prunes to a sparsity of a list at every second step."""

    def __init__(self, values):
        self.values = values

    def __call__(self, step):
        return step % 2 == 0, self.values[min(step, len(self.values) - 1)]

    def get_config(self):
        return {"class_name": "Given", "config": {"values": self.values}}


@pytest.mark.parametrize(
    ("epochs", "sparsity"), [(1, 0.1), (2, 0.3), (3, 0.3), (4, 0.5), (6, 0.5)]
)
def test_a_schedule_of_ones_own_is_asked(epochs, sparsity):
    model = pruned_dense(Given([0.1, 0.2, 0.3, 0.4, 0.5]))
    check_sparsity(train(model, epochs=epochs), sparsity)


@slow_where_compiled
def test_a_schedule_of_ones_own_is_saved(tmp_path):
    model = train(pruned_dense(Given([0.1, 0.2, 0.3, 0.4, 0.5])))
    path = str(tmp_path / "model.keras")
    model.save(path)
    model = keras.models.load_model(path, custom_objects={"Given": Given})
    check_sparsity(model, 0.1)
    check_sparsity(train(model, epochs=3), 0.5)


def test_blocks_are_inputs_by_outputs():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    model.layers[0].kernel.assign(np.repeat([[1.0], [2], [9], [8]], 4, 1))
    pruned = tk.prune_low_magnitude(model, HALF, block_size=(2, 1))
    train_to_own_shape(pruned)
    kernel = ops.convert_to_numpy(pruned.layers[0].layer.kernel)
    assert (kernel == 0).tolist() == [[True] * 4, [True] * 4, [False] * 4, [False] * 4]


@pytest.mark.parametrize(("pooling", "zeros"), [("AVG", [0, 1]), ("MAX", [2, 3])])
def test_blocks_are_pooled(pooling, zeros):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    # Means 5 and 6, maxima 10 and 6.
    model.layers[0].kernel.assign([[10.0], [0.0], [6.0], [6.0]])
    pruned = tk.prune_low_magnitude(
        model, HALF, block_size=(2, 1), block_pooling_type=pooling
    )
    train_to_own_shape(pruned)
    kernel = ops.convert_to_numpy(pruned.layers[0].layer.kernel)
    assert np.flatnonzero(kernel[:, 0] == 0).tolist() == zeros


@pytest.mark.parametrize(
    "make", [lambda: layers.Dense(16), lambda: layers.Conv2D(3, 3)]
)
def test_m_by_n_prunes_m_of_n_inputs(make):
    layer = make()
    shape = (8,) if isinstance(layer, layers.Dense) else (5, 5, 8)
    decay = tk.PolynomialDecay(0.0, 0.1, 0, 1, frequency=1)
    wrapper = tk.prune_low_magnitude(layer, decay, sparsity_m_by_n=(3, 4))
    model = keras.Sequential([keras.Input(shape), wrapper])
    train_to_own_shape(model)
    check_sparsity(model, 0.75)
    kernel = ops.convert_to_numpy(layer.kernel)
    groups = kernel.reshape(-1, 2, 4, kernel.shape[-1])
    assert np.all(np.count_nonzero(groups, axis=2) == 1)


def test_m_by_n_leaves_other_shapes_dense():
    wrapper = tk.prune_low_magnitude(layers.Dense(3), HALF, sparsity_m_by_n=(2, 4))
    model = keras.Sequential([keras.Input((6,)), wrapper])
    assert wrapper.pruning_vars == []
    train_to_own_shape(model)
    assert np.all(ops.convert_to_numpy(wrapper.layer.kernel) != 0)


def test_momentum_and_weight_decay_keep_the_zeros():
    model = tk.prune_low_magnitude(build_dense(), HALF)
    compiled(model, keras.optimizers.AdamW(0.1, weight_decay=0.1))
    train(model, epochs=4)
    check_sparsity(model, 0.5)
    for layer in wrappers_of(model):
        (stored,) = (v for v in layer.trainable_variables if len(v.shape) == 2)
        assert np.mean(ops.convert_to_numpy(stored) == 0) == 0.5


def test_summaries_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    model = pruned_dense()
    summaries = tk.PruningSummaries(log_dir=str(tmp_path))
    train(model, epochs=3, callbacks=[tk.UpdatePruningStep(), summaries])
    assert steps(model) == [3, 3]
    assert any(tmp_path.rglob("events*"))


@pytest.mark.parametrize("folder", ["", None, 3])
def test_summaries_need_a_folder(folder):
    with pytest.raises(ValueError, match="log_dir"):
        tk.PruningSummaries(log_dir=folder)


def loop(model, callback, epochs, batches=1, end_batches=False, summaries=None):
    """Trains as the guide of tfmot shows it: with an optimizer of the loop's own."""
    import tensorflow as tf

    optimizer = keras.optimizers.Adam(0.05)
    callback.set_model(model)
    model.optimizer = optimizer
    if summaries is not None:
        summaries.set_model(model)
    x = np.random.default_rng(0).random((20, 10)).astype("float32")
    y = np.eye(5, dtype="float32")[np.arange(20) % 5]
    callback.on_train_begin()
    for _ in range(epochs):
        if summaries is not None:
            summaries.on_epoch_begin(epoch=-1)
        for _ in range(batches):
            callback.on_train_batch_begin(batch=-1)
            with tf.GradientTape() as tape:
                outputs = model(x, training=True)
                loss = ops.mean(keras.losses.categorical_crossentropy(y, outputs))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(
                zip(gradients, model.trainable_variables, strict=True)
            )
            if end_batches:
                callback.on_train_batch_end(batch=-1)
        callback.on_epoch_end(batch=-1)
    return model


in_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="uses GradientTape")


@in_tensorflow
@pytest.mark.parametrize("is_compiled", [False, True])
def test_a_custom_loop_reaches_its_target(is_compiled):
    model = tk.prune_low_magnitude(build_dense(), HALF)
    if is_compiled:
        compiled(model)
    loop(model, tk.UpdatePruningStep(), 2)
    check_sparsity(model, 0.5)
    assert steps(model) == [2, 2]


@in_tensorflow
@pytest.mark.parametrize("end_batches", [False, True])
def test_a_custom_loop_follows_the_schedule(end_batches):
    decay = tk.PolynomialDecay(0.2, 0.6, 2, 6, 3, 2)
    model = tk.prune_low_magnitude(build_dense(), decay)
    callback = tk.UpdatePruningStep()
    loop(model, callback, 1, 1, end_batches)
    check_sparsity(model, 0.0)
    loop(model, callback, 1, 1, end_batches)
    check_sparsity(model, 0.2)
    loop(model, callback, 2, 2, end_batches)
    check_sparsity(model, 0.6)
    callback.on_train_end()
    assert steps(model) == [6, 6]
    for layer in wrappers_of(model):
        (stored,) = (v for v in layer.trainable_variables if len(v.shape) == 2)
        assert np.mean(ops.convert_to_numpy(stored) == 0) == pytest.approx(0.6)


@in_tensorflow
def test_a_custom_loop_needs_the_callback():
    model = tk.prune_low_magnitude(build_dense(), HALF)
    model(np.ones((1, 10)))
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        model(np.ones((1, 10)), training=True)


@in_tensorflow
def test_summaries_of_a_custom_loop_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    summaries = tk.PruningSummaries(log_dir=str(tmp_path))
    model = tk.prune_low_magnitude(build_dense(), HALF)
    loop(model, tk.UpdatePruningStep(), 2, summaries=summaries)
    assert any(tmp_path.rglob("events*"))


def test_the_own_callback_says_which_one_is_missing():
    with pytest.raises(ValueError, match="UpdatePruningStep"):
        train(pruned_dense(), callbacks=[PruningCallback()])


@slow_where_compiled
def test_a_copy_of_the_callback_has_no_model():
    callback = tk.UpdatePruningStep()
    model = pruned_dense()
    train(model, callbacks=[callback])
    copied = copy.deepcopy(callback)
    assert (copied.prunable_layers, copied.pruners) == ([], [])
    train(model, callbacks=[copied])
    assert steps(model) == [2, 2]

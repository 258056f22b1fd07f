"""A layer in a `PrunedLayer` does all that it does without one."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, value_of
from keras import layers, ops

from keras_pruner import PrunedLayer


def floats(*shape):
    return np.random.default_rng(1).random(shape).astype("float32") - 0.25


def tokens():
    return np.array([[1, 2, 3, 0], [4, 4, 0, 0]])


@keras.saving.register_keras_serializable("keras_pruner_tests")
class Everything(layers.Layer):
    """Has losses, a metric, a seed generator, kernels in containers, and parts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = layers.Dense(4, activation="tanh", activity_regularizer="l1")
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5, seed=3)
        self.size = keras.metrics.Mean(name="size")
        self.seeds = keras.random.SeedGenerator(5)
        self.supports_masking = True

    def build(self, shape):
        self.first.build(shape)
        self.norm.build((*shape[:-1], 4))
        weights = [
            self.add_weight(shape=(4, 4), name=name, regularizer="l2")
            for name in ("a", "b", "c", "d")
        ]
        self.listed = [weights[0], [weights[1]]]
        self.named = {"c": weights[2], "more": (weights[3], "text")}
        self.calls = self.add_weight(
            shape=(), name="calls", initializer="zeros", trainable=False
        )

    def prunable_kernels(self):
        from keras_pruner.kernels import dense_layout

        return {name: dense_layout((4, 4)) for name in ("a", "b", "c", "d")}

    def call(self, x, training=False, mask=None):
        x = self.norm(self.first(x), training=training)
        for kernel in (self.listed[0], self.listed[1][0], self.named["c"]):
            x = ops.matmul(x, kernel)
        x = ops.matmul(x, self.named["more"][0])
        self.add_loss(ops.mean(x**2))
        self.size.update_state(ops.sum(ops.abs(x)))
        self.calls.assign_add(1.0)
        if training:
            x = x + keras.random.normal(ops.shape(x), seed=self.seeds)
        return self.drop(x, training=training)


@keras.saving.register_keras_serializable("keras_pruner_tests")
class Twice(layers.Layer):
    """Holds one kernel in two attributes, and uses it in a sublayer, too."""

    class Inner(layers.Layer):
        def call(self, x):
            return ops.matmul(x, ops.transpose(self.tied))

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 3), name="table")
        self.alias = self.table
        self.inner = self.Inner()
        self.inner.tied = self.table

    def prunable_kernels(self):
        from keras_pruner.kernels import dense_layout

        return {"table": dense_layout(self.table.shape)}

    def call(self, x):
        return self.inner(ops.matmul(x, self.table) + ops.matmul(x, self.alias))


class Late(layers.Layer):
    """Creates the weights of its parts in `call`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [layers.Dense(4), layers.Dense(2)]

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def small_model():
    inputs = keras.Input((4,))
    x = layers.Dense(3, activity_regularizer="l2")(inputs)
    return keras.Model(inputs, layers.Dropout(0.5, seed=1)(x))


# Name -> layer, positional inputs, and further arguments of the call.
LAYERS = {
    "dense": (
        lambda: layers.Dense(
            3, activation="relu", kernel_regularizer="l2", activity_regularizer="l1"
        ),
        lambda: [floats(2, 4)],
    ),
    "einsum": (lambda: layers.EinsumDense("ab,bc->ac", 3), lambda: [floats(2, 4)]),
    "embedding": (
        lambda: layers.Embedding(6, 4, mask_zero=True),
        lambda: [tokens()],
    ),
    "conv1d": (lambda: layers.Conv1D(3, 2), lambda: [floats(2, 5, 2)]),
    "conv2d": (lambda: layers.Conv2D(4, 2, groups=2), lambda: [floats(2, 4, 4, 2)]),
    "conv3d": (lambda: layers.Conv3D(3, 2), lambda: [floats(2, 3, 3, 3, 2)]),
    "transpose1d": (lambda: layers.Conv1DTranspose(3, 2), lambda: [floats(2, 4, 2)]),
    "transpose2d": (
        lambda: layers.Conv2DTranspose(3, 2),
        lambda: [floats(2, 3, 3, 2)],
    ),
    "transpose3d": (
        lambda: layers.Conv3DTranspose(3, 2),
        lambda: [floats(2, 2, 2, 2, 2)],
    ),
    "depthwise1d": (lambda: layers.DepthwiseConv1D(2), lambda: [floats(2, 4, 2)]),
    "depthwise2d": (lambda: layers.DepthwiseConv2D(2), lambda: [floats(2, 3, 3, 2)]),
    "separable1d": (lambda: layers.SeparableConv1D(3, 2), lambda: [floats(2, 4, 2)]),
    "separable2d": (
        lambda: layers.SeparableConv2D(3, 2),
        lambda: [floats(2, 3, 3, 2)],
    ),
    "simple rnn": (lambda: layers.SimpleRNN(3), lambda: [floats(2, 4, 3)]),
    "gru": (
        lambda: layers.GRU(3, dropout=0.3, recurrent_dropout=0.3, seed=7),
        lambda: [floats(2, 4, 3)],
    ),
    "lstm": (
        lambda: layers.LSTM(3, return_sequences=True, return_state=True),
        lambda: [floats(2, 4, 3)],
    ),
    "stateful lstm": (
        lambda: layers.LSTM(3, stateful=True),
        lambda: [floats(2, 4, 3)],
    ),
    "stateful bidirectional": (
        lambda: layers.Bidirectional(layers.GRU(3, stateful=True)),
        lambda: [floats(2, 4, 3)],
    ),
    "stacked cells": (
        lambda: layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
        lambda: [floats(2, 4, 3)],
    ),
    "masked rnn": (
        lambda: layers.GRU(3, return_sequences=True),
        lambda: [floats(2, 4, 3)],
        lambda: {"mask": tokens() > 0},
    ),
    "rnn with initial state": (
        lambda: layers.GRU(3),
        lambda: [floats(2, 4, 3)],
        lambda: {"initial_state": floats(2, 3)},
    ),
    "conv lstm": (lambda: layers.ConvLSTM1D(2, 2), lambda: [floats(2, 3, 4, 2)]),
    "time distributed": (
        lambda: layers.TimeDistributed(layers.Dense(3, activity_regularizer="l2")),
        lambda: [floats(2, 4, 3)],
    ),
    "attention": (
        lambda: layers.MultiHeadAttention(2, 2, dropout=0.3, seed=2),
        lambda: [floats(2, 4, 3), floats(2, 5, 3)],
        lambda: {"return_attention_scores": True, "use_causal_mask": True},
    ),
    "attention by name": (
        lambda: layers.MultiHeadAttention(2, 2),
        lambda: [],
        lambda: {"query": floats(2, 4, 3), "value": floats(2, 5, 3)},
    ),
    "group query attention": (
        lambda: layers.GroupQueryAttention(2, 4, 2),
        lambda: [floats(2, 4, 3), floats(2, 5, 3)],
    ),
    "spectral normalization": (
        lambda: layers.SpectralNormalization(layers.Dense(3)),
        lambda: [floats(2, 4)],
    ),
    "everything": (Everything, lambda: [floats(2, 4)]),
    "twice": (Twice, lambda: [floats(2, 4)]),
    "late": (Late, lambda: [floats(2, 4)]),
    "model": (small_model, lambda: [floats(2, 4)]),
}


def wrapped_in_full(layer):
    is_embedding = isinstance(layer, layers.Embedding)
    settings = {"layer_types": ["Embedding"]} if is_embedding else {}
    return PrunedLayer(layer, **settings)


def pair(make, call, *, pruned, prefix=()):
    """Returns a bare and a wrapped layer with equal weights, and their masks.

    Args:
        make: Function that makes the layer.
        call: Function that calls a layer.
        pruned: Whether half of the weights are pruned: zero in the bare layer, and
            infinite under the masks of the wrapped one.
    """
    made = []
    for wrap in (lambda layer: layer, wrapped_in_full):
        # So that the first call, which may change states and metrics, is the same.
        keras.utils.set_random_seed(0)
        made.append(wrap(make()))
        call(made[-1])
    bare, wrapped = made
    inner = wrapped.layer
    assert wrapped.masks
    own = bare.variables
    theirs = inner.variables
    assert [tuple(v.shape) for v in own] == [tuple(v.shape) for v in theirs]
    masks = []
    for variable, twin in zip(own, theirs, strict=True):
        value = value_of(variable)
        mask = wrapped.mask_of(twin)
        if mask is not None and pruned:
            keep = np.arange(value.size).reshape(value.shape) % 3 > 0
            mask.assign(keep)
            variable.assign(np.where(keep, value, 0))
            value = np.where(keep, value, np.inf)
        masks.append(None if mask is None else value_of(mask))
        twin.assign(value)
    assert sum(mask is not None for mask in masks) == len(wrapped.masks)
    return bare, wrapped, masks


def caller(name, **more):
    _, inputs, *rest = LAYERS[name]
    kwargs = rest[0]() if rest else {}
    return lambda layer: layer(
        *map(ops.convert_to_tensor, inputs()),
        **{
            key: ops.convert_to_tensor(value) if hasattr(value, "shape") else value
            for key, value in kwargs.items()
        },
        **more,
    )


def array_of(tensor):
    # NumPy has no bfloat16.
    return None if tensor is None else value_of(ops.cast(tensor, "float32"))


def loss_of(outputs, losses):
    outputs = [ops.cast(output, "float32") for output in keras.tree.flatten(outputs)]
    total = sum(ops.sum(ops.sin(output)) for output in outputs)
    return total + sum((ops.cast(loss, "float32") for loss in losses), 0.0)


def run(layer, call):
    """Calls a layer and returns all that can be seen of the call.

    Returns:
        Tuple of the gradients of the trainable weights, and a dict of the rest.
    """
    variables = layer.trainable_variables
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            outputs = call(layer)
            loss = loss_of(outputs, layer.losses)
        gradients = tape.gradient(loss, variables)
        losses = layer.losses
    elif BACKEND == "jax":
        import jax

        def compute(values):
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(mapping, collect_losses=True) as scope:
                outputs = call(layer)
                losses = layer.losses
            new = [scope.get_current_value(v) for v in layer.variables]
            return loss_of(outputs, losses), (outputs, losses, new)

        found = jax.grad(compute, has_aux=True)([v.value for v in variables])
        gradients, (outputs, losses, new) = found
        for variable, value in zip(layer.variables, new, strict=True):
            if value is not None and not variable.trainable:
                variable.assign(value)
    else:
        for variable in variables:
            variable.value.grad = None
        outputs = call(layer)
        losses = layer.losses
        if not getattr(layer, "stateful", False):
            # Keras assigns the states in place, so torch cannot go back.
            loss_of(outputs, losses).backward()
        gradients = [variable.value.grad for variable in variables]
    outputs = keras.tree.flatten(outputs)
    kept = getattr(layer, "layer", layer) if isinstance(layer, PrunedLayer) else layer
    return [array_of(gradient) for gradient in gradients], {
        "outputs": [array_of(output) for output in outputs],
        "dtypes": [keras.backend.standardize_dtype(o.dtype) for o in outputs],
        "masks": [getattr(output, "_keras_mask", None) for output in outputs],
        "losses": [array_of(loss) for loss in losses],
        "metrics": [value_of(metric.result()) for metric in layer.metrics],
        "states": [value_of(v) for v in kept.non_trainable_variables],
    }


def assert_equal(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert len(found[key]) == len(values), key
        for one, other in zip(found[key], values, strict=True):
            if other is None or isinstance(other, str):
                assert one == other, key
            elif tolerance:
                np.testing.assert_allclose(one, other, **tolerance, err_msg=key)
            else:
                np.testing.assert_array_equal(value_of(one), value_of(other), key)


def compare(bare, wrapped, masks, call, is_rough=False):
    """Asserts that a wrapped layer does what the bare one does, also in a next call."""
    tolerance = {"rtol": 2e-2, "atol": 2e-2} if is_rough else {}
    is_kernel = [
        mask
        for mask, variable in zip(masks, bare.variables, strict=True)
        if variable.trainable
    ]
    has_states = getattr(bare, "stateful", False) or bare.non_trainable_variables
    for _ in range(2 if has_states else 1):
        expected_gradients, expected = run(bare, call)
        gradients, found = run(wrapped, call)
        assert_equal(found, expected, **tolerance)
        pairs = zip(gradients, expected_gradients, is_kernel, strict=True)
        for gradient, expected, mask in pairs:
            if expected is None:
                assert gradient is None
                continue
            kept = expected if mask is None else np.where(mask, expected, 0)
            # Sums of gradients may be added in another order.
            within = tolerance or {"rtol": 1e-4, "atol": 1e-5}
            np.testing.assert_allclose(gradient, kept, **within)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_wrapped_layer_does_as_the_bare_one(name, pruned):
    call = caller(name)
    bare, wrapped, masks = pair(LAYERS[name][0], call, pruned=pruned)
    compare(bare, wrapped, masks, call)


TRAINED = ["gru", "attention", "everything", "model", "stateful bidirectional"]


@pytest.mark.parametrize("name", TRAINED)
def test_training_flag_and_seeds_reach_a_wrapped_layer(name):
    call = caller(name, training=True)
    bare, wrapped, masks = pair(LAYERS[name][0], call, pruned=True)
    before = run(wrapped, caller(name))[1]["outputs"][0]
    run(bare, caller(name))
    compare(bare, wrapped, masks, call)
    if name != "stateful bidirectional":
        assert (before != run(wrapped, call)[1]["outputs"][0]).any()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
@pytest.mark.parametrize("name", ["dense", "conv2d", "lstm", "attention", "everything"])
def test_precision_of_a_wrapped_layer_is_its_own(name, policy):
    if BACKEND == "jax" and policy == "float64":
        pytest.skip("JAX has no float64 by default")

    def make():
        keras.config.set_dtype_policy(policy)
        layer = LAYERS[name][0]()
        keras.config.set_dtype_policy("float32")
        return layer

    call = caller(name)
    bare, wrapped, masks = pair(make, call, pruned=True)
    assert wrapped.compute_dtype == bare.compute_dtype
    compare(bare, wrapped, masks, call, policy != "float64")


@pytest.mark.parametrize("name", ["dense", "conv2d", "gru", "attention", "everything"])
def test_recomputed_layer_is_masked_in_the_backward_pass(name):
    if BACKEND == "jax" and name not in ("dense", "conv2d"):
        pytest.skip("Keras traces the arguments of the call, also `training`")

    def make():
        with keras.RematScope(mode="full"):
            return LAYERS[name][0]()

    call = caller(name)
    bare, wrapped, masks = pair(make, call, pruned=True)
    compare(bare, wrapped, masks, call)


@pytest.mark.parametrize("make", [Everything, lambda: layers.LSTM(3, stateful=True)])
def test_fit_of_a_wrapped_layer_is_that_of_the_bare_one(make):
    if BACKEND == "torch" and make is not Everything:
        pytest.skip("Keras cannot train stateful layers on torch")
    if BACKEND == "jax" and make is Everything:
        pytest.skip("Keras cannot train a layer with a metric on JAX")
    shape = (4,) if make is Everything else (3, 4)
    histories, weights = [], []
    for wrapping in (lambda layer: layer, PrunedLayer):
        keras.utils.set_random_seed(0)
        inputs = keras.Input(batch_shape=(8, *shape))
        outputs = layers.Dense(1)(wrapping(make())(inputs))
        model = keras.Model(inputs, outputs)
        model.compile("sgd", "mse")
        history = model.fit(
            floats(24, *shape),
            floats(24, 1),
            batch_size=8,
            epochs=2,
            shuffle=False,
            verbose=0,
        ).history
        histories.append(history)
        weights.append([value_of(v) for v in model.trainable_weights])
    assert histories[0].keys() == histories[1].keys()
    assert make is not Everything or "size" in histories[0]
    for key, values in histories[0].items():
        np.testing.assert_allclose(histories[1][key], values, rtol=1e-5)
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_recurrent_layer_masks_its_kernels_once_a_call():
    class Counted(PrunedLayer):
        count = 0

        def _masked_value(self, mask, value):
            self.count += 1
            return super()._masked_value(mask, value)

    layer = Counted(layers.LSTM(3))
    x = ops.convert_to_tensor(floats(2, 6, 3))
    layer(x)
    layer.count = 0
    layer(x)
    assert layer.count == 2

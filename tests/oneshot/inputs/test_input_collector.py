"""What a collector promises: order, masks, dense rows, samples, and no trace of it."""

import keras
import numpy as np
import pytest
from collected import collect, product, randomize
from conftest import BACKEND, value_of
from keras import layers, ops

from keras_pruner import PrunedLayer
from keras_pruner.backend import all_layers
from keras_pruner.kernels import find_kernels
from keras_pruner.oneshot.inputs import InputCollector


def batch_of(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


class Block(layers.Layer):
    def __init__(self, units):
        super().__init__()
        self.first = layers.Dense(units, activation="relu", name="first")
        self.second = layers.Dense(units, name="second")

    def call(self, x):
        return x + self.second(self.first(x))


class Subclassed(keras.Model):
    """A block that is called twice, attention, a recurrent layer and a head."""

    def __init__(self):
        super().__init__()
        self.head = layers.Dense(2, name="head")
        self.block = Block(4)
        self.attention = layers.MultiHeadAttention(2, 3, name="attention")
        self.lstm = layers.LSTM(3, name="lstm")
        self.unused = layers.Dense(3, name="unused")
        self.unused.build((None, 3))

    def call(self, x):
        x = self.block(self.block(x))
        return self.head(self.lstm(self.attention(x, x)))


@pytest.fixture
def subclassed():
    model = Subclassed()
    model(batch_of(2, 5, 4))
    randomize(model)
    return model


def short(kernels):
    return ["/".join(kernel.path.split("/")[-2:]) for kernel in kernels]


def test_order_of_a_subclassed_model(subclassed):
    kernels = find_kernels(subclassed).kernels
    order = InputCollector(subclassed, kernels).order(batch_of(2, 5, 4))
    assert [short(stage) for stage in order.stages] == [
        ["first/kernel"],
        ["second/kernel"],
        ["query/kernel", "key/kernel", "value/kernel"],
        ["attention_output/kernel"],
        ["lstm_cell/kernel", "lstm_cell/recurrent_kernel"],
        ["head/kernel"],
    ]
    shared = [["query/kernel", "key/kernel", "value/kernel"]]
    assert [short(group) for group in order.shared] == shared
    ((kernel, reason),) = order.left_out.items()
    assert kernel.layer.name == "unused" and "did not call it" in reason


def test_kernels_with_equal_rows_get_the_same_tensor(subclassed):
    kernels = find_kernels(subclassed).kernels
    order = InputCollector(subclassed, kernels).order(batch_of(2, 5, 4))
    got = []
    InputCollector(subclassed, kernels, max_rows=3).collect(
        batch_of(2, 5, 4), lambda kernel, rows: got.append((kernel, rows[0].values))
    )
    position = [kernel for kernel, _ in got].index(order.shared[0][0])
    trio = got[position : position + 3]
    assert tuple(kernel for kernel, _ in trio) == order.shared[0]
    assert trio[0][1] is trio[1][1] is trio[2][1]


def test_bidirectional_layers_are_one_stage():
    model = keras.Sequential(
        [keras.Input((4, 3)), layers.Bidirectional(layers.LSTM(2)), layers.Dense(2)]
    )
    order = InputCollector(model, find_kernels(model).kernels).order(batch_of(2, 4, 3))
    assert [len(stage) for stage in order.stages] == [4, 1]


def test_a_shared_layer_gives_the_rows_of_all_its_calls(subclassed):
    x = batch_of(2, 5, 4)
    found = collect(subclassed, x)
    (rows,) = [v for path, v in found.items() if path.endswith("first/kernel")]
    twice = np.concatenate([x, value_of(subclassed.block(x))]).reshape(1, 20, 4)
    assert np.allclose(rows[0][0], twice, atol=1e-6)


def test_calls_of_one_layer_on_other_shapes_follow_one_another():
    conv = layers.Conv2D(2, 3, strides=2, name="conv")
    inputs = keras.Input((8, 8, 2))
    once = conv(inputs)
    # Positions like those of the first call, in a smaller image.
    model = keras.Model(inputs, [once, conv(once), conv(inputs[:, :7, :7])])
    randomize(model)
    x = batch_of(2, 8, 8, 2)
    (kernel,) = find_kernels(model).kernels
    outputs = product(kernel, collect(model, x)[kernel.path]) + value_of(conv.bias)
    expected = np.concatenate([value_of(y).reshape(-1, 2) for y in model(x)])
    # Keras decides which call comes first.
    assert np.allclose(np.sort(outputs, 0), np.sort(expected, 0), atol=1e-5)
    assert outputs.shape == (2 * (9 + 1 + 9), 2)


def nested():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="deep"), layers.Dense(4)], name="inner"
    )
    inputs = keras.Input((5, 4))
    x = layers.TimeDistributed(inner)(inputs)
    return keras.Model(inputs, layers.Dense(2, name="head")(inner(x[:, 0])))


def test_rows_of_nested_models():
    model = nested()
    x = batch_of(2, 5, 4)
    found = collect(model, x)
    deep, _, head = find_kernels(model).kernels
    steps = x.swapaxes(0, 1).reshape(10, 4)
    expected = np.concatenate([steps, value_of(model.get_layer("inner")(x[:, 0]))])
    assert np.allclose(found[deep.path][0][0][0], expected, atol=1e-5)
    outputs = product(head, found[head.path]) + value_of(head.layer.bias)
    assert np.allclose(outputs, value_of(model(x)), atol=1e-5)


TOKENS = np.array([[1, 2, 3, 0], [4, 0, 0, 0], [5, 1, 0, 0]])


def test_masked_steps_give_no_rows():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(6, 4, mask_zero=True)(inputs)
    x = layers.Dense(4, name="dense")(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.TimeDistributed(layers.Dense(4), name="each")(x)
    x = layers.LSTM(3, name="lstm")(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    found = collect(model, TOKENS, find_kernels(model).kernels)
    numbers = {path: rows[0][0].shape[1] for path, rows in found.items()}
    assert len(numbers) == 9 and numbers.pop("head/kernel") == 3
    assert set(numbers.values()) == {6}
    embedded = value_of(model.get_layer(index=1)(TOKENS))
    assert np.allclose(found["dense/kernel"][0][0][0], embedded[TOKENS != 0])


def test_key_and_query_of_attention_have_their_own_masks():
    first, second = (keras.Input((n,), dtype="int32") for n in (4, 3))
    embedding = layers.Embedding(6, 4, mask_zero=True)
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    outputs = attention(embedding(first), embedding(second))
    model = keras.Model([first, second], outputs)
    x = [TOKENS, np.array([[1, 2, 0], [1, 0, 0], [3, 4, 0]])]
    found = collect(model, x, find_kernels(model).kernels)
    numbers = {path.split("/")[1]: v[0][0].shape[1] for path, v in found.items()}
    assert numbers == {"query": 6, "key": 5, "value": 5, "attention_output": 6}


def test_rows_of_the_dense_model_are_exactly_equal(subclassed):
    model = subclassed
    x = batch_of(2, 5, 4)
    kernels = find_kernels(model).kernels
    dense = collect(model, x, max_rows=7)
    values = [(v, ops.copy(v.value)) for v in model.weights]
    for kernel in kernels:
        kernel.variable.assign(ops.zeros_like(kernel.variable.value))
    pruned = collect(model, x, max_rows=7)
    again = collect(model, x, max_rows=7, state_mapping=values)
    last = [path for path in dense if path.endswith("head/kernel")][0]
    assert not np.array_equal(pruned[last][0][0], dense[last][0][0])
    assert list(again) == list(dense)
    for path, ((rows, _),) in dense.items():
        assert np.array_equal(again[path][0][0], rows)
    assert all(not value_of(kernel.variable).any() for kernel in kernels)


def test_a_choice_of_rows_is_seeded_and_in_order():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    x = np.arange(60, dtype="float32").reshape(20, 3)

    def rows(**kwargs):
        return collect(model, x, max_rows=8, **kwargs)["dense/kernel"][0][0][0]

    model.layers[0].name = "dense"
    first = rows(seed=1)
    assert first.shape == (8, 3) and (np.diff(first[:, 0]) > 0).all()
    assert set(map(tuple, first)) <= set(map(tuple, x))
    assert np.array_equal(rows(seed=1), first)
    assert not np.array_equal(rows(seed=2), first)
    assert not np.array_equal(rows(seed=1, number=1), first)


@pytest.mark.parametrize("most", [4, lambda kernel: kernel.layout.rows])
def test_a_choice_of_rows_is_the_same_within_a_layer(most):
    layer = layers.LSTM(3, return_sequences=True)
    model = keras.Sequential([keras.Input((6, 4)), layer])
    randomize(model)
    x = batch_of(3, 6, 4)
    ((inputs, _),), ((states, _),) = collect(model, x, max_rows=most).values()
    h = value_of(model(x))
    before = np.concatenate([np.zeros_like(h[:, :1]), h[:, :-1]], axis=1)
    pairs = np.concatenate([x, before], -1).reshape(-1, 7)
    found = np.concatenate([inputs[0], states[0]], -1)
    assert found.shape == (4, 7)
    for row in found:
        assert np.abs(pairs - row).max(-1).min() < 1e-5


def test_a_limit_may_depend_on_the_kernel(subclassed):
    found = collect(
        subclassed, batch_of(2, 5, 4), max_rows=lambda kernel: kernel.layout.rows
    )
    numbers = {p.split("/")[-2]: v[0][0].shape[1] for p, v in found.items()}
    assert numbers["first"] == 4 and numbers["attention_output"] == 6


def test_a_pass_ends_when_its_layers_were_called():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(4, name="first"),
            layers.Dense(4, name="second"),
            layers.Dense(2, name="third"),
        ]
    )
    calls = []
    third = model.layers[-1]
    object.__setattr__(
        third, "call", lambda x, **k: (calls.append(1), type(third).call(third, x))[1]
    )
    kernels = find_kernels(model).kernels
    collector = InputCollector(model, kernels)
    x, found = batch_of(2, 3), []
    collector.order(x)
    assert len(calls) == 1
    collector.collect(x, lambda kernel, rows: found.append(kernel), kernels[:2])
    assert found == list(kernels[:2]) and len(calls) == 1
    # Another shape may come with other calls.
    collector.collect(batch_of(3, 3), lambda kernel, rows: None, kernels[:2])
    assert len(calls) == 2


def test_a_pass_that_ends_in_a_loop_forgets_its_dropout():
    model = keras.Sequential([keras.Input((4, 3)), layers.LSTM(2, dropout=0.5)])
    kernels = find_kernels(model).kernels
    collector = InputCollector(model, kernels)
    collector.order(batch_of(2, 4, 3))
    collector.collect(batch_of(2, 4, 3), lambda kernel, rows: None)
    # A mask of two samples would fit no other batch.
    assert model(batch_of(5, 4, 3), training=True).shape == (5, 2)


class Broken(layers.Layer):
    def __init__(self):
        super().__init__()
        self.error = None

    def call(self, x):
        if self.error is not None:
            raise self.error
        return x


@pytest.mark.parametrize("error", [None, RuntimeError("broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("ends_early", [False, True])
def test_a_pass_leaves_no_trace(error, ends_early):
    inputs = keras.Input((5, 4))
    with keras.RematScope("full"):
        x = layers.Dense(4)(inputs)
    x = layers.TimeDistributed(layers.Dense(4))(x)
    x = layers.MultiHeadAttention(2, 3)(x, x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True, dropout=0.5))(x)
    x = layers.RNN([layers.LSTMCell(2, recurrent_dropout=0.5), Inner()])(x)
    x = layers.BatchNormalization()(x)
    broken = Broken()
    model = keras.Model(inputs, layers.Dense(2)(broken(x)))
    kernels = find_kernels(model).kernels
    collector = InputCollector(model, kernels)
    data = batch_of(2, 5, 4)
    model(data)
    before = [dict(vars(layer)) for layer in all_layers(model)]
    weights = [value_of(v) for v in model.variables]
    broken.error = error
    if error is None:
        assert len(collector.order(data).left_out) == 0
        collector.collect(data, lambda *_: None, kernels[:4] if ends_early else None)
    else:
        run = collector.order if ends_early else collect_with(collector)
        with pytest.raises(type(error)):
            run(data)
    broken.error = None
    for layer, attributes in zip(all_layers(model), before, strict=True):
        assert set(vars(layer)) == set(attributes)
        for name, value in attributes.items():
            if name in ("call", "inner_loop", "use_cudnn", "_remat_mode"):
                assert vars(layer)[name] == value
    for variable, value in zip(model.variables, weights, strict=True):
        assert np.array_equal(value_of(variable), value)
    assert model(data).shape == (2, 2)


def collect_with(collector):
    return lambda x: collector.collect(x, lambda *_: None)


class Inner(layers.SimpleRNNCell):
    def __init__(self):
        super().__init__(2, dropout=0.5)


def test_states_and_seeds_do_not_change():
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(2, 4, 3)),
            layers.LSTM(2, stateful=True, return_sequences=True, dropout=0.5),
            layers.GaussianNoise(0.5),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )
    x = batch_of(2, 4, 3)
    model(x, training=True)
    before = [value_of(v) for layer in all_layers(model) for v in layer.variables]
    collect(model, x)
    after = [value_of(v) for layer in all_layers(model) for v in layer.variables]
    assert all(map(np.array_equal, before, after))


def test_the_model_runs_in_inference_mode():
    model = keras.Sequential(
        [keras.Input((50,)), layers.Dropout(0.5), layers.Dense(2, name="head")]
    )
    x = np.ones((2, 50), "float32")
    assert np.array_equal(collect(model, x)["head/kernel"][0][0][0], x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_inputs_that_are_not_finite_raise_an_error(bad):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, name="good"), layers.Dense(2, name="bad")]
    )
    model.layers[0].bias.assign([0.0, bad, 0.0, 0.0])
    with pytest.raises(ValueError, match="layer 'bad' is NaN or infinite"):
        collect(model, batch_of(2, 3))


def test_layers_that_recompute_are_seen():
    inputs = keras.Input((3,))
    with keras.RematScope("full"):
        outputs = layers.Dense(4, name="dense")(inputs)
    model = keras.Model(inputs, outputs)
    x = batch_of(2, 3)
    assert np.array_equal(collect(model, x)["dense/kernel"][0][0][0], x)


class Compiled(layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, x):
        return compiled(self.dense)(x)


def compiled(function):
    if BACKEND == "jax":
        import jax

        return jax.jit(lambda x: function(x))
    import tensorflow as tf

    return tf.function(lambda x: function(x))


@pytest.mark.skipif(BACKEND == "torch", reason="it runs compiled code as Python")
def test_a_layer_in_a_compiled_function_is_left_out_with_a_reason():
    model = keras.Sequential([keras.Input((4,)), Compiled()])
    kernels = find_kernels(model).kernels
    order = InputCollector(model, kernels).order(batch_of(2, 4))
    assert "compiled function" in order.left_out[kernels[0]]
    assert collect(model, batch_of(2, 4)) == {}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_rows_of_low_precision_are_float32(policy):
    keras.config.set_dtype_policy(policy)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="dense")])
    x = batch_of(2, 3)
    rows = collect(model, x)["dense/kernel"][0][0][0]
    assert rows.dtype == np.float32 and np.allclose(rows, x, atol=1e-2)


def test_several_inputs_may_be_in_a_dict():
    inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2,), name="b")}
    model = keras.Model(
        inputs, [layers.Dense(2, name=f"of_{k}")(inputs[k]) for k in "ab"]
    )
    x = {"a": batch_of(4, 3).astype("float64"), "b": batch_of(4, 2)}
    found = collect(model, x)
    assert np.array_equal(found["of_a/kernel"][0][0][0], batch_of(4, 3))
    assert np.array_equal(found["of_b/kernel"][0][0][0], x["b"])


def test_rows_of_wrapped_layers():
    model = keras.Sequential(
        [
            keras.Input((4, 3)),
            PrunedLayer(layers.LSTM(2, name="lstm"), target_sparsity=0.5),
            PrunedLayer(layers.Dense(2, name="dense"), target_sparsity=0.5),
        ]
    )
    x = batch_of(2, 4, 3)
    found = collect(model, x)
    inner, _, head = find_kernels(model).kernels
    assert np.array_equal(found[inner.path][0][0][0], x.swapaxes(0, 1).reshape(8, 3))
    outputs = product(head, found[head.path])
    assert np.allclose(outputs, value_of(model(x)), atol=1e-5)


def test_a_batch_whose_steps_are_all_masked_gives_no_rows():
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Embedding(6, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.LSTM(3, name="lstm")(x))
    found = collect(model, np.zeros_like(TOKENS), find_kernels(model).kernels)
    assert [rows[0][0].shape for rows in found.values()] == [(1, 0, 4), (1, 0, 3)]

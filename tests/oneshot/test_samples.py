"""Data of every kind becomes batches of one shape."""

import keras
import numpy as np
import pytest
from conftest import slow_where_compiled

from keras_pruner import prune_structured
from keras_pruner.oneshot.samples import collect_samples


def one_input():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


def two_inputs(form):
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    inputs = {"a": a, "b": b} if form == "dict" else [a, b]
    return keras.Model(inputs, keras.layers.Concatenate()([a, b]))


X = np.arange(30, dtype="float32").reshape(10, 3)
Y = np.arange(10)
Z = np.arange(20, dtype="float32").reshape(10, 2)


class Pairs(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        part = slice(4 * index, 4 * index + 4)
        return X[part], Y[part]


def endless():
    while True:
        yield X[:4], Y[:4]


def joined(samples):
    return np.concatenate(samples.batches)


@pytest.mark.parametrize(
    "data", [X, (X, Y), (X, Y, Y), [X, Y], X.astype("float64"), [(X[:5],), (X[5:],)]]
)
def test_arrays(data):
    samples = collect_samples(one_input(), data, batch_size=5)
    assert [batch.dtype for batch in samples.batches] == ["float32"] * 2
    np.testing.assert_array_equal(joined(samples), X)


def test_a_py_dataset_and_a_generator():
    np.testing.assert_array_equal(joined(collect_samples(one_input(), Pairs())), X)
    samples = collect_samples(one_input(), endless(), num_samples=9)
    np.testing.assert_array_equal(
        joined(samples), np.concatenate([X[:4], X[:4], X[:1]])
    )


def test_a_tensorflow_dataset():
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(3).repeat()
    samples = collect_samples(one_input(), dataset, num_samples=10)
    np.testing.assert_array_equal(joined(samples), X)


def test_a_data_loader():
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    loader = torch.utils.data.DataLoader(pairs, batch_size=4)
    np.testing.assert_array_equal(joined(collect_samples(one_input(), loader)), X)


@pytest.mark.parametrize(
    "form, data",
    [
        ("dict", {"a": X, "b": Z}),
        ("dict", ({"a": X, "b": Z}, Y)),
        ("list", [X, Z]),
        ("list", (X, Z)),
        ("list", ((X, Z), Y)),
        ("list", [((X[:5], Z[:5]), Y[:5]), ((X[5:], Z[5:]), Y[5:])]),
    ],
)
def test_several_inputs(form, data):
    samples = collect_samples(two_inputs(form), data, batch_size=10)
    parts = keras.tree.flatten(samples.batches[0])
    for part, expected in zip(parts, (X, Z), strict=True):
        np.testing.assert_array_equal(part, expected)


def test_arrays_are_drawn_from_by_seed_and_without_repetition():
    state = np.random.get_state()[1].copy()
    draws = [
        joined(collect_samples(one_input(), X, num_samples=6, seed=s))
        for s in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert len(np.unique(draws[0][:, 0])) == 6
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_all_batches_have_one_size():
    x = np.zeros((509, 3))
    samples = collect_samples(one_input(), x)
    assert [len(batch) for batch in samples.batches] == [127] * 4
    assert len(samples) == 508 and "508 in 4 batches" in repr(samples)
    samples = collect_samples(one_input(), x, batch_size=200)
    assert [len(batch) for batch in samples.batches] == [200] * 2


@pytest.mark.parametrize(
    "data, message",
    [
        (X[:0], "empty"),
        ([], "empty"),
        (iter([]), "empty"),
        (Z, "takes inputs of shape"),
        (np.full((4, 3), np.nan), "NaN or infinite"),
        ([(X[:4],), (Z[:4],)], "differ in shape"),
        ((X, Y, Y, Y), "4 parts"),
        (np.float32(1.0), "without samples"),
    ],
)
def test_bad_data_is_told(data, message):
    with pytest.raises(ValueError, match=message):
        collect_samples(one_input(), data)


class Sparse:
    """As a matrix of SciPy."""

    shape, dtype = (10, 3), np.dtype("float32")

    def toarray(self):
        return X


def empty_for_ever():
    while True:
        yield X[:0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Sparse(), r"sparse matrix, Sparse.*give `x.toarray\(\)`"),
        ((Sparse(), Y), "sparse matrix"),
        (X + 1j, "complex numbers, but 'sequential.*' takes float32"),
        (empty_for_ever(), "1000 batches of `data` in a row are empty"),
    ],
)
def test_what_no_model_reads_is_told(data, message):
    with pytest.raises(ValueError, match=message):
        collect_samples(one_input(), data)


def test_a_model_may_take_complex_numbers():
    inputs = keras.Input((3,), dtype="complex64")
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.real(inputs)))
    samples = collect_samples(model, X + 1j)
    np.testing.assert_array_equal(joined(samples), X + 1j)


def test_bad_nests_and_types_are_told():
    with pytest.raises(ValueError, match="different numbers of samples"):
        collect_samples(two_inputs("list"), (X, Z[:5]))
    with pytest.raises(ValueError, match="lacks the input 'b'"):
        collect_samples(two_inputs("dict"), {"a": X})
    with pytest.raises(TypeError, match="iterable of batches"):
        collect_samples(one_input(), 5)


def test_inputs_in_a_list_are_found_by_name():
    b, a = keras.Input((2,), name="b"), keras.Input((3,), name="a")
    model = keras.Model([b, a], keras.layers.Concatenate()([b, a]))
    (batch,) = collect_samples(model, {"b": Z, "a": X}).batches
    np.testing.assert_array_equal(batch["a"], X)
    np.testing.assert_array_equal(batch["b"], Z)


def fixed_batches():
    inputs = keras.Input(batch_shape=(4, 6, 3))
    x = keras.layers.GRU(8, stateful=True, return_sequences=True)(inputs)
    x = keras.layers.Dense(8, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))


def test_batches_have_the_size_that_the_model_takes():
    model, data = fixed_batches(), np.zeros((26, 6, 3), "float32")
    samples = collect_samples(model, data)
    assert {len(batch) for batch in samples.batches} == {4} and len(samples) == 24
    with pytest.raises(ValueError, match=r"batches of 4 samples.*batch_size=8"):
        collect_samples(model, data, batch_size=8)
    with pytest.raises(ValueError, match="`data` gives 3: give at least 4"):
        collect_samples(model, data[:3])


@slow_where_compiled
def test_a_model_of_fixed_batches_is_cut_and_distilled():
    model = fixed_batches()
    data = np.random.default_rng(0).normal(size=(24, 6, 3)).astype("float32")
    recovery = {"name": "distill", "config": {"steps": 3}}
    smaller, report = prune_structured(
        model, parameters=0.6, data=data, recovery=recovery, verbose=False
    )
    assert smaller.count_params() <= 0.6 * model.count_params()
    assert report.verification.relative_difference < 1e-5

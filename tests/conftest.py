"""Small models and data that the tests share."""

import gc
import os
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest
from keras import ops

BACKEND = keras.backend.backend()


def slow_where_compiled(test):
    """Leaves a test to `-m slow`, except on torch, where it is quick."""
    return test if BACKEND == "torch" else pytest.mark.slow(test)


def slow_value_where_compiled(value):
    """Leaves the tests with a value of a parameter to `-m slow`, except on torch."""
    if BACKEND == "torch":
        return value
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.slow)


def first_where_compiled(values):
    """Leaves all values of a parameter but the first to `-m slow`, except on torch."""
    first, *others = values
    return [first, *map(slow_value_where_compiled, others)]


def pytest_collection_modifyitems(items):
    """Starts the longest tests first, so that none runs alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(autouse=True)
def _fixed_seed_and_fresh_state():
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    # Collecting garbage after each test would take most of the time.
    keras.backend.clear_session(free_memory=False)


@pytest.fixture(autouse=True, scope="session")
def _data_sets_without_tuning():
    """Leaves out the thread by which TensorFlow tunes how a data set is read.

    A deleted iterator waits for its thread, and the older it is the longer the thread
    sleeps: garbage collections took up to a minute.
    """
    if BACKEND != "tensorflow":
        yield
        return
    import tensorflow as tf

    iterate = tf.data.Dataset.__iter__

    def iterate_untuned(dataset):
        options = tf.data.Options()
        options.autotune.enabled = False
        return iterate(dataset.with_options(options))

    with mock.patch.object(tf.data.Dataset, "__iter__", iterate_untuned):
        yield


@pytest.fixture(autouse=True)
def collect_garbage():
    """Collects garbage where a test says so; Python still does when it likes.

    A collection takes seconds in a process that ran thousands of tests, and each
    measurement of latency starts with one.
    """
    collect = gc.collect
    with mock.patch.object(gc, "collect", return_value=0):
        yield collect


@pytest.fixture
def optimized():
    """Lets JAX optimize as it does by default, whatever `.ci/run` says.

    So two programs that do the same round alike, and can be compared to the last bit.
    """
    if BACKEND != "jax":
        yield
        return
    import jax

    name = "jax_disable_most_optimizations"
    before = jax.config.read(name)
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


@pytest.fixture
def eager_masks():
    """Makes masks without compiling, where XLA would take longer than all updates.

    `test_contracts.py` holds both to equal masks, with every name in every registry.
    """
    if BACKEND != "tensorflow":
        yield
        return
    from contracts import eager_updates

    with eager_updates():
        yield


@pytest.fixture
def always_xla(monkeypatch):
    """Lets XLA compile also functions of tensors so small that it does not pay."""
    monkeypatch.setattr("keras_pruner.backend.compile.LARGEST_WITHOUT_XLA", -1)


@pytest.fixture(params=["xla", "no xla"])
def with_and_without_xla(request):
    """Compiles small functions in both ways in which TensorFlow can."""
    if request.param == "xla":
        request.getfixturevalue("always_xla")
    elif BACKEND != "tensorflow":
        pytest.skip("compiles in one way")


@pytest.fixture
def data():
    """96 samples of 16 features in 3 classes: 6 batches of 16."""
    generator = np.random.default_rng(0)
    x = generator.random((96, 16)).astype("float32")
    return x, generator.integers(0, 3, 96)


def build_mlp(features=16, units=8, classes=3):
    """16 x 8 and 8 x 3: 152 weights in two kernels."""
    return keras.Sequential(
        [
            keras.layers.Input((features,)),
            keras.layers.Dense(units, activation="relu", name="hidden"),
            keras.layers.Dense(
                classes, activation="softmax", dtype="float32", name="head"
            ),
        ]
    )


def compile_mlp(model=None, optimizer="adam", **kwargs):
    model = build_mlp() if model is None else model
    model.compile(optimizer, "sparse_categorical_crossentropy", **kwargs)
    return model


def value_of(variable):
    return ops.convert_to_numpy(variable)


def kernels_of(model):
    """The kernels of a model's layers as one flat array."""
    return np.concatenate([value_of(layer.kernel).ravel() for layer in model.layers])


def set_kernel(layer, value):
    layer.kernel.assign(np.asarray(value, "float32"))

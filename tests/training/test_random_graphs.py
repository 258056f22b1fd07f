"""Random small Functional graphs: pruned, saved, loaded, wrapped, stripped."""

import os
import tempfile

import keras
import numpy as np
from conftest import value_of
from contracts import eager_updates
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from keras import layers, ops

from keras_pruner import KerasBasePruner, strip, wrap
from keras_pruner.kernels import find_wrapped

UNITS = 4
BRANCHES = ("dense", "shared", "nested", "across", "add", "concatenate", "slice")


@st.composite
def graphs(draw):
    """Lists of steps: what is done, and to which tensors made before."""
    steps = draw(st.lists(st.sampled_from(BRANCHES), min_size=1, max_size=6))
    return [
        (kind, draw(st.integers(0, number)), draw(st.integers(0, number)))
        for number, kind in enumerate(steps)
    ]


def build(steps):
    """Builds the model; every tensor has `UNITS` features."""
    shared = layers.Dense(UNITS, "tanh", name="shared")
    deep_input = keras.Input((UNITS,))
    twice = layers.Dense(UNITS, "tanh", name="twice")
    deep = layers.Dense(UNITS, "relu", name="deep")(twice(twice(deep_input)))
    nested = keras.Model(deep_input, deep, name="nested")
    inputs = keras.Input((UNITS,))
    tensors = [inputs]
    for number, (kind, first, second) in enumerate(steps):
        x, y = tensors[first], tensors[second]
        if kind == "dense":
            made = layers.Dense(UNITS, "tanh", name=f"dense_{number}")(x)
        elif kind == "shared":
            made = shared(x)
        elif kind == "nested":
            made = nested(x)
        elif kind == "across":
            # A Sequential model that shares a layer with the one around it.
            made = keras.Sequential([layers.Input((UNITS,)), shared])(x)
        elif kind == "add":
            made = layers.Add()([x, y]) if first != second else ops.multiply(x, 0.5)
        elif kind == "concatenate":
            joined = layers.Concatenate()([x, y])
            made = layers.Dense(UNITS, name=f"joined_{number}")(joined)
        else:
            made = ops.concatenate([x[:, 1:], y[:, :1]], axis=-1)
        tensors.append(made)
    used = {number for _, *pair in steps for number in pair} - {0}
    ends = [t for number, t in enumerate(tensors) if number and number not in used]
    head = layers.Dense(2, name="head")
    return keras.Model(inputs, [head(end) for end in ends])


def outputs_of(model, x):
    return [value_of(y) for y in keras.tree.flatten(model(x, training=False))]


def assert_equal_outputs(model, expected, x):
    made = outputs_of(model, x)
    assert len(made) == len(expected)
    for y, wanted in zip(made, expected, strict=True):
        np.testing.assert_allclose(y, wanted, atol=1e-6)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    # An example that fails is short anyway, and shrinking it takes a minute.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(steps=graphs(), sparsity=st.sampled_from([0.25, 0.5, 0.8]))
def test_random_graph_is_pruned_saved_loaded_and_stripped(steps, sparsity):
    keras.backend.clear_session(free_memory=False)
    model = build(steps)
    x = np.random.default_rng(0).standard_normal((3, UNITS)).astype("float32")
    with eager_updates():
        pruner = KerasBasePruner({"target_sparsity": sparsity}, model)
        pruner.update_masks()
    expected_zeros = round(sparsity * pruner.num_weights)
    assert pruner.num_pruned == expected_zeros
    assert pruner.num_weights == sum(
        np.prod(v.shape) for v in model.trainable_variables if len(v.shape) == 2
    )
    expected = outputs_of(model, x)

    plain = strip(model)
    assert_equal_outputs(plain, expected, x)
    # What is shared in the model is shared in its copy.
    assert len(plain.variables) == len(model.variables)
    # Keras saves models that share a layer across nesting, but cannot load them.
    shares_across = any(kind == "across" for kind, *_ in steps)
    with tempfile.TemporaryDirectory() as folder:
        for one in () if shares_across else (model, plain):
            path = os.path.join(folder, "model.keras")
            one.save(path)
            assert_equal_outputs(keras.models.load_model(path), expected, x)

    wrapped = wrap(model)
    for layer in find_wrapped(wrapped):
        kernel = layer.kernel
        layer.mask_of(kernel).assign(value_of(kernel) > -0.1)
    expected = outputs_of(wrapped, x)
    assert_equal_outputs(strip(wrapped), expected, x)

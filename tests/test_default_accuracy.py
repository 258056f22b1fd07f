"""The accuracy of the default, on real data. It notices a default that became worse."""

import keras
import numpy as np
import pytest

from keras_pruner import PruningCallback

pytestmark = pytest.mark.slow


def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(data.data))
    x, y = (data.data / 16).astype("float32")[order], data.target[order]
    return x[:1440], y[:1440], x[1440:], y[1440:]


def accuracy_of_default(seed, target_sparsity):
    x, y, x_test, y_test = digits()
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((64,)),
            layers.Dense(256, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    pruning = PruningCallback(target_sparsity=target_sparsity, verbose=False)
    for callbacks in ([], [pruning]):
        model.fit(x, y, batch_size=48, epochs=20, verbose=0, callbacks=callbacks)
    logits = keras.ops.convert_to_numpy(model(x_test))
    return (logits.argmax(axis=-1) == y_test).mean()


def test_default_at_98_percent():
    # On JAX 0.964 to 0.978; with magnitude 0.941 to 0.955.
    accuracies = [accuracy_of_default(seed, 0.98) for seed in range(3)]
    assert np.mean(accuracies) > 0.96

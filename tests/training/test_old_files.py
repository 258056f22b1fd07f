"""Files that were saved at commit d30deb3, before the package had rooms, still load.

The model of `in_fit` was saved after epoch 1 of a run of 4 (24 steps). `wrapped` holds
`PrunedLayer`s. `expected.json` has what the models gave then.
"""

import json
import pathlib

import keras
import numpy as np
import pytest
from conftest import compile_mlp

from keras_pruner import PruningCallback, PruningOptimizer, wrap

# Keras writes settings into a file that older versions of it do not know.
pytestmark = pytest.mark.skipif(
    tuple(map(int, keras.__version__.split(".")[:2])) < (3, 15),
    reason="the files were saved by Keras 3.15",
)

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
CONFIG = {
    "target_sparsity": 0.8,
    "criterion": "snip_momentum",
    "regularizer": "growing_l2",
    "begin_step": 2,
    "end_step": 16,
    "frequency": 2,
}


class Load(keras.callbacks.Callback):
    """Loads weights when training begins, as Keras' own callback does."""

    def on_train_begin(self, logs=None):
        self.model.load_weights(FIXTURES / "in_fit.weights.h5")


def predict(model, data):
    return model.predict(data[0][:4], verbose=0)


def go_on(model, data, *callbacks):
    pruning = PruningCallback(CONFIG, verbose=False)
    x, y = data
    model.fit(
        x,
        y,
        batch_size=16,
        shuffle=False,
        initial_epoch=2,
        epochs=4,
        verbose=0,
        callbacks=[pruning, *callbacks],
    )
    return pruning


def test_model_saved_in_fit_goes_on_where_it_stopped(data):
    model = keras.models.load_model(FIXTURES / "in_fit.keras")
    expected = EXPECTED["in_fit"]
    assert isinstance(model.optimizer, PruningOptimizer)
    assert int(model.optimizer.step) == 12
    np.testing.assert_allclose(predict(model, data), expected["predicted"], atol=1e-6)
    pruning = go_on(model, data)
    assert pruning.sparsity == round(0.8 * 152) / 152
    np.testing.assert_allclose(predict(model, data), expected["final"], atol=1e-5)


def test_weights_saved_in_fit_go_on_where_they_stopped(data):
    model = compile_mlp()
    pruning = go_on(model, data, Load())
    assert pruning.sparsity == round(0.8 * 152) / 152
    np.testing.assert_allclose(
        predict(model, data), EXPECTED["in_fit"]["final"], atol=1e-5
    )


@pytest.mark.parametrize("kind", ["keras", "weights.h5"])
def test_wrapped_model_loads(kind, data):
    path = FIXTURES / f"wrapped.{kind}"
    if kind == "keras":
        model = keras.models.load_model(path)
    else:
        model = wrap(compile_mlp(), {"target_sparsity": 0.5})
        model.load_weights(path)
    np.testing.assert_allclose(
        predict(model, data), EXPECTED["wrapped"]["predicted"], atol=1e-6
    )

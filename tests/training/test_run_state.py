"""The state of a run is one frozen value, which nothing but the optimizer replaces."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
from conftest import BACKEND, compile_mlp, slow_where_compiled

from keras_pruner import PruningCallback, PruningOptimizer
from keras_pruner.training.saving.run_state import RunState

ROOT = pathlib.Path(__file__).parents[2]


def test_run_state_survives_json_and_cannot_be_changed():
    state = RunState(
        {"total_steps": 24, "first_step": 0, "pinned": [None]},
        [["a/kernel", [4, 3], True]],
        {0: {"path": "a/kernel", "pattern": "1x1"}},
    )
    assert RunState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.plan = None
    assert state.moved({0: 5}).provenance == {5: state.provenance[0]}


@pytest.mark.parametrize(
    "values",
    [
        [1],
        {},
        {"plan": None, "trainables": [1], "meanings": {}},
        {"meanings": {"x": 1}},
        {"plan": 5, "trainables": None, "meanings": {}},
        {"plan": [1], "trainables": None, "meanings": {}},
        {"plan": {"total_steps": "9"}, "trainables": None, "meanings": {}},
        {"plan": {"pinned": 3}, "trainables": None, "meanings": {}},
        {"plan": {"pinned": [["x"]]}, "trainables": None, "meanings": {}},
    ],
)
def test_a_run_state_of_another_form_is_refused(values):
    with pytest.raises(ValueError, match="state of a pruning run has another form"):
        PruningOptimizer(keras.optimizers.SGD(), run=values)


@pytest.mark.usefixtures("eager_masks")
def test_a_refused_load_leaves_no_plan_behind(data, tmp_path):
    """The file is of a longer run with Adam; its plan must not become that of SGD's."""
    path = str(tmp_path / "run.weights.h5")

    class Save(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.model.save_weights(path)

    class Try(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            with pytest.raises(ValueError):
                self.model.load_weights(path)

    def fit(optimizer, epochs, *others):
        model = compile_mlp(optimizer=optimizer, jit_compile=False)
        callback = PruningCallback(target_sparsity=0.5, verbose=False)
        model.fit(
            *data,
            batch_size=16,
            epochs=epochs,
            verbose=0,
            callbacks=[callback, *others],
        )
        return callback

    fit("adam", 10, Save())
    callback = fit("sgd", 2, Try())
    assert callback.sparsity == 0.5
    assert callback.pruners[0].scheduler.end == 9


@slow_where_compiled
def test_first_fit_of_a_process_is_guarded_if_the_callback_is_made_in_the_call():
    """Python looks `model.fit` up before it makes the callback."""
    code = """
import keras, numpy as np
from keras_pruner import PruningCallback
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
model.compile("sgd", "mse")
def stop(epoch, logs): raise KeyboardInterrupt
try:
    model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0, callbacks=[
        PruningCallback(target_sparsity=0.5, verbose=False),
        keras.callbacks.LambdaCallback(on_epoch_end=stop)])
except KeyboardInterrupt:
    print("optimizer", type(model.optimizer).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"KERAS_BACKEND": BACKEND, "PYTHONPATH": str(ROOT)},
    )
    assert "optimizer SGD" in done.stdout, done.stderr

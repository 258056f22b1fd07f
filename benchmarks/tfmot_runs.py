"""Has `tfmot_accuracy.py` make runs, in the Python that has what it needs."""

import json
import os
import subprocess
import tempfile

import numpy as np


def tfmot_runs(python, task, data, dense_weights, runs, epochs):
    """Yields what tensorflow-model-optimization reached, as dicts.

    Args:
        python: Path of a Python with tensorflow-model-optimization and tf-keras.
        task: Name of the task.
        data: Dict of the arrays `x_train`, `x_test`, `y_train` and `y_test`.
        dense_weights: Dict from seeds to the weights of the dense models.
        runs: List of `(seed, sparsity)`.
        epochs: Epochs of training.

    Raises:
        RuntimeError: If the process fails, with the last line that it wrote.
    """
    arrays = dict(data)
    for seed, weights in dense_weights.items():
        for index, weight in enumerate(weights):
            arrays[f"dense/{seed}/{index}"] = weight
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "start.npz")
        np.savez(path, **arrays)
        script = os.path.join(os.path.dirname(__file__), "tfmot_accuracy.py")
        command = [python, script, task, path, "--epochs", str(epochs)]
        command += [f"--run={seed}:{sparsity}" for seed, sparsity in runs]
        with (
            open(os.path.join(folder, "errors"), "w+") as log,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=log, text=True
            ) as process,
        ):
            for line in process.stdout:
                yield json.loads(line)
            if process.wait():
                log.seek(0)
                raise RuntimeError(" ".join(log.read().strip().splitlines()[-1:]))

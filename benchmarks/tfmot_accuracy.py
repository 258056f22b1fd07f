"""Prunes with tensorflow-model-optimization under the protocol of `accuracy.py`.

`accuracy.py` and `one_shot.py` run it, with a Python that has
tensorflow-model-optimization and tf-keras. It prints one JSON object a line for each
run.
"""

import argparse
import json
import os
import time

os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np  # noqa: E402
import tensorflow_model_optimization as tfmot  # noqa: E402
import tf_keras as keras  # noqa: E402
from data import FREQUENCY, TASKS, end_step  # noqa: E402
from one_shot_networks import TRAINED  # noqa: E402

TASKS = TASKS | TRAINED


def prune(task, start, seed, sparsity, epochs):
    """Prunes the seed's dense model, uniformly by magnitude.

    Args:
        task: `Task`.
        start: Dict of arrays: the data and the dense weights.
        seed: Seed of the dense weights and of shuffling.
        sparsity: Target of every kernel.
        epochs: Epochs to train.

    Returns:
        Tuple of the test accuracy and the final weights.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = task.build(keras)
    weights = [start[f"dense/{seed}/{index}"] for index in range(len(model.weights))]
    model.set_weights(weights)
    steps = epochs * len(start["x_train"]) // task.batch_size
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=sparsity,
        begin_step=0,
        end_step=end_step(steps),
        frequency=FREQUENCY,
    )

    def wrap(layer):
        if not any("kernel" in weight.name for weight in layer.weights):
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, schedule)

    pruned = keras.models.clone_model(model, clone_function=wrap)
    pruned.compile(
        keras.optimizers.Adam(task.learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    pruned.fit(
        start["x_train"],
        start["y_train"],
        batch_size=task.batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
    )
    logits = pruned.predict(start["x_test"], batch_size=1000, verbose=0)
    accuracy = float((logits.argmax(axis=-1) == start["y_test"]).mean())
    return accuracy, tfmot.sparsity.keras.strip_pruning(pruned).get_weights()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("start", help=".npz file of data and dense weights")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--run", nargs="+", action="extend", metavar="SEED:SPARSITY")
    options = parser.parse_args()
    start = dict(np.load(options.start))
    for run in options.run:
        seed, sparsity = int(run.split(":")[0]), float(run.split(":")[1])
        begin = time.perf_counter()
        accuracy, weights = prune(
            TASKS[options.task], start, seed, sparsity, options.epochs
        )
        row = {
            "seed": seed,
            "sparsity": sparsity,
            "accuracy": accuracy,
            "nonzeros": [int(np.count_nonzero(weight)) for weight in weights],
            "seconds": time.perf_counter() - begin,
            "versions": {"tfmot": tfmot.__version__, "tf-keras": keras.__version__},
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

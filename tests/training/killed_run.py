"""A training run for `test_kill.py`, which kills it and starts it again.

python killed_run.py FOLDER
"""

import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

from keras_pruner import BackupAndResume, PruningCallback

EPOCHS, BATCHES, BATCH = 4, 12, 8


class Shuffled(keras.utils.PyDataset):
    """Noise, in another order in each epoch."""

    def __init__(self):
        super().__init__()
        generator = np.random.default_rng(0)
        self.x = generator.random((BATCHES * BATCH, 16)).astype("float32")
        self.y = generator.integers(0, 3, BATCHES * BATCH)
        self.order = np.arange(len(self.x))

    def __len__(self):
        return BATCHES

    def __getitem__(self, index):
        part = self.order[index * BATCH : (index + 1) * BATCH]
        return self.x[part], self.y[part]

    def on_epoch_begin(self):
        self.order = np.random.permutation(len(self.x))


class Tick(keras.callbacks.Callback):
    """Writes a byte to a file after each batch."""

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_train_batch_end(self, batch, logs=None):
        with open(self.path, "ab") as file:
            file.write(b".")


def main(folder):
    keras.utils.set_random_seed(7)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(16, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(3, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.Adam(1e-2, gradient_accumulation_steps=3)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    pruning = PruningCallback(
        target_sparsity=0.8, criterion="snip_momentum", verbose=False
    )
    callbacks = [
        pruning,
        BackupAndResume(folder / "backup", save_freq=2),
        Tick(folder / "ticks"),
    ]
    model.fit(Shuffled(), epochs=EPOCHS, verbose=0, callbacks=callbacks)
    values = [*model.variables, *model.optimizer.variables]
    for pruner in pruning.pruners:
        values += pruner.mask_variables.values()
        for states in pruner.state_variables.values():
            values += states.values()
    arrays = [keras.ops.convert_to_numpy(value) for value in values]
    np.savez(folder / "end.npz", *arrays, step=pruning.pruners[0].global_step)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))

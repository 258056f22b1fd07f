"""Masks and training steps of PQuantML, for `speed.py`.

`speed.py` runs it, with a Python that has pquant-ml, Keras 3 and TensorFlow:
`pquant_speed.py update ROWS COLUMNS ROUNDS` or `pquant_speed.py step JIT ROUNDS`, where
JIT is `jit` or `no-jit`. It prints a row of the table as JSON. The method is PDP,
PQuantML's pruning by magnitude, without quantization. It makes its masks anew in each
step: there is no frequency to choose.
"""

import os
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from peers import in_turns, print_row
from pquant import add_compression_layers, pdp_config
from pquant.core.keras.pruning_methods.pdp import PDP


def config():
    made = pdp_config()
    made.quantization_parameters.enable_quantization = False
    made.pruning_parameters.sparsity = 0.9
    # The whole sparsity at once, as in the end of a run.
    made.pruning_parameters.epsilon = 1.0
    return made


def begin_to_prune(layer):
    """Ends the time before pruning, and begins the first epoch of it."""
    layer.post_pre_train_function()
    layer.pre_epoch_function(0, 100)


def update(rows, columns, rounds):
    """Returns the seconds of masks, and of `W * mask`, of as many rounds."""
    value = np.random.default_rng(0).standard_normal((rows, columns), "float32")
    weight, mask = tf.constant(value), tf.constant(value > 0)
    method = PDP(config(), "linear")
    method.build((rows, columns))
    begin_to_prune(method)

    def compiled(function):
        return tf.function(function, jit_compile=True, autograph=False)

    masked = compiled(lambda: method(weight))
    limit = compiled(lambda: tf.where(mask, weight, 0.0))
    return in_turns(lambda: masked().numpy(), lambda: limit()[0, 0].numpy(), rounds)


def step(jit_compile, rounds):
    """Returns the seconds of ten steps of the MLP of `speed.py`, pruned and dense."""
    layers = keras.layers
    dense = keras.Sequential([layers.Input((784,))])
    for units in (1024, 1024):
        dense.add(layers.Dense(units, activation="relu"))
    dense.add(layers.Dense(10))
    pruned = add_compression_layers(dense, config(), (None, 784))
    for layer in pruned.layers:
        if hasattr(layer, "pre_epoch_function"):
            begin_to_prune(layer)
    generator = np.random.default_rng(0)
    x = generator.random((1280, 784), "float32")
    y = generator.integers(0, 10, len(x))
    for model in (pruned, dense):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-5), loss, jit_compile=jit_compile)

    def train(model):
        model.fit(x, y, batch_size=128, verbose=0)

    return in_turns(lambda: train(pruned), lambda: train(dense), rounds)


def main():
    what, *numbers = sys.argv[1:]
    if what == "update":
        print_row(*update(*map(int, numbers)))
    else:
        print_row(*step(numbers[0] == "jit", int(numbers[1])), parts=10)


if __name__ == "__main__":
    main()

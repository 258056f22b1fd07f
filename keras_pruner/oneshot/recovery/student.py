"""Trains a model towards given outputs, with its zeros locked."""

import keras
from keras import ops

from keras_pruner.backend import all_layers, on_devices_of
from keras_pruner.kernels import find_kernels
from keras_pruner.training import PruningOptimizer


class Student(keras.Model):
    """Runs a model as in inference, and trains it by `fit` towards given outputs.

    It is compiled with Adam in a `PruningOptimizer`, whose masks are the zeros of the
    model's kernels. So the optimizer of the model itself is not used.

    Args:
        model: Built Keras model.
        losses: List of functions from the expected and the model's output, for each of
            its `float_outputs`, to a scalar.
        learning_rate: Learning rate of the first step; it falls by half a cosine.
        steps: Number of steps in which it falls to zero.
    """

    def __init__(self, model, losses, learning_rate, steps):
        super().__init__(dtype="float32", autocast=False, name="student")
        self.model = model
        self._measures = losses
        self.built = True
        rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
        with on_devices_of(model.trainable_variables[0]):
            adam = keras.optimizers.Adam(rate)
            if any(part.compute_dtype == "float16" for part in all_layers(model)):
                adam = keras.optimizers.LossScaleOptimizer(adam)
            self.compile(optimizer=_with_zeros_locked(adam, model))

    def call(self, x):
        return self.model(x, training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, *args, **kwargs):
        # Penalties of the layers are left out: outputs are all that counts.
        triples = zip(self._measures, y, float_outputs(y_pred), strict=True)
        return sum(measure(expected, found) for measure, expected, found in triples)


def float_outputs(outputs):
    """Returns the outputs of a model that are real numbers, flat, in float32."""
    leaves = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
    return [
        ops.cast(leaf, "float32")
        for leaf in map(ops.convert_to_tensor, leaves)
        if "float" in keras.backend.standardize_dtype(leaf.dtype) and len(leaf.shape)
    ]


def _with_zeros_locked(optimizer, model):
    """Wraps an optimizer so that the zeros of a model's kernels stay."""
    variables = model.trainable_variables
    numbers = {id(variable): number for number, variable in enumerate(variables)}
    locked = {}
    for kernel in find_kernels(model, embeddings=True).kernels:
        mask = ops.convert_to_tensor(kernel.variable) != 0
        if id(kernel.variable) in numbers and not ops.all(mask):
            locked[numbers[id(kernel.variable)]] = mask
    wrapped = PruningOptimizer(optimizer, masked_variables=locked)
    wrapped.build(variables)
    for number, mask in locked.items():
        wrapped.masks[number].assign(mask)
    return wrapped

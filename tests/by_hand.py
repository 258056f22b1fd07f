"""Two linear layers, trained by NumPy as `docs/design.md` says that a step goes.

The model is X A B with a mean squared error, whose gradients are a line of NumPy.
"""

import keras
import numpy as np
from conftest import set_kernel
from keras import layers, optimizers

from keras_pruner import PrunedLayer

BATCH, RATE, MOMENTUM = 4, 0.1, 0.5
NAMES = ("a/kernel", "b/kernel")


def samples(batches=12):
    """Inputs and targets of some batches."""
    generator = np.random.default_rng(7)
    x = generator.normal(size=(BATCH * batches, 6)).astype("float32")
    return x, generator.normal(size=(BATCH * batches, 3)).astype("float32")


def initial():
    generator = np.random.default_rng(8)
    return [generator.normal(size=shape) for shape in ((6, 5), (5, 3))]


def build(optimizer=None, wrapped=False, **compile_arguments):
    parts = [layers.Dense(n, use_bias=False, name=m) for n, m in ((5, "a"), (3, "b"))]
    outer = [PrunedLayer(part) if wrapped else part for part in parts]
    model = keras.Sequential([layers.Input((6,)), *outer])
    for part, value in zip(parts, initial(), strict=True):
        set_kernel(part, value)
    model.compile(optimizer or sgd(), "mse", **compile_arguments)
    return model


def sgd(**kwargs):
    return optimizers.SGD(RATE, momentum=MOMENTUM, **kwargs)


def fit(model, x, y, *callbacks):
    model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=callbacks)


def lowest(scores, share):
    """Marks the given share of the lowest scores."""
    marks = np.zeros(scores.size, bool)
    marks[np.argsort(scores.ravel(), kind="stable")[: round(share * scores.size)]] = 1
    return marks.reshape(scores.shape)


class ByHand:
    """Trains X A B in float64, as the docs say that a pruned step goes."""

    def __init__(self):
        self.weights = initial()
        self.masks = [np.ones(w.shape, bool) for w in self.weights]
        self.momenta = [np.zeros(w.shape) for w in self.weights]
        self.memories = [np.zeros(w.shape) for w in self.weights]

    def gradients(self, x, y):
        a, b = self.weights
        error = 2 * (x @ a @ b - y) / y.size
        return [x.T @ error @ b.T, (x @ a).T @ error]

    def masked(self, gradients):
        return [g * m for g, m in zip(gradients, self.masks, strict=True)]

    def step(self, gradients, masked=None, clip=None):
        """Takes a step of SGD with momentum.

        The memory is that of a criterion which remembers gradients, and the weights
        that they were made at, the latest most.

        Args:
            gradients: True gradients of both kernels.
            masked: Those that the optimizer gets, if made by other masks.
            clip: Function from these to what is left of them.
        """
        masked = self.masked(gradients) if masked is None else masked
        for i, gradient in enumerate(gradients):
            seen = (1 + self.weights[i]) * gradient
            self.memories[i] = 0.5 * self.memories[i] + seen
        for i, gradient in enumerate(clip(masked) if clip else masked):
            self.momenta[i] = MOMENTUM * self.momenta[i] - RATE * gradient
            self.weights[i] = (self.weights[i] + self.momenta[i]) * self.masks[i]

    def prune(self, scores, share):
        self.masks = [~lowest(score, share) for score in scores]
        self.weights = [w * m for w, m in zip(self.weights, self.masks, strict=True)]


def mean(parts):
    """The mean of lists of gradients."""
    return [sum(gradients) / len(parts) for gradients in zip(*parts, strict=True)]

"""What a collector gives, in NumPy."""

import numpy as np
from conftest import value_of
from keras import ops

from keras_pruner.kernels import find_kernels
from keras_pruner.oneshot.inputs import InputCollector


def collect(model, x, kernels=None, **kwargs):
    """Returns a dict from the path of each kernel to its `(values, columns)` pairs."""
    settings = {k: kwargs.pop(k) for k in ("max_rows", "seed") if k in kwargs}
    if kernels is None:
        kernels = find_kernels(model, embeddings=True).kernels
    collector = InputCollector(model, kernels, **settings)
    found = {}

    def on_rows(kernel, rows):
        found[kernel.path] = [(value_of(values), columns) for values, columns in rows]

    collector.collect(x, on_rows, **kwargs)
    return found


def matrix_of(kernel):
    return ops.convert_to_numpy(kernel.layout.to_matrix(kernel.variable))


def product(kernel, parts):
    """Returns what the kernel computes of its rows, (n, N)."""
    matrix = matrix_of(kernel)
    outputs = np.full((parts[0][0].shape[1], matrix.shape[1]), np.nan, "float32")
    for values, columns in parts:
        for rows, own in zip(values, columns, strict=True):
            outputs[:, own] = rows @ matrix[:, own]
    return outputs


def randomize(model):
    """Gives every weight values that are neither 0 nor 1."""
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        variable.assign(0.5 * generator.normal(size=variable.shape))

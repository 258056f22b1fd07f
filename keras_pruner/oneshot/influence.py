"""Measures how much the outputs of a model depend on the outputs of its kernels."""

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_pruner.backend import derivative
from keras_pruner.pytorch import OneShotModule

# Passes backward, over as many batches as there are. A pass sees all rows of a kernel,
# so a few are enough.
NUM_PASSES = 8
# Probabilities are this far from 0 and 1 at least.
_LEAST_SHARE = 1e-7
# No output counts less than this share of the root mean square: its derivatives may be
# larger on other samples.
_LEAST = 0.03


def output_weights(model, kernels, batches, outputs, seed=0, on_pass=lambda: None):
    """Returns how much each output of some kernels shall count.

    The influence of output j of a kernel W (K, N) is the root of the mean over passes
    of `sum_i (d(r' f) / dW_ij)^2`. f are the real outputs of the model on a batch, each
    tensor divided by its standard deviation over samples, and r has a random sign for
    each of their numbers. The signs let the squares of all samples and outputs add up
    in one pass backward. Probabilities, i.e. outputs between 0 and 1, count by their
    log-odds, because they hardly change where the model is sure.

    The weight is the root of the influence, divided by its root mean square and at
    least 0.03. So it is halfway between the error of the kernel's outputs, where all
    count equally, and its effect on the model's outputs to the first order.

    Args:
        model: Built Keras model, or `OneShotModule`. It does not change.
        kernels: List of its `Kernel`s.
        batches: List of batches of inputs, all of one shape.
        outputs: List of the real outputs of the model on the first batch, as arrays.
        seed: Integer that decides the signs.
        on_pass: Function called after each pass, e.g. to move a progress bar.

    Returns:
        Dict from a kernel to a float32 tensor (N,). It lacks kernels on which no output
        depends, and those whose derivatives are not finite. It is empty if the model
        has no derivatives; then a warning says why.

    References:
        [Optimizing Neural Networks with Kronecker-factored Approximate Curvature,
        Martens and Grosse, 2015](https://arxiv.org/abs/1503.05671), whose second factor
        has about the squared influences on its diagonal.
    """
    sums = [0.0] * len(kernels)
    are_shares = [bool(((x >= 0) & (x <= 1)).all()) for x in outputs]
    scales = list(map(_scale_of, outputs, are_shares))
    for number in range(NUM_PASSES if outputs else 0):
        rng = np.random.default_rng((seed, number))
        signs = [
            np.float32(scale) * np.float32(2 * rng.integers(0, 2, array.shape) - 1)
            for array, scale in zip(outputs, scales, strict=True)
        ]
        batch = batches[number % len(batches)]
        try:
            squares = _squared_derivatives(model, kernels, batch, signs, are_shares)
        except Exception as error:
            # What has no derivative raises an error of the backend's own choice.
            logging.warning(
                "prune_one_shot: all outputs of a kernel count equally, because the "
                "model has no derivatives: %s: %s", type(error).__name__, error,
            )  # fmt: skip
            return {}
        sums = [total + own for total, own in zip(sums, squares, strict=True)]
        on_pass()
    weights = map(_weights_of, sums)
    return {k: w for k, w in zip(kernels, weights, strict=True) if w is not None}


def is_real(output):
    """Returns whether an output of a model holds real numbers."""
    dtype = getattr(output, "dtype", None)
    return dtype is not None and "float" in keras.backend.standardize_dtype(dtype)


def _scale_of(output, are_shares):
    """Returns what an output is multiplied by."""
    output = ops.convert_to_numpy(_log_odds(output, are_shares))
    variance = float(np.mean(np.var(output, axis=0, dtype="float64")))
    return variance**-0.5 if 0 < variance < np.inf else 1.0


def _weights_of(squares):
    """Returns the weights (N,) of influences that are given squared, or `None`."""
    mean = np.mean(squares)
    if not 0 < mean < np.inf:
        return None
    weights = np.sqrt(np.maximum(np.sqrt(squares / mean), _LEAST))
    return ops.convert_to_tensor(weights, dtype="float32")


def _squared_derivatives(model, kernels, batch, signs, are_shares):
    """Returns the squares of `_derivatives`, summed over K, as float64 arrays (N,)."""
    sums = []
    found = _derivatives(model, kernels, batch, signs, are_shares)
    for kernel, value in zip(kernels, found, strict=True):
        value = ops.cast(ops.stop_gradient(value), "float32")
        squares = ops.sum(ops.square(kernel.layout.to_matrix(value)), axis=0)
        sums.append(ops.convert_to_numpy(squares).astype("float64"))
    return sums


def _derivatives(model, kernels, batch, signs, are_shares):
    """Returns the derivatives of `sum(signs * outputs)` by kernels."""
    variables = [kernel.variable for kernel in kernels]
    if isinstance(model, OneShotModule):
        return model.derivatives(variables, batch, signs, are_shares, _LEAST_SHARE)
    inputs = keras.tree.map_structure(ops.convert_to_tensor, batch)
    signs = list(map(ops.convert_to_tensor, signs))

    def projection(values):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            outputs = keras.tree.flatten(model(inputs, training=False))
        real = [ops.cast(x, "float32") for x in outputs if is_real(x)]
        real = map(_log_odds, real, are_shares)
        return sum(ops.sum(x * sign) for x, sign in zip(real, signs, strict=True))

    return derivative(projection)(list(map(ops.convert_to_tensor, variables)))


def _log_odds(x, are_shares):
    """Returns the log-odds of probabilities, and other numbers as they are."""
    if not are_shares:
        return x
    share = ops.clip(x, _LEAST_SHARE, 1 - _LEAST_SHARE)
    return ops.log(share) - ops.log1p(-share)

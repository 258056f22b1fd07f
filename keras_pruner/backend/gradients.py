"""Derivatives, and contexts in which they are or are not recorded."""

import contextlib
import functools

import keras


def no_gradients():
    """Context in which the backend records no gradients."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


def derivative(function):
    """Returns the function that gives the derivatives of a scalar function.

    Derivatives can be taken of what it returns, too.

    Args:
        function: Function from a list of float tensors to a scalar tensor.

    Returns:
        Function from the list of tensors to the list of derivatives; zeros where the
        scalar does not depend on a tensor.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return functools.partial(_derive_by_tape, function)
    if backend == "jax":
        import jax

        return lambda values: jax.grad(function)(list(values))
    return functools.partial(_derive_by_autograd, function)


def _derive_by_tape(function, values):
    import tensorflow as tf

    values = [tf.convert_to_tensor(value) for value in values]
    with tf.GradientTape() as tape:
        tape.watch(values)
        result = function(values)
    zero = tf.UnconnectedGradients.ZERO
    found = tape.gradient(result, values, unconnected_gradients=zero)
    return [tf.convert_to_tensor(derivative) for derivative in found]


def _derive_by_autograd(function, values):
    import torch

    with torch.enable_grad():
        values = [v if v.requires_grad else v.clone().requires_grad_() for v in values]
        result = function(values)
        # Kept as a graph, since the derivatives may be derived again.
        found = torch.autograd.grad(
            result, values, create_graph=True, allow_unused=True
        )
    return [
        torch.zeros_like(value) if derivative is None else derivative
        for value, derivative in zip(values, found, strict=True)
    ]


def double_precision():
    """Context in which the backend computes in float64 where it is asked to."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.enable_x64(True)
    return contextlib.nullcontext()

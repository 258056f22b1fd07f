"""Differentiates functions, and controls how the backend records gradients."""

import contextlib
import functools

import keras


def no_gradients():
    """Returns a context in which the backend records no gradients."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()


def derivative(function):
    """Returns the function that computes the derivatives of a scalar function.

    You can differentiate its results again.

    Args:
        function: Function from a list of float tensors to a scalar tensor.

    Returns:
        Function from the list of tensors to the list of derivatives. A derivative is
        zero if the scalar does not depend on the tensor.
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
        # Keeps the graph, because the caller may differentiate again.
        found = torch.autograd.grad(
            result, values, create_graph=True, allow_unused=True
        )
    return [
        torch.zeros_like(value) if derivative is None else derivative
        for value, derivative in zip(values, found, strict=True)
    ]


def double_precision():
    """Returns a context in which the backend computes in float64 on request."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.enable_x64(True)
    return contextlib.nullcontext()

"""The one place that knows a backend: how a function of `keras.ops` is compiled."""

import contextlib
import functools

import keras


class CompiledFunction:
    """A function of tensors, compiled by the backend in use.

    TensorFlow compiles it by XLA as `tf.function(jit_compile=True)`, JAX under
    `jax.jit`; torch runs it as it is, without gradients.

    Args:
        function: Function from (nested lists of) tensors to the same. It must be pure.
        eager: Whether to run it without compiling, e.g. to find a mistake.
    """

    def __init__(self, function, *, eager=False):
        self.function = function
        self.trace_count = 0

        @functools.wraps(function)
        def traced(*arguments):
            self.trace_count += 1
            return function(*arguments)

        self._call = traced if eager else _compile(traced)

    def __call__(self, *arguments):
        with no_gradients():
            return self._call(*arguments)

    def __repr__(self):
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"<CompiledFunction {name}, traced {self.trace_count} times>"


def _compile(function):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return _ConcreteFunctions(
            tf.function(function, jit_compile=True, autograph=False)
        )
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


class _ConcreteFunctions:
    """Calls a `tf.function` through one concrete function per signature.

    The function itself would warn of frequent retracing when many models are pruned
    in one process, though each is traced once.
    """

    def __init__(self, function):
        self.function = function
        self.concrete = {}

    def __call__(self, *arguments):
        # Variables become tensors, else a trace would hold on to the variable.
        arguments = keras.tree.map_structure(keras.ops.copy, arguments)
        signature = tuple(
            (tuple(tensor.shape), tensor.dtype)
            for tensor in keras.tree.flatten(arguments)
        )
        if signature not in self.concrete:
            self.concrete[signature] = self.function.get_concrete_function(*arguments)
        return self.concrete[signature](*arguments)


def no_gradients():
    """Context in which the backend records no gradients."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    return contextlib.nullcontext()

"""Runs models by the backend of Keras."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import keras

from keras_pruner.backend import compiled_forward, threads_of_backend
from keras_pruner.reporting.engines.base import Engine, register_engine


class _Backend(Engine):
    """Runs the model itself, by Keras' current backend."""

    backend: str | None = None
    use_xla = False

    def problem(self) -> str | None:
        current = keras.backend.backend()
        if current == self.backend:
            return None
        return (
            f"Keras runs on {current}. Set KERAS_BACKEND={self.backend} before Keras "
            "is imported."
        )

    def load(
        self, model: keras.Model, inputs: Any, num_threads: int
    ) -> Callable[[], Any]:
        return compiled_forward(model, inputs, use_xla=self.use_xla)


@register_engine("tensorflow")
class TensorFlow(_Backend):
    """Compiles the model with `tf.function`, without XLA."""

    backend = "tensorflow"


@register_engine("tensorflow_xla")
class TensorFlowXla(TensorFlow):
    """Compiles the model with XLA, as Keras' `predict` does on TensorFlow."""

    by_default = False
    use_xla = True


@register_engine("jax")
class Jax(_Backend):
    """Compiles the model with `jax.jit`."""

    backend = "jax"


@register_engine("torch")
class Torch(_Backend):
    """Runs the model eagerly, without gradients."""

    backend = "torch"
    takes_threads = True

    def running(self, num_threads: int) -> AbstractContextManager[Any]:
        return threads_of_backend(num_threads)

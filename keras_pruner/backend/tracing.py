"""Knows how a backend traces Python code, and how it saves Python objects."""

import contextlib
import contextvars
import weakref

import keras

_UNFUSED = contextvars.ContextVar("unfused", default=False)


def is_tracing():
    """Returns whether Python runs only once, to compile a function.

    It is true inside a `tf.function` and a `jax.jit`. `torch.compile` is no such case:
    it runs code that it cannot compile as Python.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.inside_function()
    if backend == "jax":
        import jax

        return isinstance(jax.numpy.add(0, 0), jax.core.Tracer)
    return False


def fuses_loops():
    """Returns whether a compiler may fuse operations into one loop.

    If none does, few operations on whole tensors are faster than many on their parts.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return is_tracing() and not _UNFUSED.get()
    return backend == "jax"


@contextlib.contextmanager
def unfused():
    """Context of a trace whose operations run one by one."""
    token = _UNFUSED.set(True)
    try:
        yield
    finally:
        _UNFUSED.reset(token)


def run_as_python():
    """Returns a context in which branches run as Python does, without compiling them.

    Outside of compiled code JAX would compile each branch whenever it meets it.
    """
    if keras.backend.backend() == "jax":
        import jax

        return jax.disable_jit()
    return contextlib.nullcontext()


def traces_assignments():
    """Returns whether a traced function may read and assign variables."""
    return keras.backend.backend() == "tensorflow"


def checkpointed_base():
    """Returns a base class for objects that save themselves as bytes.

    `tf.train.Checkpoint` saves and restores them by `serialize` and `deserialize`.
    """
    if keras.backend.backend() != "tensorflow":
        return object
    import tensorflow as tf

    return tf.train.experimental.PythonState


def reference_to_value(variable):
    """Returns a weak reference to a variable's value, or `None`.

    JAX replaces the value at every assignment. Other backends change it in place, so
    a reference would tell nothing.
    """
    if keras.backend.backend() != "jax":
        return None
    return weakref.ref(variable.value)


def snapshot_of(variable):
    """Returns a variable's value as a tensor that later assignments do not change."""
    value = keras.ops.convert_to_tensor(variable)
    if keras.backend.backend() == "torch":
        return value.detach().clone()
    return value


def applies_stateless():
    """Returns whether Keras' optimizers have `stateless_apply` on the backend."""
    return keras.backend.backend() != "tensorflow"

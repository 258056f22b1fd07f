"""Compiles and calls functions of tensors with the current backend."""

import functools

import keras

from keras_pruner.backend.gradients import no_gradients


class CompiledFunction:
    """Compiles a function of tensors with the current backend.

    TensorFlow uses `tf.function(jit_compile=True)` and JAX uses `jax.jit`. torch runs
    the function eagerly, without gradients.

    Args:
        function: Pure function from (nested lists of) tensors to the same.
        eager: Whether to run the function without compiling, e.g. to debug it.
        use_xla: Whether TensorFlow compiles with XLA. XLA does not support every
            operation that a user's model may contain.
    """

    def __init__(self, function, *, eager=False, use_xla=True):
        self.function = function
        self.trace_count = 0

        def traced(*arguments):
            self.trace_count += 1
            return function(*arguments)

        self._call = traced if eager else _compile(traced, use_xla)

    def __call__(self, *arguments):
        with no_gradients():
            return self._call(*arguments)

    def __repr__(self):
        name = getattr(self.function, "__qualname__", repr(self.function))
        return f"<CompiledFunction {name}, traced {self.trace_count} times>"


class CompiledUpdate:
    """Compiles a function that updates variables.

    On TensorFlow the compiled function also reads and assigns the variables. This
    saves two calls per variable.

    Args:
        function: Pure function `(values, *arguments) -> (new_values, result)`.
            `values` is a list with one tensor per variable.
        variables: List of `keras.Variable`s.
    """

    def __init__(self, function, variables):
        self.variables = variables
        if all(map(_is_plain_tensorflow, variables)):
            self._compiled = self._call = CompiledFunction(self._renewing(function))
        else:
            self._compiled = CompiledFunction(function)
            self._call = self._renewing(self._compiled)

    def _renewing(self, function):
        """Wraps a function so that it reads the variables, then assigns them."""

        def renew(*arguments):
            values = list(map(keras.ops.convert_to_tensor, self.variables))
            new_values, result = function(values, *arguments)
            for variable, value in zip(self.variables, new_values, strict=True):
                variable.assign(value)
            return result

        return renew

    def __call__(self, *arguments):
        return self._call(*arguments)

    @property
    def trace_count(self):
        return self._compiled.trace_count


def _is_plain_tensorflow(variable):
    """Returns whether a variable is a TensorFlow variable without replicas."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not isinstance(variable.value, tf.distribute.DistributedValues)


class FunctionCache:
    """Calls pure functions of tensors and compiles each once for all equal calls.

    Two calls are equal if they agree in the function, its other inputs, and the shapes
    and dtypes of the tensors. So kernels of one shape share compiled code. All caches
    of a process share functions that depend on tensors alone.

    Args:
        compile: Function that compiles a function; `CompiledFunction` by default.
    """

    _of_process = {}  # noqa: RUF012
    # Whether the caller may read the values of returned tensors.
    sees_numbers = True

    def __init__(self, compile=CompiledFunction):
        self._compile = compile
        self._functions = {}

    def __call__(self, function, *arguments, about=None, **settings):
        """Calls a function.

        Args:
            function: Pure function, called as `function(*arguments, **settings)`, or
                as `function(about, *arguments, **settings)`.
            *arguments: (Nested lists of) tensors.
            about: Object with a hashable `signature` of all that the function reads
                from it. The first call may change the signature by reading more.
            **settings: Further hashable arguments.
        """
        static = (function, tuple(sorted(settings.items())), _signature(arguments))
        cached = self._functions.get((static, _signature_of(about)))
        if cached is not None:
            return cached(*arguments)
        if about is None:
            made = self._of_process.get((self._compile, static))
            if made is None:
                made = self._compile(functools.partial(function, **settings))
                self._of_process[self._compile, static] = made
            self._functions[static, None] = made
            return made(*arguments)
        made = self._compile(functools.partial(function, about, **settings))
        result = made(*arguments)
        self._functions[static, about.signature] = made
        return result

    def repeat(self, condition, body, state):
        """Calls `state = body(*state)` while `condition(*state)` is true.

        Args:
            condition: Function from the state to a bool tensor ().
            body: Function from the state to the new state, which calls this cache.
            state: Tuple of (nested) tensors.
        """
        return _repeat_by_host(condition, body, state)

    def __len__(self):
        return len(self._functions)

    @property
    def trace_count(self):
        """Number of traces of all functions; one each, unless one was retraced."""
        return sum(made.trace_count for made in self._functions.values())


def _signature_of(about):
    return None if about is None else about.signature


class _DirectCalls:
    """Calls functions as `FunctionCache` does, without compiling them.

    Args:
        repeat: Replaces `FunctionCache.repeat`.
        sees_numbers: Replaces `FunctionCache.sees_numbers`.
    """

    def __init__(self, repeat, sees_numbers):
        self.repeat = repeat
        self.sees_numbers = sees_numbers

    def __call__(self, function, *arguments, about=None, **settings):
        leading = () if about is None else (about,)
        return function(*leading, *arguments, **settings)


def _repeat_by_host(condition, body, state):
    while keras.ops.convert_to_numpy(condition(*state)):
        state = body(*state)
    return state


call_directly = _DirectCalls(_repeat_by_host, sees_numbers=True)


# Serves callers that are compiled as a whole.
call_in_trace = _DirectCalls(keras.ops.while_loop, sees_numbers=False)


def _signature(arguments):
    """Returns the structure, shapes and dtypes of arguments, as a hashable."""
    flat = keras.tree.flatten_with_path(arguments)
    return tuple((path, tuple(leaf.shape), str(leaf.dtype)) for path, leaf in flat)


def _compile(function, use_xla):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return _ConcreteFunctions(
            tf.function(function, jit_compile=use_xla, autograph=False)
        )
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


class _ConcreteFunctions:
    """Calls a `tf.function` through one concrete function per signature.

    A direct call would warn about frequent retracing if one process prunes many
    models, although TensorFlow traces each once.
    """

    def __init__(self, function):
        self.function = function
        self.concrete = {}

    def __call__(self, *arguments):
        arguments = keras.tree.map_structure(_as_tensor, arguments)
        signature = _signature(arguments)
        if signature not in self.concrete:
            self.concrete[signature] = self.function.get_concrete_function(*arguments)
        return self.concrete[signature](*arguments)


def _as_tensor(value):
    import tensorflow as tf

    # Copies variables, because a trace would keep a reference to them.
    return value if isinstance(value, tf.Tensor) else keras.ops.copy(value)

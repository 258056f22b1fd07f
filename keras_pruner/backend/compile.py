"""The one place that knows a backend: how functions are compiled and steps shared."""

import functools

import keras

from keras_pruner.backend.gradients import no_gradients


class CompiledFunction:
    """A function of tensors, compiled by the backend in use.

    TensorFlow compiles it by XLA as `tf.function(jit_compile=True)`, JAX under
    `jax.jit`; torch runs it as it is, without gradients.

    Args:
        function: Function from (nested lists of) tensors to the same. It must be pure.
        eager: Whether to run it without compiling, e.g. to find a mistake.
        use_xla: Whether TensorFlow compiles it by XLA, which does not know all
            operations that a user's model may have.
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
    """A compiled function that makes new values of variables of their old ones.

    On TensorFlow the variables are read and assigned inside of what is compiled, which
    saves two calls for each.

    Args:
        function: Pure function `(values, *arguments) -> (new_values, result)`; values
            are a list of tensors, one of each variable.
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
        """Returns a function that reads and assigns the variables around another."""

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
    """Whether a variable is one of TensorFlow, and not of several devices."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not isinstance(variable.value, tf.distribute.DistributedValues)


class FunctionCache:
    """Calls pure functions of tensors, each compiled once for all calls that are alike.

    Calls are alike if the function, what it depends on besides tensors, and the shapes
    and dtypes of the tensors are. So kernels of one shape share what is compiled, and
    what depends on tensors alone is shared by all caches of a process.

    Args:
        compile: Makes a function callable; `CompiledFunction` by default.
    """

    _of_process = {}  # noqa: RUF012
    # Whether its caller may look at numbers in what it returns.
    sees_numbers = True

    def __init__(self, compile=CompiledFunction):
        self._compile = compile
        self._functions = {}

    def __call__(self, function, *arguments, about=None, **settings):
        """Calls a function.

        Args:
            function: Pure function, called `function(*arguments, **settings)`; with
                `about` as the first argument, if given.
            *arguments: (Nested lists of) tensors.
            about: Object whose `signature` is hashable and says what the function may
                depend on. It may change in the first call, by what that looks at.
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
            body: Function from the state to the new one, which calls functions here.
            state: Tuple of (nested) tensors.
        """
        return _repeat_by_host(condition, body, state)

    def __len__(self):
        return len(self._functions)

    @property
    def trace_count(self):
        """How often functions were traced: each once, if no call had to be repeated."""
        return sum(made.trace_count for made in self._functions.values())


def _signature_of(about):
    return None if about is None else about.signature


class _DirectCalls:
    """Calls functions as `FunctionCache` does, without compiling them.

    Args:
        repeat: What `FunctionCache.repeat` is here.
        sees_numbers: What `FunctionCache.sees_numbers` is here.
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


# Of a caller that is compiled as a whole.
call_in_trace = _DirectCalls(keras.ops.while_loop, sees_numbers=False)


def _signature(arguments):
    """Returns what tells two calls apart: structure, shapes and dtypes."""
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

    The function itself would warn of frequent retracing when many models are pruned
    in one process, though each is traced once.
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

    # Of a variable a copy, else a trace would hold on to the variable.
    return value if isinstance(value, tf.Tensor) else keras.ops.copy(value)

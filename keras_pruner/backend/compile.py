"""Compiles and calls functions of tensors with the current backend."""

import collections
import contextlib
import functools
import itertools
import math

import keras

from keras_pruner.backend.gradients import no_gradients
from keras_pruner.backend.keras_private import of_session
from keras_pruner.backend.tracing import unfused

# TensorFlow runs a function without XLA if no tensor has more elements. XLA would take
# longer to compile it than most schedules take to run it, and never free the code.
LARGEST_WITHOUT_XLA = 2**22

# The same for a function that runs so often that the code of XLA pays.
LARGEST_WITHOUT_XLA_IF_OFTEN = 2**18

# Number of compiled functions that a Keras session keeps for further pruners.
NUM_SHARED = 256


class CompiledFunction:
    """Compiles a function of tensors with the current backend.

    TensorFlow uses `tf.function`, with `jit_compile=True` if a tensor is large or not
    on a CPU. JAX uses `jax.jit`. torch runs the function eagerly, without gradients.

    Args:
        function: Pure function from (nested lists of) tensors to the same.
        eager: Whether to run the function without compiling, e.g. to debug it.
        use_xla: Whether TensorFlow compiles with XLA. XLA does not support every
            operation that a user's model may contain.
        runs_often: Whether it will run hundreds of times, so that code of XLA pays for
            smaller tensors too.
        variables: List of the `keras.Variable`s that the function reads.
    """

    def __init__(
        self, function, *, eager=False, use_xla=True, runs_often=False, variables=()
    ):
        # A function from `functools.partial` has the name of the one that it calls.
        self.name = getattr(function, "func", function).__qualname__
        self.trace_count = 0

        def traced(*arguments):
            self.trace_count += 1
            return function(*arguments)

        limit = LARGEST_WITHOUT_XLA
        if runs_often:
            limit = min(limit, LARGEST_WITHOUT_XLA_IF_OFTEN)
        self._call = traced
        if not eager:
            self._call = _compile(traced, limit if use_xla else math.inf, variables)

    def __call__(self, *arguments):
        with no_gradients():
            return self._call(*arguments)

    @property
    def is_cheap(self):
        """Whether it takes little time to compile, and memory that is freed with it."""
        return isinstance(self._call, _ConcreteFunctions) and not self._call.uses_xla

    def forget_function(self):
        """Drops the Python function, and all that it refers to, if it is traced.

        Later calls must have arguments of a shape that was traced.

        Returns:
            Whether the function was dropped, which only TensorFlow allows.
        """
        if not isinstance(self._call, _ConcreteFunctions):
            return False
        self._call.function = None
        return True

    def __repr__(self):
        return f"<CompiledFunction {self.name}, traced {self.trace_count} times>"


class CompiledUpdate:
    """Compiles a function that updates variables, and runs often.

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
            self._compiled = self._call = CompiledFunction(
                self._renewing(function), runs_often=True, variables=variables
            )
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
    and dtypes of the tensors. So kernels of one shape share compiled code.

    The caches of one Keras session also share functions: those that depend on tensors
    alone, and on TensorFlow methods of owners with one `signature`. The session keeps
    the latest `NUM_SHARED`, until `keras.backend.clear_session()`. JAX frees the code
    of functions that are dropped. TensorFlow never frees the code that XLA made, and
    frees all of the others, which are not shared.

    Args:
        compile: Function that compiles a function; `CompiledFunction` by default.
        signature: Hashable of all that functions with an `about` read from the object
            that they are methods of. `None` if they may read more.
    """

    # Whether the caller may read the values of returned tensors.
    sees_numbers = True

    def __init__(self, compile=CompiledFunction, signature=None):
        self._compile = compile
        self._signature = signature
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
        static = (tuple(sorted(settings.items())), _signature(arguments))
        made = self._functions.get((function, static, _signature_of(about)))
        if made is not None:
            return made(*arguments)
        of_all = function, None
        if about is not None and self._signature is not None:
            of_all = getattr(function, "__func__", function), self._signature
        shared = of_session("keras_pruner_functions", collections.OrderedDict)
        place = (self._compile, of_all, static)
        made = shared.get((*place, _signature_of(about)))
        if made is None:
            leading = () if about is None else (about,)
            made = self._compile(functools.partial(function, *leading, **settings))
            result = made(*arguments)
            is_shared = not made.is_cheap and (
                about is None
                or (self._signature is not None and made.forget_function())
            )
        else:
            result, is_shared = made(*arguments), True
        if is_shared:
            shared[*place, _signature_of(about)] = made
            shared.move_to_end((*place, _signature_of(about)))
            while len(shared) > NUM_SHARED:
                shared.popitem(last=False)
        self._functions[function, static, _signature_of(about)] = made
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


def _compile(function, largest_without_xla, variables=()):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _ConcreteFunctions(function, largest_without_xla, variables)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


class _ConcreteFunctions:
    """Calls a `tf.function` through one concrete function per signature.

    A direct call would warn about frequent retracing if one process prunes many
    models, although TensorFlow traces each once.
    """

    def __init__(self, function, largest_without_xla, variables):
        self.function = function
        self.largest_without_xla = largest_without_xla
        # Whether a function was compiled with XLA.
        self.uses_xla = False
        self.variables = variables
        self.concrete = {}

    def __call__(self, *arguments):
        arguments = keras.tree.map_structure(_as_tensor, arguments)
        signature = _signature(arguments)
        if signature not in self.concrete:
            self.concrete[signature] = self._trace(arguments)
        return self.concrete[signature](*arguments)

    def _trace(self, arguments):
        import tensorflow as tf

        tensors = [*keras.tree.flatten(arguments), *(v.value for v in self.variables)]
        may_use_xla = self.largest_without_xla != math.inf
        is_small = all(
            math.prod(tensor.shape) <= self.largest_without_xla
            and tensor.device.rpartition(":")[0].endswith("CPU")
            for tensor in tensors
        )
        jit_compile = may_use_xla and not is_small and not _are_ops_watched()
        self.uses_xla |= jit_compile

        def trace():
            function = tf.function(
                self.function, jit_compile=jit_compile, autograph=False
            )
            return function.get_concrete_function(*arguments)

        if not may_use_xla or jit_compile:
            return trace()
        for executor in _EXECUTORS:
            # Loops and branches are traced for the executor of the context.
            with _called_by(executor), unfused():
                concrete = trace()
            if not _calls_functions(concrete.graph):
                break
        return _called_by(executor)(concrete)


def _are_ops_watched():
    """Whether `tf.debugging.enable_check_numerics` is on, which XLA cannot compile."""
    from tensorflow.python.eager import context

    return bool(context.context().op_callbacks)


# Handing tiny operations to other threads takes longer than running them. But the first
# executor calls a branch as a function that needs a further thread, and waits for ever
# if the pool has none. The second one, the default, runs branches as operations.
_EXECUTORS = ("SINGLE_THREADED_EXECUTOR", "")


@contextlib.contextmanager
def _called_by(executor):
    """Lets TensorFlow run functions as traced, by an executor.

    Otherwise it would reorder sums, which then round differently.
    """
    from tensorflow.python.eager import context

    here = context.context()
    before = here.function_call_options
    here.function_call_options = _options(executor)
    try:
        yield
    finally:
        here.function_call_options = before


@functools.cache
def _options(executor):
    from tensorflow.core.protobuf import config_pb2
    from tensorflow.python.eager import context

    config = config_pb2.ConfigProto(allow_soft_placement=True)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    return context.FunctionCallOptions(executor, config)


def _calls_functions(graph):
    """Returns whether operations of a graph, other than loops, call functions."""
    graph = graph.as_graph_def()
    nodes = itertools.chain(graph.node, *(f.node_def for f in graph.library.function))
    return any(
        value.HasField("func") or value.list.func
        for node in nodes
        if node.op not in ("While", "StatelessWhile")
        for value in node.attr.values()
    )


def _as_tensor(value):
    import tensorflow as tf

    # Copies variables, because a trace would keep a reference to them.
    return value if isinstance(value, tf.Tensor) else keras.ops.copy(value)

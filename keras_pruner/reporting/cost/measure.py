"""Measures what a model costs, by itself or beside another one."""

import warnings
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_pruner.backend import inputs_structure_of
from keras_pruner.checks import check_bool, check_in_range
from keras_pruner.comparison import compare_foreign, outputs_of, runnable_inputs
from keras_pruner.kernels import check_built
from keras_pruner.reporting.cost.flops import count_flops
from keras_pruner.reporting.cost.latency import interleave
from keras_pruner.reporting.cost.measurement import Latency, Measurement
from keras_pruner.reporting.cost.sizes import size_of_model
from keras_pruner.reporting.engines import engines_of
from keras_pruner.reporting.engines.base import Engines
from keras_pruner.reporting.progress_bar import progress_bar
from keras_pruner.types import Data


def measure(
    model: keras.Model,
    other: keras.Model | None = None,
    *,
    data: Data = None,
    batch_size: int | Sequence[int] = 1,
    engines: Engines = None,
    num_threads: int = 1,
    rounds: int = 10,
    verbose: bool = False,
) -> Measurement:
    """Measures parameters, FLOPs, bytes and latency of a model, or of two.

    The latency is that of a call on the CPU or on the device of Keras' backend, until
    the outputs are NumPy arrays. Two models take turns, A B B A in every round, so that
    both meet the same machine. Before an engine is timed, its outputs are compared with
    those of the Keras model. An engine that cannot run a model, or returns other
    outputs, is listed with the reason and not timed.

    `measure` uses these engines, and those of `register_engine`:

    - `"tensorflow"`, `"jax"`, `"torch"`: Keras' current backend, with `tf.function`,
      `jax.jit`, or eagerly. `"tensorflow_xla"`, if you name it, compiles with XLA, as
      `predict` does.
    - `"litert"`, `"onnxruntime"`, `"openvino"`: files that `model.export` writes, in
      float32. The extra `keras-pruner[engines]` installs their packages.

    Args:
        model: Built Keras model, which takes one argument: an array, list or dict.
        other: A second model that takes the same inputs, e.g. a pruned one, or `None`.
        data: A batch of inputs of any number of samples, as the model takes it. They
            are repeated to the batch size. By default samples are made from the shapes
            and types that the model says.
        batch_size: Number of samples of a call, or a tuple of several numbers.
        engines: Name or `Engine`, or a list of these. By default all that are
            installed. An empty tuple measures no latency.
        num_threads: Number of threads, for the engines that take one. By default 1,
            because the time of a single thread changes least from run to run. The
            backends TensorFlow and JAX use the threads of their process.
        rounds: Number of rounds.
        verbose: Whether to show a progress bar.

    Returns:
        `Measurement`. It prints as a table and shows as HTML; `verdict` says whether
        the other model is faster.

    Raises:
        TypeError: If a model is no Keras model, or an argument has a wrong type.
        ValueError: If a model is not built, cannot run on the data, or fixes another
            batch size, or if an argument is out of range.
        ImportError: If an engine that you name is not installed.

    Example:

    >>> model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(8)])
    >>> smaller = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4)])
    >>> totals = measure(model, smaller, engines=()).totals()
    >>> totals["model"]["flops"], totals["other"]["flops"], totals["ratio"]["flops"]
    (256, 128, 0.5)
    """
    models = [model] if other is None else [model, other]
    for one in models:
        check_built(one)
    sizes = batch_size if isinstance(batch_size, tuple | list) else (batch_size,)
    sizes = [check_in_range(s, "`batch_size`", 1, integer=True) for s in sizes]
    rounds = check_in_range(rounds, "`rounds`", 1, integer=True)
    num_threads = check_in_range(num_threads, "`num_threads`", 1, integer=True)
    verbose = check_bool(verbose, "`verbose`")
    no_engines = isinstance(engines, tuple | list) and len(engines) == 0
    engines = [] if no_engines else engines_of(engines)
    inputs = _inputs_of(models, data)
    for size in sizes if engines else []:
        _check_batch_size(models, size)
    latencies = []
    with progress_bar(verbose) as progress:
        task = progress.add_task("timing", total=len(engines) * len(sizes) * rounds)
        for engine in engines:
            for size in sizes:
                latencies.append(
                    _time(
                        engine,
                        models,
                        _batch_of(inputs, size),
                        num_threads=num_threads,
                        rounds=rounds,
                        tick=lambda: progress.advance(task),
                    )
                )
    return Measurement(
        [size_of_model(one) for one in models],
        [_flops_of(one, inputs) for one in models],
        latencies,
        rounds,
    )


def _inputs_of(models, data):
    """Returns a batch of inputs, as NumPy arrays, on which all models run."""
    model = models[0]
    if data is None:
        arguments, _, reason = runnable_inputs(model)
        if arguments is None:
            text = reason.replace("`inputs`", "`data`")
            raise ValueError(f"'{model.name}' cannot be measured: {text}")
        args, kwargs = arguments
        if len(args) != 1 or kwargs:
            raise ValueError(
                f"`measure` runs models that take one argument: an array, a list or a "
                f"dict. '{model.name}' takes {', '.join(kwargs) or len(args)}. Wrap it "
                "in a `keras.Model` whose inputs are a dict."
            )
        data = args[0]
    inputs = keras.tree.map_structure(ops.convert_to_numpy, data)
    lengths = {x.shape[0] if x.ndim else 0 for x in keras.tree.flatten(inputs)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "`data` must have at least one sample, and as many in each array. "
            f"Received arrays of {sorted(lengths)} samples."
        )
    for one in models:
        try:
            outputs_of(one, ((inputs,), {}))
        except Exception as error:
            raise ValueError(
                f"'{one.name}' cannot run on the inputs, of the shapes "
                f"{[x.shape for x in keras.tree.flatten(inputs)]}: {error}"
            ) from error
    return inputs


def _check_batch_size(models, size):
    for model in models:
        for leaf in keras.tree.flatten(inputs_structure_of(model)):
            fixed = None if leaf is None else leaf.shape[0]
            if fixed not in (None, size):
                raise ValueError(
                    f"'{model.name}' takes batches of {fixed} samples only. Set "
                    f"`batch_size={fixed}`. Received: {size}"
                )


def _batch_of(inputs, size):
    """Returns a batch of a number of samples, repeated where there are fewer."""
    return keras.tree.map_structure(
        lambda x: np.ascontiguousarray(x[np.arange(size) % len(x)]), inputs
    )


def _flops_of(model, inputs):
    """Returns the `FlopsReport` of one sample, or why it cannot be counted."""
    leaves = keras.tree.flatten(inputs_structure_of(model))
    is_fixed = any(leaf is not None and leaf.shape[0] is not None for leaf in leaves)
    try:
        return count_flops(model, None if is_fixed else _batch_of(inputs, 1))
    except Exception as error:
        return f"cannot be counted: {_short(error)}"


def _time(engine, models, inputs, *, num_threads, rounds, tick):
    """Returns the `Latency` of models on an engine."""
    size = len(keras.tree.flatten(inputs)[0])
    threads = num_threads if engine.takes_threads else None
    runs, differences, reason = [], [], None
    with engine.running(num_threads):
        for name, model in zip(("the model", "the other model"), models, strict=False):
            run, difference, reason = _loaded(engine, model, inputs, num_threads)
            if difference is not None:
                differences.append(difference)
            if reason is not None:
                reason = f"{name} {reason}"
                break
            runs.append(run)
        timings = None if reason else tuple(interleave(runs, rounds, tick))
    difference = max(differences, default=None)
    sizes = [getattr(run, "file_bytes", None) for run in runs]
    sizes = None if reason or None in sizes else tuple(sizes)
    return Latency(engine.name, size, threads, timings, difference, reason, sizes)


def _loaded(engine, model, inputs, num_threads):
    """Loads a model and checks its outputs.

    Returns:
        Tuple of the function that runs it, or `None`; of the relative difference of
        its outputs, or `None`; and of the reason why it cannot be timed, or `None`.
    """
    try:
        # The user knows the model's own warnings.
        with warnings.catch_warnings(action="ignore"):
            run = engine.load(model, inputs, num_threads)
            made = run()
    except Exception as error:
        return None, None, f"does not run on it: {_short(error)}"
    found = compare_foreign(model, ((inputs,), {}), made)
    if found.is_equal:
        return run, found.relative_difference, None
    return (
        None,
        found.relative_difference,
        "has other outputs there: they differ by "
        f"{found.relative_difference:.2g} of the largest, and {found.tolerance:.2g} "
        "may be rounding",
    )


def _short(error):
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"

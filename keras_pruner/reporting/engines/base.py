"""Defines the base class of engines, and their registry."""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras

from keras_pruner.registry import Component, Registry


class Engine(Component):
    """Runs models for inference, so that `measure` can time them.

    Subclasses define `load`; see `litert.py` for a short one.

    Attributes:
        by_default: Whether `measure` uses it unless you name engines.
        takes_threads: Whether it can run with a number of threads. Others use as many
            as their process does.
    """

    by_default = True
    takes_threads = False

    def problem(self) -> str | None:
        """Returns why it cannot run here, and what to install, or `None`."""
        return None

    def load(
        self, model: keras.Model, inputs: Any, num_threads: int
    ) -> Callable[[], Any]:
        """Prepares a model.

        Args:
            model: Built Keras model. It must not change.
            inputs: A batch of inputs as NumPy arrays, nested as the model takes them.
            num_threads: Number of threads to use.

        Returns:
            Function without arguments that computes the outputs on the batch, and
            returns them as a list of NumPy arrays in the order of `keras.tree.flatten`,
            perhaps with states behind them. `measure` times its calls.

        Raises:
            Exception: Any, if the engine does not support the model.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `load`.")

    def running(self, num_threads: int) -> AbstractContextManager[Any]:
        """Returns a context in which its models are loaded and called."""
        return contextlib.nullcontext()


# What functions take as `engines`.
Engines = str | Engine | Sequence[str | Engine] | None

ENGINES = Registry("engine", Engine)


register_engine = ENGINES.register


def engines_of(identifiers=None):
    """Returns a list of engines that can run here.

    Args:
        identifiers: Name or `Engine`, a list of these, or `None` for all engines that
            run by default and are installed.

    Raises:
        ImportError: If an engine is named and cannot run here.
        ValueError: If a name is unknown or given twice, or no engine can run.
    """
    if identifiers is None:
        engines = [engine() for engine in dict.fromkeys(ENGINES.values())]
        return [e for e in engines if e.by_default and e.problem() is None]
    if not isinstance(identifiers, list | tuple):
        identifiers = [identifiers]
    engines = [ENGINES.get(identifier) for identifier in identifiers]
    if not engines or None in engines:
        raise ValueError(
            f"`engines` names at least one of {', '.join(ENGINES)}. "
            f"Received: {identifiers!r}"
        )
    for index, engine in enumerate(engines):
        if engine in engines[:index]:
            raise ValueError(f"Engine '{engine.name}' is given twice in `engines`.")
        problem = engine.problem()
        if problem is not None:
            raise ImportError(f"Engine '{engine.name}' cannot run here: {problem}")
    return engines

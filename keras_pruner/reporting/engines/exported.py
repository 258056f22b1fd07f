"""Exports models to files that other programs run."""

import collections.abc
import contextlib
import dataclasses
import importlib.util
import itertools
import logging
import pathlib
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import keras

from keras_pruner.backend import unchanged_by_export
from keras_pruner.reporting.engines.base import Engine


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """Runs a model from its exported files.

    Args:
        run: Function without arguments; see `Engine.load`.
        file_bytes: Bytes of all files of the export.
    """

    run: collections.abc.Callable
    file_bytes: int

    def __call__(self):
        return self.run()


class ExportedEngine(Engine):
    """Runs a file that `model.export` writes.

    Subclasses define `load_file`.

    Attributes:
        format: The `format` that `model.export` takes.
        suffix: Suffix of the file.
        packages: Dict from a backend to a dict from the modules that the export and the
            run import to the packages that contain them.
    """

    takes_threads = True
    format: str | None = None
    suffix: str | None = None
    packages: dict[str, dict[str, str]] = {}

    def problem(self) -> str | None:
        backend = keras.backend.backend()
        if backend not in self.packages:
            return (
                f"Keras does not export to it on {backend}. Set KERAS_BACKEND to "
                f"{' or '.join(self.packages)}."
            )
        missing = [
            package
            for module, package in self.packages[backend].items()
            if importlib.util.find_spec(module) is None
        ]
        if not missing:
            return None
        return (
            f"a package is missing. Run `pip install {' '.join(missing)}`. The extra "
            "keras-pruner[engines] has the packages of all engines on TensorFlow."
        )

    def load(
        self, model: keras.Model, inputs: Any, num_threads: int
    ) -> Callable[[], Any]:
        signature = signature_of(inputs)
        specs = keras.tree.flatten(signature)
        arrays = keras.tree.flatten(inputs)
        feeds = {spec.name: x for spec, x in zip(specs, arrays, strict=True)}
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, f"model{self.suffix}")
            self.write(model, path, [signature])
            size = sum(f.stat().st_size for f in path.parent.rglob("*") if f.is_file())
            return ExportedModel(self.load_file(path, feeds, num_threads), size)

    def write(
        self, model: keras.Model, path: pathlib.Path, signature: Any, **arguments: Any
    ) -> Any:
        """Writes the file. The model does not change.

        Args:
            model: Built Keras model.
            path: `pathlib.Path` with the suffix of the engine.
            signature: List with a structure of `keras.InputSpec`s for each positional
                argument of the model.
            **arguments: Further arguments of `model.export`, in place of those of
                `export_arguments`.
        """
        with _quiet(), unchanged_by_export(model):
            model.export(
                str(path),
                format=self.format,
                verbose=False,
                input_signature=signature,
                **(arguments or self.export_arguments()),
            )

    def export_arguments(self) -> dict[str, Any]:
        """Returns further arguments of `model.export`, as a dict."""
        return {}

    def load_file(
        self, path: pathlib.Path, inputs: Any, num_threads: int
    ) -> Callable[[], Any]:
        """Loads an exported file, which is removed afterwards.

        Args:
            path: `pathlib.Path`.
            inputs: Dict of NumPy arrays, in the order of `keras.tree.flatten`. The keys
                are their names in the file, where the format keeps names.
            num_threads: Number of threads to use.

        Returns:
            Function; see `load`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `load_file`.")


def signature_of(inputs):
    """Returns the shapes, types and names of inputs, in their structure."""
    numbers = itertools.count()

    def spec(array):
        name = f"input_{next(numbers)}"
        return keras.InputSpec(shape=array.shape, dtype=str(array.dtype), name=name)

    return keras.tree.map_structure(spec, inputs)


def by_name(names, inputs):
    """Returns a dict from the names of a file's inputs to the arrays.

    Args:
        names: Names in the file, in its order.
        inputs: Dict from names to arrays. If the file has other names, its inputs are
            taken to be in the same order.

    Example:

    >>> by_name(["b", "a"], {"a": "first", "b": "second"})
    {'b': 'second', 'a': 'first'}
    >>> by_name(["x", "y"], {"a": "first", "b": "second"})
    {'x': 'first', 'y': 'second'}
    """
    if set(inputs) == set(names):
        return {name: inputs[name] for name in names}
    return dict(zip(names, inputs.values(), strict=True))


def _children(name):
    """Returns the names of the loggers below another."""
    return [x for x in logging.root.manager.loggerDict if x.startswith(f"{name}.")]


@contextlib.contextmanager
def _quiet():
    """Context without warnings, which exporters have many of.

    Some set the levels of loggers for the whole process, which are restored. tf2onnx
    logs tracebacks of what it does not optimize; what fails raises an error.
    """
    talking = [logging.getLogger(name) for name in ("tf2onnx", *_children("tf2onnx"))]
    loggers = [logging.getLogger(name) for name in (None, "absl")] + talking
    levels = [logger.level for logger in loggers]
    try:
        for logger in talking:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""Defines the base class of export formats, and their registry."""

import os
import pathlib
from typing import Any

import keras
import numpy as np

from keras_pruner.checks import did_you_mean, naming, shown
from keras_pruner.registry import Component, Registry
from keras_pruner.reporting import ENGINES


class Exporter(Component):
    """Writes and runs files of one format.

    Subclasses define `write` and `run`; see `formats/saved_model.py` for a short one.

    Attributes:
        title: The format in sentences, e.g. "ONNX".
        suffix: Suffix of the file; `""` for a folder.
        engine: Name in `CAPABILITIES` of the program that runs the files.
        dtype: How the file stores kernels: `"float32"` or `"int8"`.
        tolerance: Largest relative difference of the outputs, or `None` for that of
            rounding.
        in_float32: Whether models that compute in 16 bits compute in float32 in the
            file, because the engine cannot do it otherwise.
        takes_shapes: Whether the file has the shapes of the signature.
        keeps_training: Whether the file keeps how a model is trained: optimizer, loss.
        keeps_random: Whether a layer that draws random numbers in inference does so in
            the file too, and not once for ever.
    """

    title: str | None = None
    suffix = ""
    engine: str | None = None
    dtype = "float32"
    tolerance: float | None = None
    in_float32 = False
    takes_shapes = True
    keeps_training = False
    keeps_random = False

    def problem(self) -> str | None:
        """Returns why it cannot export here, and what to do, or `None`."""
        return None

    def refusal(self, model: keras.Model) -> str | None:
        """Returns why it does not export a model, and what to do, or `None`."""
        return None

    def unrewarded(self, sparsity: float) -> str | None:
        """Returns why zeros bring nothing in this file, though the engine rewards them.

        Args:
            sparsity: Share of the weights of a kernel that are zero.

        Returns:
            A sentence, or `None` if they bring what `capability_of` says.
        """
        return None

    def write(self, model: keras.Model, path: pathlib.Path, samples: Any) -> None:
        """Writes a model.

        Args:
            model: Built Keras model, which stays unchanged.
            path: `pathlib.Path` where nothing is. Other files may be written beside it.
            samples: `Samples`: the signature, and inputs.

        Raises:
            Exception: Any, if the format does not support the model.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `write`.")

    def run(
        self, model: keras.Model, path: pathlib.Path, samples: Any
    ) -> list[np.ndarray]:
        """Runs a file as another program would.

        Args:
            model: The Keras model in the file, for its classes only.
            path: `pathlib.Path` of the file.
            samples: `Samples`.

        Returns:
            The outputs as a list of NumPy arrays, in the order of `keras.tree.flatten`.

        Raises:
            Exception: Any, if the file cannot be run.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `run`.")

    def notes(self, model: keras.Model) -> list[str]:
        """Returns a list of sentences on what users of the file have to know."""
        return []


class EngineExporter(Exporter):
    """Writes files that one of the engines of `measure` runs.

    Attributes:
        runs_on: Name of the engine.
    """

    runs_on: str | None = None
    in_float32 = True

    def problem(self) -> str | None:
        return ENGINES.get(self.runs_on).problem()

    def arguments(self) -> dict[str, Any]:
        """Returns further arguments of `model.export`, as a dict."""
        return {}

    def write(self, model: keras.Model, path: pathlib.Path, samples: Any) -> None:
        engine: Any = ENGINES.get(self.runs_on)
        engine.write(model, path, samples.signature, **self.arguments())

    def run(
        self, model: keras.Model, path: pathlib.Path, samples: Any
    ) -> list[np.ndarray]:
        engine: Any = ENGINES.get(self.runs_on)
        return engine.load_file(path, samples.feeds, num_threads=1)()


EXPORTERS = Registry("export format", Exporter)
register_exporter = EXPORTERS.register


def exporter_for(path, identifier, options):
    """Returns the exporter of a format, checked against a path.

    Args:
        path: Path of the file.
        identifier: Name or `Exporter`; `None` for the format of the path's suffix.
        options: Dict of arguments of the exporter's class.

    Raises:
        ValueError: If no format has the suffix, or the format has another one.
        TypeError: If options are given beside an `Exporter`.
    """
    suffix = os.path.splitext(path)[1]
    if os.path.basename(path) in {cls.suffix for cls in EXPORTERS.values()} - {""}:
        raise ValueError(f"A file needs a name before its suffix. Received: {path!r}")
    classes = dict.fromkeys(EXPORTERS.values())
    if identifier is None:
        found = [cls.name for cls in classes if cls.suffix == suffix]
        if not found:
            known = ", ".join(f"{c.suffix or 'a folder'} ({c.name})" for c in classes)
            hint = did_you_mean(suffix, [c.suffix for c in classes if c.suffix])
            raise ValueError(
                f"No format has files that end in '{suffix}'. Known: {known}.{hint} "
                f"Or set `format`. Received: {shown(path)}"
            )
        identifier = found[0]
    if options and not isinstance(identifier, str):
        raise TypeError(
            f"The options {', '.join(options)} belong to a format that is given by "
            f"name. Received: {shown(identifier)}"
        )
    if options and identifier in EXPORTERS:
        with naming(f"Format '{identifier}'"):
            exporter = EXPORTERS[identifier].from_config(options)
    else:
        exporter = EXPORTERS.get(identifier)
    if exporter.suffix and suffix != exporter.suffix:
        raise ValueError(
            f"A file of format '{exporter.name}' ends in '{exporter.suffix}'. "
            f"Received: {shown(path)}"
        )
    return exporter

"""Writes a file, runs it, and compares its outputs with those of the model."""

import contextlib
import dataclasses
import math
import os
import shutil
import warnings

from keras_pruner.backend import all_layers, in_dtype
from keras_pruner.checks import one_line
from keras_pruner.comparison import (
    compare_foreign,
    draws_random_numbers,
    outputs_of,
    variation_of,
)

# Outputs that vary less over the samples, in units of the tolerance, say little.
_LEAST_VARIATION = 10


@dataclasses.dataclass(frozen=True)
class Written:
    """Describes a file that computes what the model computes.

    Args:
        comparison: `Comparison` of the outputs, the worst of all runs.
        num_bytes: Bytes of the file and those beside it.
        input_shapes: Dict from the names of the inputs to their shapes.
        notes: List of sentences.
    """

    comparison: object
    num_bytes: int
    input_shapes: dict
    notes: list


class _Refused(Exception):
    """Says what is wrong with a file, as the end of a sentence."""


def write_checked(exporter, model, exported, path, samples, tolerance=None):
    """Writes a model to a file that runs, and computes the same.

    Args:
        exporter: `Exporter`.
        model: The user's model.
        exported: The model to write, which computes the same.
        path: `pathlib.Path` in a folder that is empty.
        samples: `Samples` of `model`.
        tolerance: Largest relative difference of the outputs, or `None`.

    Returns:
        `Written`.

    Raises:
        ValueError: If no file computes the same.
    """
    tolerance = exporter.tolerance if tolerance is None else tolerance
    notes = []
    if draws_random_numbers(model, (samples.arguments, {})):
        if not exporter.keeps_random:
            raise ValueError(
                f"'{model.name}' is not exported: it draws random numbers in "
                f"inference, and a file for {exporter.title} would hold those of one "
                "call for ever. Remove the layer that draws them, or let it do so "
                "only if `training`."
            )
        notes.append(
            "The outputs are random. The file was compared with random numbers of the "
            "same seed."
        )
    is_half = exporter.in_float32 and _computes_in_16_bits(exported)
    if is_half:
        samples = samples.in_float32()
        notes.append(
            f"The model computes in 16 bits, and the file in float32, because "
            f"{exporter.title} does not run all operations in 16 bits."
        )

    taken = samples.shapes

    def write(samples, runs):
        with in_dtype("float32", exported) if is_half else contextlib.nullcontext():
            _attempt("is not written", exporter.write, exported, path, samples)
        found = []
        for one in runs:
            made = _attempt("does not run", exporter.run, exported, path, one)
            found.append(compare_foreign(model, (one.arguments, {}), made, tolerance))
            if not found[-1].is_equal:
                raise _Refused(_difference(model, one, found[-1]))
        return max(found, key=lambda one: one.relative_difference)

    try:
        # A file whose batch is open must take batches of any size.
        more = samples.one_more() if exporter.takes_shapes else None
        try:
            comparison = write(samples, [samples] if more is None else [samples, more])
        except _Refused as error:
            if not (exporter.takes_shapes and samples.is_open):
                raise
            closed = samples.closed()
            _empty(path.parent)
            comparison = write(closed[0], closed)
            shapes = ", ".join(map(str, closed[0].shapes))
            taken = closed[0].shapes
            notes.append(
                f"The file takes inputs of shape {shapes} only, because with open axes "
                f"it {str(error)[:120]} ..."
            )
    except _Refused as error:
        raise ValueError(
            f"'{model.name}' is not exported, because the file for {exporter.title} "
            f"{error}"
        ) from error
    files = [one for one in path.parent.rglob("*") if one.is_file()]
    outputs = outputs_of(model, (samples.arguments, {}))
    # A single sample does not vary.
    variation = variation_of(outputs) if samples.num_samples > 1 else 1.0
    if variation < _LEAST_VARIATION * comparison.tolerance:
        notes.append(
            f"The outputs vary by {variation:.1g} of the largest over the samples, so "
            "the comparison says little. Give `sample_inputs` of your data."
        )
    return Written(
        comparison,
        sum(file.stat().st_size for file in files),
        dict(zip(samples.names, taken, strict=True)),
        notes,
    )


def _attempt(failure, function, model, path, samples):
    """Calls a function; its errors become `_Refused`, and its warnings nothing."""
    try:
        # Exporters and engines have many, which are about their own code.
        with warnings.catch_warnings(action="ignore"):
            return function(model, path, samples)
    except Exception as error:
        # The folder is there only while the file is written.
        text = one_line(str(error).replace(f"{path.parent}{os.sep}", ""))
        raise _Refused(f"{failure}: {type(error).__name__}: {text[:300]}") from error


def _difference(model, samples, found):
    """Returns in words how far the outputs of a file are from the model's."""
    arguments = (samples.arguments, {})
    outputs = outputs_of(model, arguments)
    again = compare_foreign(model, arguments, outputs, found.tolerance)
    if not again.is_equal:
        return "cannot be compared: the outputs of the model differ from call to call."
    if math.isinf(found.difference):
        return (
            "computes other outputs: they have NaN or infinity, or another shape or "
            "type, where the model's have not."
        )
    return (
        f"computes other outputs. They differ by up to {found.difference:.3g}, which "
        f"is {found.relative_difference:.3g} of the largest output, and "
        f"{found.tolerance:.3g} counts as rounding. `tolerance` sets another limit."
    )


def _computes_in_16_bits(model):
    return any("16" in str(layer.compute_dtype) for layer in all_layers(model))


def _empty(folder):
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

"""Counts the zeros of a model, its skipped kernels, and the bytes saved."""

import dataclasses
import math
import zlib

import numpy as np
from keras import ops

from keras_pruner.config import as_config
from keras_pruner.kernels import (
    check_built,
    find_all_kernels,
    find_wrapped,
    masks_of,
    select_in_model,
    select_kernels,
)
from keras_pruner.masks import variable_of
from keras_pruner.reporting.render import as_html, as_text, summary_lines


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """Describes one kernel of a report.

    Args:
        path: The kernel's path.
        shape: The kernel's shape.
        pattern: Name of the pattern that prunes it, or `"-"` if it is not pruned.
        parameters: Number of its weights.
        zeros: Number of its weights that are exactly zero.
        skipped: The reason why it is dense, or `None` if it is pruned.
    """

    path: str
    shape: tuple
    pattern: str
    parameters: int
    zeros: int
    skipped: str | None = None

    @property
    def sparsity(self):
        """`zeros / parameters`."""
        return self.zeros / self.parameters


class Report:
    """Holds the sparsity of a model, kernel by kernel and in total.

    It prints as a table, shows as HTML in notebooks, and `rows()` returns plain dicts.

    Args:
        kernels: Tuple of `ReportRow`.
        parameters: Number of all parameters of the model.
        raw_bytes: Bytes of all weights in memory.
        zipped_bytes: Bytes of all weights after zlib, level 6.

    Attributes:
        pruned_sparsity: Zeros / weights over the kernels that are pruned.
        prunable_sparsity: Zeros / weights over all kernels, skipped ones included.
        model_sparsity: Zeros in kernels / all parameters of the model.
    """

    def __init__(self, kernels, *, parameters, raw_bytes, zipped_bytes):
        self.kernels = tuple(kernels)
        self.parameters = parameters
        self.raw_bytes = raw_bytes
        self.zipped_bytes = zipped_bytes
        pruned = [row for row in self.kernels if row.skipped is None]
        self.zeros = sum(row.zeros for row in self.kernels)
        self.pruned_sparsity = _share(pruned)
        self.prunable_sparsity = _share(self.kernels)
        self.model_sparsity = self.zeros / parameters if parameters else 0.0

    def rows(self):
        """Returns one dict per kernel, with the fields of `ReportRow`."""
        return [dataclasses.asdict(r) | {"sparsity": r.sparsity} for r in self.kernels]

    def totals(self):
        """Returns the totals as a dict of numbers."""
        return {
            "pruned_sparsity": self.pruned_sparsity,
            "prunable_sparsity": self.prunable_sparsity,
            "model_sparsity": self.model_sparsity,
            "parameters": self.parameters,
            "zeros": self.zeros,
            "raw_bytes": self.raw_bytes,
            "zipped_bytes": self.zipped_bytes,
        }

    def summary_lines(self):
        """Returns the sentences above the table, with the shares of zeros first."""
        return summary_lines(self)

    def __str__(self):
        return as_text(self)

    def __repr__(self):
        return as_text(self)

    def _repr_html_(self):
        return as_html(self)


def report(model, config=None):
    """Reports the zeros of each kernel of a model, and why kernels were skipped.

    Args:
        model: Built Keras model: pruned by the callback, wrapped, stripped, or dense.
        config: `PruningConfig` or dict that it was pruned with, which names the pruned
            kernels and their pattern. Without a config the wrapped layers count as
            pruned, or every prunable kernel if no layer is wrapped.

    Returns:
        `Report`. It counts zeros in the weights after masks are applied.

    Raises:
        ValueError: If the model is not built, or the config selects no kernel of it.
    """
    check_built(model)
    patterns, reasons = _intentions(model, config)
    search = find_all_kernels(model)
    masks = masks_of(model)
    left = "not wrapped" if masks else "not chosen"
    rows = []
    # Tables that nobody asked for come last, with the other skipped variables.
    for kernel in sorted(
        search.kernels,
        key=lambda k: bool(k.on_request) and id(k.variable) not in patterns,
    ):
        values = masked_value(kernel.variable, masks)
        key = id(kernel.variable)
        pattern = patterns.get(key)
        reason = None if pattern is not None else reasons.get(kernel.path, left)
        zeros = int((values == 0).sum())
        rows.append(
            ReportRow(
                kernel.path,
                values.shape,
                "-" if reason else pattern,
                values.size,
                zeros,
                reason,
            )
        )
    for skip in search.skipped:
        rows.append(ReportRow(skip.path, skip.shape, "-", skip.size, 0, skip.reason))
    mask_ids = {id(variable_of(mask)) for mask in masks.values()}
    weights = [v for v in model.weights if id(v) not in mask_ids]
    raw, zipped = _sizes(masked_value(weight, masks) for weight in weights)
    return Report(
        rows,
        parameters=sum(math.prod(weight.shape) for weight in weights),
        raw_bytes=raw,
        zipped_bytes=zipped,
    )


def _intentions(model, config):
    """Returns the intention of a config, or of the wrappers, for each kernel.

    Returns:
        Tuple of a dict from the id of a pruned variable to its pattern's name, and of a
        dict from the path of a skipped kernel to the reason.
    """
    settings, wrapped = as_config(config), bool(find_wrapped(model))
    patterns = {}
    selections = select_kernels(model, settings)
    reasons = {s.path: s.reason for part in selections for s in part.skipped}
    for selection in select_in_model(model, settings):
        pattern = str(selection.config.pattern) if wrapped or config else ""
        patterns |= {id(kernel.variable): pattern for kernel in selection.kernels}
    return patterns, reasons


def masked_value(variable, masks):
    """Returns a variable as an array, after its wrapper's mask is applied.

    Args:
        variable: `keras.Variable`.
        masks: Dict from the id of a variable to its mask; see `masks_of`.
    """
    values = ops.convert_to_numpy(variable)
    mask = masks.get(id(variable))
    return values if mask is None else np.where(ops.convert_to_numpy(mask), values, 0)


def _sizes(arrays):
    """Returns the bytes of arrays, raw and compressed, one array at a time."""
    raw, zipped = 0, 0
    compressor = zlib.compressobj(level=6)
    for array in arrays:
        raw += array.nbytes
        zipped += len(compressor.compress(np.ascontiguousarray(array).tobytes()))
    return raw, zipped + len(compressor.flush())


def _share(rows):
    parameters = sum(row.parameters for row in rows)
    return sum(row.zeros for row in rows) / parameters if parameters else 0.0

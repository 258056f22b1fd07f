"""Counts the zeros of a model, its skipped kernels, and the bytes saved."""

import dataclasses
import math
import typing
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_pruner.components import Capability
from keras_pruner.config import (
    AnyConfig,
    Settings,
    as_config,
    merged_config,
    takes_settings,
)
from keras_pruner.kernels import (
    NOT_A_MATRIX,
    check_built,
    find_all_kernels,
    find_wrapped,
    masks_of,
    select_in_model,
    select_kernels,
)
from keras_pruner.masks import variable_of
from keras_pruner.reporting.comparison import ReportComparison
from keras_pruner.reporting.kernel_values import masked_value, weights_of
from keras_pruner.reporting.lines import lines_of
from keras_pruner.reporting.render import SPEED, Column, Shown, View, percent
from keras_pruner.reporting.rows import ReportRow, share_of, size_of, zeros_of
from keras_pruner.types import Rows


class Report(Shown):
    """Holds the sparsity of a model, kernel by kernel and in total.

    It prints as a table, shows as HTML in notebooks, and `rows()` returns plain dicts.
    `to_text(expand=True)` lists each kernel, and `compare(before)` shows what changed.

    Args:
        kernels: Tuple of `ReportRow`.
        parameters: Number of all parameters of the model.
        raw_bytes: Bytes of all weights in memory.
        zipped_bytes: Bytes of all weights after zlib, level 6.
        capability: `Capability`: what zeros bring on the config's `for_engine`, or
            `None`.

    Attributes:
        zeros: Zeros in the kernels that are counted.
        pruned_sparsity: Zeros / weights over the kernels that are pruned.
        prunable_sparsity: Zeros / weights over all kernels, skipped ones included.
        model_sparsity: Zeros in kernels / all parameters of the model. All three leave
            out kernels that are not counted, and are `None` without a weight to count.
    """

    def __init__(
        self,
        kernels: Sequence[Any],
        *,
        parameters: int,
        raw_bytes: int,
        zipped_bytes: int,
        capability: Capability | None = None,
    ) -> None:
        self.kernels = tuple(kernels)
        self.parameters = parameters
        self.raw_bytes = raw_bytes
        self.zipped_bytes = zipped_bytes
        self.capability = capability
        self.zeros = zeros_of(self.kernels) or 0
        self.pruned_sparsity = share_of([r for r in self.kernels if r.skipped is None])
        self.prunable_sparsity = share_of(self.kernels)
        counted = parameters - size_of(self._not_counted)
        self.model_sparsity = self.zeros / counted if counted else None

    @property
    def _not_counted(self):
        return [row for row in self.kernels if row.zeros is None]

    def rows(self) -> Rows:
        """Returns one dict per kernel, with the fields of `ReportRow`."""
        return [dataclasses.asdict(r) | {"sparsity": r.sparsity} for r in self.kernels]

    def totals(self) -> dict[str, Any]:
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

    def compare(self, before: "Report | keras.Model") -> ReportComparison:
        """Sets this report beside an earlier one, in one table.

        Args:
            before: `Report`, or a built model, from before pruning. `fit` prunes a
                model in place, so report it before `fit` to compare it later.

        Returns:
            `ReportComparison`. It prints as a table and shows as HTML.

        Example:

        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        >>> before = report(model)
        >>> _ = model.layers[0].kernel.assign(np.eye(4, 2))
        >>> report(model).compare(before).totals()["after"]["zeros"]
        6
        """
        if not isinstance(before, Report):
            before = report(before)
        return ReportComparison(before, self)

    def summary_lines(self) -> list[str]:
        """Returns the sentences above the table, with the shares of zeros first."""
        if not self.kernels:
            lines = [f"The model has {self.parameters:,} parameters, and no kernel."]
        else:
            lines = [self._shares()]
        if self._not_counted:
            lines.append(
                f"Not counted: {len(self._not_counted)} of the rows, with "
                f"{size_of(self._not_counted):,} weights."
            )
        if self.raw_bytes:
            lines.append(
                f"Weights take {self.raw_bytes:,} bytes raw, {self.zipped_bytes:,} "
                f"zipped ({self.raw_bytes / self.zipped_bytes:.1f} times smaller)."
            )
        if self.zeros:
            lines.append(SPEED if self.capability is None else str(self.capability))
        collapsed = [
            r.path for r in self.kernels if r.zeros and r.zeros == r.parameters
        ]
        if collapsed:
            more = f" and {len(collapsed) - 9} more" if len(collapsed) > 10 else ""
            shown = collapsed[:9] if more else collapsed
            lines.append(f"Nothing is left of: {', '.join(shown)}{more}.")
        return lines

    def _shares(self):
        skipped = sum(row.skipped is not None for row in self.kernels)
        shares = [
            f"{percent(self.prunable_sparsity)} of all kernels ({skipped} skipped)",
            f"{percent(self.model_sparsity)} of all {self.parameters:,} parameters",
        ]
        if self.pruned_sparsity is not None:
            shares.insert(0, f"{percent(self.pruned_sparsity)} of the pruned kernels")
        return f"Sparsity {', '.join(shares)}."

    def view(self, expand: bool = False) -> View:
        """Returns what the table shows.

        Args:
            expand: As in `to_text`.
        """
        columns = [
            Column("shape", _same(_shape), False, rank=4),
            Column("pattern", _same(lambda row: row.pattern), False, rank=2),
            Column.of_share("sparsity", share_of),
            Column("range", _range, False, rank=3),
            Column.of_sum("parameters", "parameters", rank=1),
            Column("zeros", _zeros, rank=5),
        ]
        lines = lines_of(self.kernels, lambda row: row.pattern, expand)
        return View(self.summary_lines(), columns, lines, self.kernels)


@takes_settings
def report(
    model: keras.Model,
    config: AnyConfig = None,
    **settings: typing.Unpack[Settings],
) -> Report:
    """Reports the zeros of each kernel of a model, and why kernels were skipped.

    Zeros are counted in the weights that a layer computes with: after masks are
    applied, after LoRA is added, and in the integers of quantized kernels. Two things
    are not counted, and left out of every share: variables that no layer multiplies by
    as a matrix, and kernels packed in an unknown way.

    Args:
        model: Built Keras model: pruned by the callback, wrapped, stripped, quantized,
            or dense.
        config: `PruningConfig` or dict that it was pruned with, which names the pruned
            kernels and their pattern. Without a config the wrapped layers count as
            pruned, or every prunable kernel if no layer is wrapped.
        **settings: Fields of the config, by name. They win over `config`.

    Returns:
        `Report`.

    Raises:
        TypeError: If `model` is no Keras model.
        ValueError: If the model is not built, or a filter of the config matches no
            kernel.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(2, use_bias=False, name="head")]
    ... )
    >>> _ = model.layers[0].kernel.assign(np.eye(4, 2))
    >>> print(report(model, pattern="1x1").to_text(width=80))
    Sparsity 75.00% of the pruned kernels, 75.00% of all kernels (0 skipped), 75.00%
    of all 8 parameters.
    Weights take 32 bytes raw, ... zipped (... times smaller).
    Zeros make the zipped file smaller; dense kernels compute with them, so
    inference is not faster by zeros alone.
    <BLANKLINE>
      kernel        shape   pattern   sparsity   parameters   zeros
     ───────────────────────────────────────────────────────────────
      head/kernel   4 x 2   1x1         75.00%            8       6
    <BLANKLINE>
      total                             75.00%            8       6
    """
    check_built(model)
    if settings:
        config = merged_config(config, settings)
    patterns, reasons = _intentions(model, config)
    search = find_all_kernels(model)
    masks = masks_of(model)
    left = "not wrapped" if masks else "not chosen"
    # Tables that nobody asked for come last, with the other skipped variables.
    kernels = sorted(
        search.kernels,
        key=lambda k: bool(k.on_request) and id(k.variable) not in patterns,
    )
    described = []
    for kernel in kernels:
        pattern = patterns.get(id(kernel.variable))
        reason = None if pattern is not None else reasons.get(kernel.path, left)
        described.append((kernel, "-" if reason else pattern, reason))
    for kernel, skip in zip(search.skipped_kernels, search.skipped, strict=True):
        described.append((kernel, "-", skip.reason))
    mask_ids = {id(variable_of(mask)) for mask in masks.values()}
    weights = [v for v in model.weights if id(v) not in mask_ids]
    raw, zipped = _bytes_of(weights, masks)
    rows = [
        _row(kernel, pattern, reason, masks, raw.get(id(kernel.variable), 0))
        for kernel, pattern, reason in described
    ]
    # A packed kernel has more weights than its variable has elements.
    sizes = {id(v): math.prod(v.shape) for v in weights}
    for (kernel, *_), row in zip(described, rows, strict=True):
        sizes[id(kernel.variable)] = row.parameters
    return Report(
        rows,
        parameters=sum(sizes.values()),
        raw_bytes=sum(raw.values()),
        zipped_bytes=zipped,
        capability=_capability(config, rows),
    )


def _capability(config, rows):
    """Returns what the zeros of the pruned kernels bring on the config's engine."""
    share = share_of([row for row in rows if row.skipped is None])
    return as_config(config).capability(share)


def _row(kernel, pattern, reason, masks, raw_bytes):
    values = None
    if not (reason or "").startswith(NOT_A_MATRIX):
        values = weights_of(kernel, masks)
    shape = tuple(kernel.variable.shape if values is None else values.shape)
    size = math.prod(shape)
    zeros = None if values is None else size - int(np.count_nonzero(values))
    return ReportRow(kernel.path, shape, pattern, size, zeros, reason, raw_bytes)


def _intentions(model, config):
    """Returns the intention of a config, or of the wrappers, for each kernel.

    Returns:
        Tuple of a dict from the id of a pruned variable to its pattern's name, and of a
        dict from the path of a skipped kernel to the reason.
    """
    settings = as_config(config)
    is_meant = config is not None or bool(find_wrapped(model))
    patterns = {}
    selections = select_kernels(model, settings)
    reasons = {s.path: s.reason for part in selections for s in part.skipped}
    for selection in select_in_model(model, settings):
        pattern = str(selection.config.pattern) if is_meant else ""
        patterns |= {id(kernel.variable): pattern for kernel in selection.kernels}
    return patterns, reasons


def _bytes_of(weights, masks):
    """Returns the bytes of each weight by its id, and of all compressed."""
    raw, zipped = {}, 0
    compressor = zlib.compressobj(level=6)
    for weight in weights:
        array = masked_value(weight, masks)
        raw[id(weight)] = array.nbytes
        zipped += len(compressor.compress(np.ascontiguousarray(array).tobytes()))
    return raw, zipped + len(compressor.flush())


def _shape(row):
    return " x ".join(map(str, row.shape))


def _same(text):
    """Returns a function of rows to the text of all of them, if it is the same."""

    def cell(rows):
        texts = {text(row) for row in rows}
        return texts.pop() if len(texts) == 1 else ""

    return cell


def _range(rows):
    """Returns the lowest and highest sparsity among several rows."""
    shares = {row.sparsity for row in rows if row.sparsity is not None}
    if len(shares) < 2:
        return ""
    return f"{percent(min(shares), 0)} to {percent(max(shares), 0)}"


def _zeros(rows):
    zeros = zeros_of(rows)
    return "-" if zeros is None else f"{zeros:,}"

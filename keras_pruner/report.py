"""What was pruned, what was not and why, and what it saves: counted, not estimated."""

import dataclasses
import html
import io
import zlib

from keras import ops
from rich import box
from rich.console import Console
from rich.table import Table

from keras_pruner.pruners.keras_base import collect_kernels
from keras_pruner.config import as_config
from keras_pruner.wrappers import find_wrapped


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """One kernel of a report.

    Args:
        path: The kernel's path.
        shape: Its shape.
        pattern: Name of the pattern it is pruned by, or `"-"` if it is not pruned.
        parameters: Its weights.
        zeros: How many of them are exactly zero.
        skipped: Why it is left dense, or `None`.
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
    """Sparsity of a model, kernel by kernel and in all.

    It prints as a table, shows as HTML in notebooks, and `rows()` gives plain dicts.

    Args:
        kernels: Tuple of `ReportRow`.
        parameters: All parameters of the model.
        raw_bytes: Bytes of all weights as they are stored.
        zipped_bytes: Bytes of the same after zlib, level 6.

    Attributes:
        pruned_sparsity: Zeros / weights over the kernels that are pruned.
        prunable_sparsity: The same over all kernels, skipped ones too.
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
        """Returns the sentences above the table, the shares of zeros first."""
        skipped = sum(row.skipped is not None for row in self.kernels)
        lines = [
            f"Sparsity {self.pruned_sparsity:.2%} of the pruned kernels, "
            f"{self.prunable_sparsity:.2%} of all kernels ({skipped} skipped), "
            f"{self.model_sparsity:.2%} of all {self.parameters:,} parameters.",
            f"Weights take {self.raw_bytes:,} bytes raw, {self.zipped_bytes:,} zipped "
            f"({self.raw_bytes / max(1, self.zipped_bytes):.1f} times smaller).",
        ]
        if self.zeros:
            lines.append(
                "Zeros make the zipped file smaller; dense kernels compute with them, "
                "so inference is not faster by zeros alone."
            )
        collapsed = [r.path for r in self.kernels if r.zeros == r.parameters]
        if collapsed:
            lines.append(f"Nothing is left of: {', '.join(collapsed)}.")
        return lines

    def _columns(self):
        return "kernel", "shape", "pattern", "sparsity", "parameters", "zeros", "skipped"

    def _cells(self):
        for row in self.kernels:
            yield (
                row.path,
                " x ".join(map(str, row.shape)),
                row.pattern,
                f"{row.sparsity:.2%}",
                f"{row.parameters:,}",
                f"{row.zeros:,}",
                row.skipped or "",
            )
        yield (
            "total",
            "",
            "",
            f"{self.prunable_sparsity:.2%}",
            f"{sum(row.parameters for row in self.kernels):,}",
            f"{self.zeros:,}",
            "",
        )

    def __str__(self):
        table = Table(box=box.SIMPLE_HEAD)
        for name in self._columns():
            number = name in ("sparsity", "parameters", "zeros")
            table.add_column(
                name,
                justify="right" if number else "left",
                overflow="fold",
                no_wrap=number,
            )
        for cells in self._cells():
            table.add_row(*cells)
        stream = io.StringIO()
        Console(file=stream, width=110, color_system=None).print(table)
        return "\n".join(self.summary_lines()) + "\n" + stream.getvalue().rstrip()

    def __repr__(self):
        return str(self)

    def _repr_html_(self):
        def row(cells, tag):
            inner = "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
            return f"<tr>{inner}</tr>"

        body = "".join(row(cells, "td") for cells in self._cells())
        text = "<br>".join(html.escape(line) for line in self.summary_lines())
        return f"<p>{text}</p><table>{row(self._columns(), 'th')}{body}</table>"


def report(model, config=None):
    """Reports what is zero in a model, and what was skipped and why.

    Args:
        model: Built Keras model: pruned by the callback, wrapped, stripped, or dense.
        config: `PruningConfig` or dict that it was pruned with, which tells what was
            meant to be pruned; a wrapped model's configs are its own. Without one,
            every prunable kernel counts, and the pattern is not known.

    Returns:
        `Report`. Zeros are counted in the weights as the model uses them, masks
        applied.
    """
    pattern_of, skipped = {}, []
    wrapped = find_wrapped(model)
    settings = as_config(config)
    for part, kernels in _parts(model, settings):
        for kernel in kernels:
            reason = part.pattern.reason_to_skip(kernel.layout)
            owner = kernel.owner
            known = config is not None or owner is not None
            pattern = part.pattern
            if owner is not None and owner.pruning_config is not None:
                pattern = owner.pruning_config.pattern
            if wrapped and (owner is None or owner.mask_of(kernel.variable) is None):
                reason = "not wrapped"
            pattern_of[id(kernel.variable)] = (
                kernel,
                str(pattern) if known else "",
                reason,
            )
    rows = []
    for kernel, pattern, reason in pattern_of.values():
        values = _effective(kernel)
        rows.append(
            ReportRow(
                kernel.path,
                tuple(kernel.variable.shape),
                "-" if reason else pattern,
                values.size,
                int((values == 0).sum()),
                reason,
            )
        )
    return rows, skipped

"""Reports what became of the zeros of a quantized model."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_pruner.reporting import Column, Shown, View, lines_of, ratio_of, sum_of
from keras_pruner.types import Rows


@dataclasses.dataclass(frozen=True)
class QuantizeRow:
    """Describes one kernel of a report.

    Args:
        path: The kernel's path.
        shape: Its shape.
        parameters: Number of its weights.
        zeros_before: Zeros before it was quantized; the quantized kernel has them too.
        zeros: Zeros of the quantized kernel: rounding adds some.
        refilled: Zeros that quantization had filled, and that were set again.
        mode: Mode of quantization, or `None`.
        skipped: Why the kernel stays as it was, or `None`.
    """

    path: str
    shape: tuple
    parameters: int
    zeros_before: int
    zeros: int
    refilled: int = 0
    mode: str | None = None
    skipped: str | None = None

    @property
    def sparsity(self):
        return self.zeros / self.parameters if self.parameters else 0.0


class QuantizeReport(Shown):
    """Shows that the zeros of a model outlived its quantization.

    Args:
        mode: Mode of quantization.
        kernels: Tuple of `QuantizeRow`s.
        bytes_before: Bytes of all weights of the model.
        bytes_after: Bytes of all weights of the quantized one.
        output_error: Relative error of its outputs, `|F - D|^2 / |D - mean D|^2`, or
            `None` if they were not compared.
    """

    def __init__(
        self,
        mode: str,
        kernels: Sequence[Any],
        bytes_before: int,
        bytes_after: int,
        output_error: float | None = None,
    ) -> None:
        self.mode = mode
        self.kernels = tuple(kernels)
        self.bytes_before, self.bytes_after = bytes_before, bytes_after
        self.output_error = output_error

    @property
    def zeros_before(self) -> int:
        return sum_of(self.kernels, "zeros_before")

    @property
    def zeros(self) -> int:
        return sum_of(self.kernels, "zeros")

    @property
    def refilled(self) -> int:
        return sum_of(self.kernels, "refilled")

    @property
    def headline(self) -> str:
        """One sentence on the result."""
        quantized = sum(row.mode is not None for row in self.kernels)
        added = self.zeros - self.zeros_before
        return (
            f"quantize: {quantized} of {len(self.kernels)} kernels are {self.mode}; "
            f"all {self.zeros_before:,} zeros are kept, and rounding added {added:,}."
        )

    def rows(self) -> Rows:
        """Returns one dict of plain values per kernel."""
        return [
            dataclasses.asdict(row) | {"sparsity": row.sparsity} for row in self.kernels
        ]

    def totals(self) -> dict[str, Any]:
        """Returns the totals as a dict of numbers; see the attributes."""
        names = ("bytes_before", "bytes_after", "zeros_before", "zeros", "refilled")
        totals = {name: getattr(self, name) for name in names}
        return totals | {"output_error": self.output_error}

    def view(self, expand: bool = False) -> View:
        """Returns the `View` that is printed."""
        sentences = [
            self.headline,
            f"Weights take {self.bytes_after:,} bytes, {self.bytes_before:,} before.",
        ]
        if self.refilled:
            sentences.append(
                f"Quantization had filled {self.refilled:,} zeros; they are zero again."
            )
        if self.output_error is not None:
            sentences.append(f"Relative error of the outputs: {self.output_error:.2g}.")
        return View(
            sentences,
            [
                Column("mode", _mode, False),
                Column.of_sum("weights", "parameters"),
                Column.of_share("sparsity", _share),
                Column.of_sum("zeros", "zeros", rank=1),
                Column.of_sum("before", "zeros_before", rank=2),
            ],
            lines_of(self.kernels, lambda row: row.mode, expand),
            self.kernels,
        )


def _share(rows):
    return ratio_of(rows, "zeros", "parameters")


def _mode(rows):
    modes = {row.mode for row in rows}
    return (modes.pop() or "-") if len(modes) == 1 else ""

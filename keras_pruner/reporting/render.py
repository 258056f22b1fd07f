"""Renders a `Report` as sentences, as a text table and as HTML."""

import html
import io

from rich import box
from rich.console import Console
from rich.table import Table

_COLUMNS = ("kernel", "shape", "pattern", "sparsity", "parameters", "zeros", "skipped")
_NUMBERS = ("sparsity", "parameters", "zeros")


def summary_lines(report):
    """Returns the sentences above the table of a `Report`, as a list."""
    skipped = sum(row.skipped is not None for row in report.kernels)
    lines = [
        f"Sparsity {report.pruned_sparsity:.2%} of the pruned kernels, "
        f"{report.prunable_sparsity:.2%} of all kernels ({skipped} skipped), "
        f"{report.model_sparsity:.2%} of all {report.parameters:,} parameters.",
        f"Weights take {report.raw_bytes:,} bytes raw, {report.zipped_bytes:,} zipped "
        f"({report.raw_bytes / max(1, report.zipped_bytes):.1f} times smaller).",
    ]
    if report.zeros:
        lines.append(
            "Zeros make the zipped file smaller; dense kernels compute with them, "
            "so inference is not faster by zeros alone."
        )
    collapsed = [row.path for row in report.kernels if row.zeros == row.parameters]
    if collapsed:
        lines.append(f"Nothing is left of: {', '.join(collapsed)}.")
    return lines


def as_text(report):
    """Returns a `Report` as a table of 110 columns, below its sentences."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in _columns(report):
        is_number = name in _NUMBERS
        table.add_column(
            name,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number,
        )
    for cells in _cells(report):
        table.add_row(*cells)
    stream = io.StringIO()
    # In a notebook rich would otherwise show the table instead of writing it.
    console = Console(file=stream, width=110, color_system=None, force_jupyter=False)
    console.print(table)
    return "\n".join(summary_lines(report)) + "\n" + stream.getvalue().rstrip()


def as_html(report):
    """Returns a `Report` as HTML, with all its text escaped."""

    def row(cells, tag):
        inner = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr>{inner}</tr>"

    head = row(_columns(report), "th")
    body = "".join(row(cells, "td") for cells in _cells(report))
    text = "<br>".join(html.escape(line) for line in summary_lines(report))
    return f"<p>{text}</p><table>{head}{body}</table>"


def _columns(report):
    """Returns the names of the columns; the last one only if a kernel is skipped."""
    is_full = any(row.skipped for row in report.kernels)
    return _COLUMNS if is_full else _COLUMNS[:-1]


def _cells(report):
    """Yields the cells of each row, and of the totals."""
    width = len(_columns(report))
    for row in report.kernels:
        cells = (
            row.path,
            " x ".join(map(str, row.shape)),
            row.pattern,
            f"{row.sparsity:.2%}",
            f"{row.parameters:,}",
            f"{row.zeros:,}",
            row.skipped or "",
        )
        yield cells[:width]
    parameters = sum(row.parameters for row in report.kernels)
    totals = f"{report.prunable_sparsity:.2%}", f"{parameters:,}", f"{report.zeros:,}"
    yield ("total", "", "", *totals, "")[:width]

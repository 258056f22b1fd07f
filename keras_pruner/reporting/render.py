"""Renders a table of kernels as text that fits a terminal, and as HTML."""

import collections.abc
import dataclasses
import html
import io
import re
import shutil
import textwrap

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from keras_pruner.reporting.rows import sum_of

# Columns of text where no terminal says its width: notebooks, pipes, logs.
_DEFAULT_WIDTH = 100
_MIN_WIDTH = 40
# A longer path is folded before a column is left out.
_PATH_WIDTH = 44

SPEED = (
    "Zeros make the zipped file smaller; dense kernels compute with them, "
    "so inference is not faster by zeros alone."
)
_LINE = "1px solid rgba(128, 128, 128, 0.35)"
_CELL = f"padding: 0.25em 0.75em; border: none; border-top: {_LINE}; "
_TEXT = "text-align: left; white-space: nowrap"
_NUMBER = "text-align: right; white-space: nowrap"
_BAR = "rgba(66, 133, 244, 0.35)"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: Its head.
        cell: Function from a tuple of rows to the text of the cell.
        is_number: Whether it is aligned to the right.
        bar: Function from a tuple of rows to a share in [0, 1], or `None`. HTML draws
            it as a bar.
        rank: Terminals that are too narrow leave out the highest rank first; 0 stays.
    """

    name: str
    cell: collections.abc.Callable
    is_number: bool = True
    bar: collections.abc.Callable | None = None
    rank: int = 0

    @classmethod
    def of_sum(cls, name, attribute, text="{:,}", rank=0):
        """Creates a column with the sums of an attribute of the rows."""
        return cls(name, lambda rows: text.format(sum_of(rows, attribute)), rank=rank)

    @classmethod
    def of_share(cls, name, share, rank=0):
        """Creates a column with bars, of a function from rows to a share in [0, 1]."""
        return cls(name, lambda rows: percent(share(rows)), bar=share, rank=rank)


@dataclasses.dataclass(frozen=True)
class View:
    """What a table shows.

    Args:
        sentences: List of the sentences above it.
        columns: List of `Column`s, without that of the names.
        lines: List of `Line`s.
        rows: Tuple of all rows, for the totals.
        thing: Head of the first column; notes add an "s".
        has_total: Whether the last line adds up all rows.
    """

    sentences: list
    columns: list
    lines: list
    rows: tuple
    thing: str = "kernel"
    has_total: bool = True

    def used_columns(self):
        """Returns the columns that say something in any line."""
        return [
            column
            for column in self.columns
            if column.is_number
            or any(column.cell(line.rows) not in ("", "-") for line in self.lines)
        ]


class Shown:
    """Prints as a table and shows as HTML in notebooks.

    Subclasses define `view`.
    """

    def view(self, expand: bool = False) -> View:
        """Returns the `View` of the table."""
        raise NotImplementedError(f"{type(self).__name__} must define `view`.")

    def to_text(self, width: int | None = None, expand: bool = False) -> str:
        """Returns a table as text, below its sentences.

        Args:
            width: Columns of text, at least 40. By default those of the terminal, or
                100 without one. Narrow tables leave out columns; no number is broken.
            expand: Whether every kernel has its own line. By default four or more
                kernels that are skipped for one reason share a line. If more than 40
                lines are left, so do kernels whose paths differ in numbers only.
        """
        return as_text(self.view(expand), width)

    def to_html(self, expand: bool = False) -> str:
        """Returns the table as HTML.

        Args:
            expand: As in `to_text`. A line of several kernels can be unfolded.
        """
        return as_html(self.view(expand))

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return self.to_text()

    def _repr_html_(self):
        return self.to_html()


def percent(share, digits=2):
    """Returns a share as text; only all weights are 100 %, and only none 0 %.

    Example:

    >>> [percent(share) for share in (0.5, 0.99999, 1, 0.00001, 0, None)]
    ['50.00%', '>99.99%', '100.00%', '<0.01%', '0.00%', '-']
    """
    if share is None:
        return "-"
    least = 10.0 ** (-2 - digits)
    if 0 < share < least / 2:
        return f"<{least:.{digits}%}"
    if 1 - least / 2 < share < 1:
        return f">{1 - least:.{digits}%}"
    return f"{share:.{digits}%}"


def as_text(view, width=None, way_to_expand="`to_text(expand=True)`"):
    """Returns a `View` as text.

    Args:
        view: `View`.
        width: As in `Shown.to_text`.
        way_to_expand: What a reader can do to see a line for each row.
    """
    if width is None:
        width = shutil.get_terminal_size((_DEFAULT_WIDTH, 24)).columns
    width = max(width, _MIN_WIDTH)
    paragraphs = [_wrapped(sentence, width) for sentence in view.sentences]
    if not view.lines:
        return "\n".join(paragraphs)
    reasons = list(dict.fromkeys(line.reason for line in view.lines if line.reason))
    columns = view.used_columns()
    # Nothing in names is markup.
    console = Console(
        file=io.StringIO(),
        width=width,
        color_system=None,
        force_jupyter=False,
        markup=False,
        highlight=False,
        emoji=False,
    )
    longest = max(len(line.name) for line in view.lines)
    while True:
        natural = _natural_width(_table(view, columns, reasons), console)
        room = width - natural + longest
        highest = max(column.rank for column in columns)
        if highest == 0 or room >= min(longest, _PATH_WIDTH):
            break
        columns = [column for column in columns if column.rank < highest]
    console.print(_table(view, columns, reasons, room))
    lines = console.file.getvalue().rstrip().split("\n")
    notes = [_wrapped(f"[{i}] {r}", width, 4) for i, r in enumerate(reasons, 1)]
    if len(view.lines) < len(view.rows):
        text = f"{len(view.rows)} {view.thing}s in {len(view.lines)} lines; "
        notes.append(_wrapped(f"{text}{way_to_expand} lists each.", width))
    return "\n".join([*paragraphs, *(line.rstrip() for line in lines), *notes])


def _wrapped(text, width, indent=0):
    return textwrap.fill(
        text,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _natural_width(table, console):
    return Measurement.get(console, console.options.update(width=10**6), table).maximum


def _table(view, columns, reasons, path_width=10**6):
    table = Table(box=box.SIMPLE_HEAD, show_footer=view.has_total)
    table.add_column(view.thing, "total", overflow="fold")
    for column in columns:
        table.add_column(
            column.name.replace(" ", "\n"),
            column.cell(view.rows) if column.is_number and view.has_total else "",
            justify="right" if column.is_number else "left",
            no_wrap=True,
        )
    if reasons:
        table.add_column("note", no_wrap=True)
    for line in view.lines:
        cells = [_folded(line.name, path_width)]
        cells += [column.cell(line.rows) for column in columns]
        if reasons:
            cells.append(f"[{reasons.index(line.reason) + 1}]" if line.reason else "")
        table.add_row(*cells)
    return table


def _folded(path, width):
    """Breaks a path after slashes, where it can be.

    Example:

    >>> _folded("backbone/block/dense/kernel", 16).split()
    ['backbone/block/', 'dense/kernel']
    """
    lines = [""]
    for part in re.findall("[^/]+/?|/", path):
        if lines[-1] and len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def as_html(view):
    """Returns a `View` as HTML, with all its text escaped."""
    text = "<br>".join(html.escape(sentence) for sentence in view.sentences)
    if not view.lines:
        return f"<p>{text}</p>"
    columns = view.used_columns()
    has_reasons = any(line.reason for line in view.lines)
    head = [_html_cell("th", view.thing)]
    for column in columns:
        style = _NUMBER if column.is_number else _TEXT
        head.append(_html_cell("th", column.name, style))
    head += [_html_cell("th", "note")] * has_reasons
    body = []
    for line in view.lines:
        reasons = [line.reason or ""] * has_reasons
        body.append(_html_line(line.name, columns, line.rows, *reasons))
        if len(line.rows) > 1:
            body.append(_html_details(line, columns, len(head), view.thing))
    caption = (
        '<caption style="caption-side: top; text-align: left; color: inherit; '
        f'padding: 0.25em 0.75em 0.75em">{text}</caption>'
    )
    inner = (
        f"{caption}<thead><tr>{''.join(head)}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody>"
    )
    if view.has_total:
        total = _html_line("total", columns, view.rows, *[""] * has_reasons)
        inner += f'<tfoot style="font-weight: bold">{total}</tfoot>'
    return f'<div style="overflow-x: auto">{_html_table(inner)}</div>'


def _html_table(inner):
    style = "border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 0"
    return f'<table style="{style}">{inner}</table>'


def _html_line(name, columns, rows, *reasons):
    cells = [_html_cell("td", name)]
    for column in columns:
        bar = column.bar(rows) if column.bar else None
        style = _NUMBER if column.is_number else _TEXT
        cells.append(_html_cell("td", column.cell(rows), style, bar))
    cells += [_html_cell("td", reason) for reason in reasons]
    return f"<tr>{''.join(cells)}</tr>"


def _html_details(line, columns, width, thing):
    """Returns a row that unfolds to a table of all rows of a line."""
    inner = "".join(_html_line(row.path, columns, (row,)) for row in line.rows)
    return (
        f'<tr><td colspan="{width}" style="{_CELL}border-top: none; padding-top: 0; '
        f'text-align: left"><details><summary>these {len(line.rows)} {thing}s</summary>'
        f"{_html_table(inner)}</details></td></tr>"
    )


def _html_cell(tag, text, style="text-align: left", bar=None):
    if bar:
        # A gradient with a sharp edge needs no element of its own.
        stop = f"{100 * bar:.2f}%"
        style += f"; background: linear-gradient(to right, {_BAR} {stop}, #0000 {stop})"
    return f'<{tag} style="{_CELL}{style}">{html.escape(text)}</{tag}>'

"""Shows numbers of one or two models as the lines of a table."""

import dataclasses

from keras_pruner.reporting.lines import Line
from keras_pruner.reporting.render import Column, View


@dataclasses.dataclass(frozen=True)
class Quantity:
    """One line of a table about one or two models.

    Args:
        path: What is measured, e.g. `"parameters"`.
        values: Tuple with the number of each model; `None` if it is not known.
        text: Function from a number to text, or a format string.
        ratio: The second number / the first, or `None`.
        quartiles: Lower and upper quartile of the ratio as text, or `"-"`.
        cpu: The same number by CPU times as text, or `"-"`.
        change: The change from the first number to the second as text, or `None` if the
            ratio says it.
        skipped: Why a number is not known, or `None`.
    """

    path: str
    values: tuple
    text: object
    ratio: float | None = None
    quartiles: str = "-"
    cpu: str = "-"
    change: str | None = None
    skipped: str | None = None

    def cell(self, index):
        """Returns the number of a model as text."""
        value = self.values[index]
        if value is None:
            return "-"
        return self.text(value) if callable(self.text) else self.text.format(value)


def view_of(sentences, quantities, names, change=None, has_times=True):
    """Returns the `View` of several quantities.

    Args:
        sentences: List of the sentences above the table.
        quantities: List of `Quantity`s.
        names: Heads of the columns, one a model.
        change: Head of the column of the change, and function from a quantity to its
            text; or `None`.
        has_times: Whether some quantities are times, which have quartiles.
    """

    def cell(text):
        return lambda rows: text(rows[0])

    columns = [
        Column(name, cell(lambda row, i=i: row.cell(i))) for i, name in enumerate(names)
    ]
    if change is not None:
        columns.append(Column(change[0], cell(change[1]), rank=1))
    if has_times:
        columns.append(Column("quartiles", cell(lambda row: row.quartiles), rank=2))
        kind = "ms" if change is None else "ratio"
        columns.append(Column(f"CPU {kind}", cell(lambda row: row.cpu), rank=3))
    lines = [Line(row.path, (row,), row.skipped) for row in quantities]
    return View(sentences, columns, lines, tuple(quantities), "quantity", False)


def ratio_of(values):
    """Returns the second of two numbers / the first, or `None`."""
    if len(values) < 2 or None in values or not values[0]:
        return None
    return values[1] / values[0]


def milliseconds(value):
    """Returns a time with three digits.

    Example:

    >>> [milliseconds(value) for value in (0.01234, 1.2345, 12.345, 123.45)]
    ['0.0123', '1.23', '12.3', '123']
    """
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"

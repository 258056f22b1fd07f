"""Groups the rows of a report into the lines of a table."""

import collections
import dataclasses
import re

# So many rows of one reason become one line.
_SAME_REASON = 4
# So many lines are listed one by one.
_MAX_LINES = 40
_NUMBER = re.compile(r"(\d+)")


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a table: one row of a report, or several.

    Args:
        name: The kernel's path, or a name for all kernels of the line.
        rows: Tuple of the rows.
        reason: Why the kernels are skipped, or `None`.
    """

    name: str
    rows: tuple
    reason: str | None = None


def lines_of(rows, kind, expand=False):
    """Returns the lines of a table, as a list.

    Four or more rows of one reason share a line; numbers in the reason may differ. If
    more than 40 lines are left, pruned kernels whose paths differ in numbers only share
    one too: in the last number of the path, else in the last two, and so on until the
    lines fit. A line has the place of its first row.

    Args:
        rows: List of objects with a `path` and a `skipped`.
        kind: Function of a row. Rows of one line are of one kind.
        expand: Whether each row is a line.
    """
    if expand:
        return [Line(row.path, (row,), row.skipped) for row in rows]
    reasons = [tuple(_NUMBER.split(row.skipped or "")[::2]) for row in rows]
    counts = collections.Counter(reasons)
    for level in range(max(map(_num_numbers, rows), default=0) + 1):
        lines = {}
        for index, (row, reason) in enumerate(zip(rows, reasons, strict=True)):
            if row.skipped is None:
                key = _starred(row.path, level) if level else index
            else:
                key = index if counts[reason] < _SAME_REASON else reason
            lines.setdefault((key, row.skipped is None, kind(row)), []).append(row)
        if len(lines) <= _MAX_LINES:
            break
    return [_line(key[0], members) for key, members in lines.items()]


def _num_numbers(row):
    return len(_NUMBER.findall(row.path))


def _line(key, rows):
    first = rows[0]
    if len(rows) == 1:
        return Line(first.path, tuple(rows), first.skipped)
    if first.skipped is None:
        return Line(f"{key} ({len(rows)})", tuple(rows))
    return Line(f"{len(rows)} kernels", tuple(rows), _common([r.skipped for r in rows]))


def _common(reasons):
    """Returns reasons that differ in numbers only as one, with an N for each of these.

    Example:

    >>> _common(["needs 4 inputs, has 3", "needs 4 inputs, has 6"])
    'needs 4 inputs, has N'
    """
    parts = zip(*map(_NUMBER.split, reasons), strict=True)
    return "".join(part[0] if len(set(part)) == 1 else "N" for part in parts)


def _starred(path, level):
    """Replaces the last numbers of a path by `*`.

    Example:

    >>> _starred("block_3/dense_1/kernel", 1)
    'block_3/dense_*/kernel'
    """
    parts = _NUMBER.split(path)
    for index in range(1, len(parts), 2)[-level:]:
        parts[index] = "*"
    return "".join(parts)

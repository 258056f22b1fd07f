"""Describes one kernel of a report, and adds up the numbers of several."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """Describes one kernel of a report.

    Args:
        path: The kernel's path.
        shape: The shape of the kernel that the layer computes with.
        pattern: Name of the pattern that prunes it, or `"-"` if it is skipped.
        parameters: Number of its weights.
        zeros: Number of its weights that are exactly zero, or `None` if they are not
            counted.
        skipped: The reason why a pruner skips it, or `None` if it is pruned.
        raw_bytes: Bytes of its variable in memory.
    """

    path: str
    shape: tuple
    pattern: str
    parameters: int
    zeros: int | None
    skipped: str | None = None
    raw_bytes: int = 0

    @property
    def sparsity(self):
        """`zeros / parameters`, or `None` if nothing is counted."""
        return share_of([self])


def sum_of(rows, name):
    """Returns the sum of an attribute over rows of any kind."""
    return sum(getattr(row, name) for row in rows)


def ratio_of(rows, part, whole):
    """Returns the sum of one attribute over that of another, or 0 if that is 0."""
    total = sum_of(rows, whole)
    return sum_of(rows, part) / total if total else 0.0


def size_of(rows):
    """Returns the weights of all rows."""
    return sum_of(rows, "parameters")


def bytes_of(rows):
    """Returns the bytes of all rows."""
    return sum_of(rows, "raw_bytes")


def zeros_of(rows):
    """Returns the zeros of the rows that are counted, or `None` if none is."""
    counted = [row.zeros for row in rows if row.zeros is not None]
    return sum(counted) if counted else None


def share_of(rows):
    """Returns zeros / weights over the rows that are counted, or `None`."""
    weights = size_of([row for row in rows if row.zeros is not None])
    return zeros_of(rows) / weights if weights else None

"""Prints the results of `one_shot.py` as Markdown tables."""

import numpy as np
from one_shot_methods import SECTIONS

_LEGEND = (
    "Test accuracy in %: median of the seeds (lowest - highest); seconds of a run. "
    "Without labels: share of samples that get the class that the dense model gives "
    "them, in %, and relative error of all outputs. `at` shows the zeros in all "
    "kernels where a method or pattern leaves kernels out."
)
# What a row holds of its run; a key that a run lacks is `None`.
FOUND = ("accuracy", "agreement", "error", "zeros", "seconds")


def print_tables(rows, versions):
    """Prints a table for each network and section.

    Args:
        rows: List of dicts, as `Results` keeps them.
        versions: Dict from packages to versions.
    """
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"\n{_LEGEND}")
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        dense = [row for row in own if row["section"] == "Dense"]
        print(f"\n## {network}\n\nDense: {quality(dense)}, seeds: {len(dense)}.")
        for title in SECTIONS:
            part = [row for row in own if row["section"] == title]
            if part:
                print(f"\n{title}:\n")
                _print_section(part)


def _print_section(rows):
    columns = {}
    for row in sorted(rows, key=lambda row: row["sparsity"]):
        columns.setdefault(_column(row), []).append(row)
    _print_line(["method", *columns, "seconds"])
    _print_line(["---"] * (len(columns) + 2))
    for label in dict.fromkeys(map(_label, rows)):
        cells = [[r for r in part if _label(r) == label] for part in columns.values()]
        seconds = [row["seconds"] for cell in cells for row in cell]
        _print_line([label, *map(quality, cells), f"{np.median(seconds):.1f}"])


def _print_line(cells):
    print("|", " | ".join(cells), "|")


def _label(row):
    plain = row["recovery"] == "none"
    return row["method"] if plain else f"{row['method']}, {row['recovery']}"


def _column(row):
    pattern = "" if row["pattern"] == "1x1" else f"{row['pattern']} "
    return f"{pattern}{100 * row['sparsity']:g} %"


def quality(rows):
    """Returns the accuracy of some runs as text, or else the agreement and error."""
    if not rows:
        return "-"
    if rows[0]["accuracy"] is not None:
        return _spread(rows, "accuracy")
    return f"{_spread(rows, 'agreement')}, {np.median(_values(rows, 'error')):.2g}"


def _spread(rows, name):
    values, zeros = 100 * _values(rows, name), np.mean(_values(rows, "zeros"))
    spread = f"{np.median(values):.1f} ({values.min():.1f} - {values.max():.1f})"
    misses = abs(zeros - rows[0]["sparsity"]) > 0.005
    return f"{spread} at {100 * zeros:.0f} %" if misses else spread


def _values(rows, name):
    return np.array([row[name] for row in rows])

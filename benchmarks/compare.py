"""Compares two results of `speed.py --json`: a regression is a ratio above 1.

python benchmarks/compare.py before.json after.json
"""

import argparse
import json


def compare(before, after):
    """Returns a markdown table of what both results hold.

    Args:
        before: Dict from a row's name to its number.
        after: The same, of another run.
    """
    lines = ["| | before | after | after / before |", "|---|---|---|---|"]
    for name, old in before.items():
        if name in after:
            new = after[name]
            change = f"{new / old:.2f}" if old else "-"
            lines.append(f"| {name} | {old:g} | {new:g} | {change} |")
    missing = sorted(set(before) ^ set(after))
    if missing:
        lines.append(f"\nOnly in one of the two: {', '.join(missing)}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after")
    options = parser.parse_args()
    rows = []
    for path in (options.before, options.after):
        with open(path) as file:
            rows.append(json.load(file)["rows"])
    print(compare(*rows))


if __name__ == "__main__":
    main()

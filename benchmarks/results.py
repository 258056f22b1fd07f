"""Keeps results in JSON files that several processes may fill, and prints tables."""

import contextlib
import fcntl
import json
import os

import numpy as np


def load(path):
    """Returns the results in a file, or empty ones if there is no file."""
    if not os.path.exists(path):
        return empty()
    with open(path) as file:
        return json.load(file)


def empty():
    """Returns results without a run.

    Returns:
        Dict of `"versions"` (of packages, by name), `"tasks"` (what each task trains,
        by name), `"commands"` (that made the results) and `"rows"`: one dict a run with
        the keys `task`, `method`, `start`, `family`, `seed`, `sparsity`, `accuracy`,
        `kernel_sparsity`, `flops` (share of the dense model's) and `seconds`.
    """
    return {"versions": {}, "tasks": {}, "commands": [], "rows": []}


def key_of(row):
    """Returns what makes a row one of its kind."""
    return row["task"], row["method"], row["seed"], row["sparsity"]


def merge(first, second):
    """Returns the results of both; where both have a run, that of the second.

    Raises:
        ValueError: If they come from other versions, or trained otherwise.
    """
    merged = empty()
    for part in ("versions", "tasks"):
        merged[part] = first[part] | second[part]
        for name in first[part].keys() & second[part].keys():
            if first[part][name] != second[part][name]:
                raise ValueError(
                    f"These results do not belong together, for {name} differs: "
                    f"{first[part][name]} and {second[part][name]}"
                )
    merged["commands"] = list(dict.fromkeys(first["commands"] + second["commands"]))
    rows = {key_of(row): row for row in first["rows"] + second["rows"]}
    merged["rows"] = list(rows.values())
    return merged


def save(path, results):
    """Merges results into a file, which other processes may write too."""
    with _locked(f"{path}.lock"):
        merged = merge(load(path), results)
        with open(f"{path}.new", "w") as file:
            json.dump(merged, file, indent=1)
        os.replace(f"{path}.new", path)


@contextlib.contextmanager
def _locked(path):
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def print_tables(results):
    """Prints what was run, and a markdown table for each task."""
    versions = (f"{name} {version}" for name, version in results["versions"].items())
    print(", ".join(versions))
    for command in results["commands"]:
        print(f"    {command}")
    for task, setup in results["tasks"].items():
        rows = [row for row in results["rows"] if row["task"] == task]
        if rows:
            print()
            _print_table(task, setup, rows)


def _print_table(task, setup, rows):
    seeds = len({row["seed"] for row in rows})
    dense = [row for row in rows if row["sparsity"] == 0]
    rows = [row for row in rows if row["sparsity"] > 0]
    print(
        f"**{task}**: {setup['weights']:,} weights in kernels, {setup['flops']:,} FLOPs"
        f" dense; {setup['train']:,} / {setup['test']:,} examples; {setup['steps']} "
        f"steps dense and {setup['steps']} while pruning, or {2 * setup['steps']} from "
        f"initial weights; {setup.get('optimizer', 'adam')} "
        f"{setup['learning_rate']:g}, batches of "
        f"{setup['batch_size']}; {seeds} seeds. Mean test accuracy in % (lowest - "
        "highest).\n"
    )
    for method in dict.fromkeys(row["method"] for row in dense):
        values = [row["accuracy"] for row in dense if row["method"] == method]
        print(f"- {method}: {_cell(values)}")
    for family in dict.fromkeys(row["family"] for row in rows):
        print(f"\n{family[0].upper()}{family[1:]}:\n")
        _print_family([row for row in rows if row["family"] == family])


def _print_family(rows):
    sparsities = sorted({row["sparsity"] for row in rows})
    percents = [f"{100 * sparsity:g}" for sparsity in sparsities]
    header = ["method", "starts from", *(f"{percent}%" for percent in percents)]
    header.append(f"FLOPs in % of dense, at {' / '.join(percents)}%")
    print("|", " | ".join(header), "|")
    print("|---" * len(header) + "|")
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        accuracies, flops = [], []
        for sparsity in sparsities:
            cell = [row for row in of_method if row["sparsity"] == sparsity]
            accuracies.append(_cell([row["accuracy"] for row in cell]))
            share = np.mean([row["flops"] for row in cell]) if cell else None
            flops.append("-" if share is None else f"{100 * share:.1f}")
        cells = [method, of_method[0]["start"], *accuracies, " / ".join(flops)]
        print("|", " | ".join(cells), "|")


def _cell(accuracies):
    """Formats accuracies of several seeds; a dash where there is none."""
    if not accuracies:
        return "-"
    values = 100 * np.array(accuracies)
    return f"{values.mean():.1f} ({values.min():.1f} - {values.max():.1f})"

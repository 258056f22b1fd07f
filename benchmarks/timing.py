"""Times contestants in turns, and prints what each costs as a ratio.

A machine that others use is slow at one moment and fast at the next. So all contestants
run once in every round, a ratio is of two times of one round, and a table says the
median and the quartiles of the ratios.
"""

import json
import platform
import time

import keras
import numpy as np

from keras_pruner import __version__


def interleave(contestants, rounds):
    """Runs every contestant once a round.

    Args:
        contestants: Dict from a name to a function without arguments that returns when
            its work is done, or returns the seconds that count.
        rounds: Number of rounds that are timed; one more, untimed, goes before.

    Returns:
        Dict from name to an array of seconds, one per round.
    """
    seconds = {name: [] for name in contestants}
    for number in range(rounds + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            counted = run()
            spent = time.perf_counter() - start
            if number:
                seconds[name].append(spent if counted is None else counted)
    return {name: np.array(values) for name, values in seconds.items()}


def ratios(seconds, limit):
    """Returns rows: each contestant's time over that of `limit` in the same round.

    Args:
        seconds: What `interleave` returned.
        limit: Name of the contestant that the others are compared with.
    """
    rows = {}
    for name, values in seconds.items():
        low, middle, high = np.quantile(values / seconds[limit], (0.25, 0.5, 0.75))
        rows[name] = {
            "ratio": round(float(middle), 3),
            "quartiles": [round(float(low), 3), round(float(high), 3)],
            "milliseconds": round(1e3 * float(np.median(values)), 3),
        }
    return rows


class Report:
    """Collects rows, prints them as markdown tables and saves them as JSON."""

    def __init__(self, command):
        self.rows = {}
        self.about = {
            "command": command,
            "keras_pruner": __version__,
            "keras": keras.__version__,
            "backend": f"{keras.backend.backend()} {_backend_version()}",
            "python": platform.python_version(),
            "processor": platform.machine(),
        }

    def table(self, title, rows, limit):
        """Prints one table, as soon as it is measured.

        Args:
            title: What was measured.
            rows: Dict from a name to a dict with `ratio`, `quartiles` and
                `milliseconds`.
            limit: Name of what the others are compared with.
        """
        print(f"\n**{title}**\n")
        print(f"| | time / {limit} | quartiles | ms |\n|---|---|---|---|")
        for name, row in rows.items():
            low, high = row["quartiles"]
            print(
                f"| {name} | {row['ratio']:.2f} | {low:.2f} - {high:.2f} "
                f"| {row['milliseconds']:.2f} |",
                flush=True,
            )
            self.rows[f"{title}: {name}"] = row["ratio"]

    def values(self, title, columns, rows):
        """Prints a table of plain numbers.

        Args:
            title: What was measured.
            columns: Names of the columns.
            rows: Dict from a name to a list of numbers.
        """
        print(f"\n**{title}**\n")
        print(f"| | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|")
        for name, numbers in rows.items():
            print(f"| {name} | {' | '.join(f'{n:g}' for n in numbers)} |", flush=True)
            for column, number in zip(columns, numbers, strict=True):
                self.rows[f"{title}: {name}, {column}"] = number

    def finish(self, path=None):
        """Prints what was measured with, and saves everything if a path is given."""
        print("\n" + ", ".join(f"{key}: {value}" for key, value in self.about.items()))
        if path is not None:
            with open(path, "w") as file:
                json.dump({"about": self.about, "rows": self.rows}, file, indent=1)


def _backend_version():
    module = {"tensorflow": "tensorflow", "jax": "jax", "torch": "torch"}
    return __import__(module[keras.backend.backend()]).__version__

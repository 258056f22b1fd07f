"""What the scripts of other packages share; their Pythons have no keras_pruner."""

import json
import time

import numpy as np


def in_turns(one, other, rounds):
    """Times two functions in turns; the first turn, which compiles, is left out.

    Returns:
        Tuple of two arrays of seconds, one number per round.
    """
    seconds = ([], [])
    for _ in range(rounds + 1):
        for function, spent in zip((one, other), seconds, strict=True):
            start = time.perf_counter()
            function()
            spent.append(time.perf_counter() - start)
    return tuple(np.array(spent[1:]) for spent in seconds)


def print_row(one, limit, parts=1):
    """Prints a row of the tables of `speed.py` as JSON.

    Args:
        one: Seconds of a package, per round.
        limit: Seconds of what it is compared with, in the same rounds.
        parts: What the milliseconds are divided by.
    """
    low, middle, high = np.quantile(one / limit, (0.25, 0.5, 0.75))
    row = {"ratio": middle, "quartiles": [low, high]}
    print(json.dumps(row | {"milliseconds": 1e3 * np.median(one) / parts}))

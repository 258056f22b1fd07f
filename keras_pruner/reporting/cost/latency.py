"""Times models in turns."""

import dataclasses
import gc
import math
import time

import numpy as np

# A visit to a model lasts at least so long, in seconds, and has so many calls.
_VISIT, _FEWEST, _MOST = 0.02, 3, 200
# Calls before the first that is timed.
_WARM_UP = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Timing:
    """Times of one model, in seconds.

    Args:
        calls: Array (rounds, calls): wall time of each call.
        cpu: Array (rounds,): CPU time of the process per call, added over all threads.
    """

    calls: np.ndarray
    cpu: np.ndarray

    @property
    def milliseconds(self):
        """Lower quartile, median and upper quartile of all calls."""
        return _quartiles(1e3 * self.calls)

    @property
    def cpu_milliseconds(self):
        """Median over the rounds of the CPU time of one call."""
        return float(np.median(1e3 * self.cpu))

    def ratio_to(self, other):
        """Returns quartiles over the rounds of the ratio of both medians."""
        return _quartiles(
            np.median(self.calls, axis=1) / np.median(other.calls, axis=1)
        )

    def cpu_ratio_to(self, other):
        """Returns quartiles over the rounds of the ratio of both CPU times."""
        # Clocks of some systems are coarser than a call.
        return _quartiles(self.cpu / np.maximum(other.cpu, 1e-9))


def _quartiles(values):
    """Returns lower quartile, median and upper quartile, as floats.

    Example:

    >>> _quartiles(np.array([1, 2, 3, 4, 5]))
    (2.0, 3.0, 4.0)
    """
    return tuple(map(float, np.quantile(values, (0.25, 0.5, 0.75))))


def interleave(runs, rounds, tick=lambda: None):
    """Times functions in turns.

    A round visits the functions in their order and then in the opposite one: A B B A.
    So both have the same share of a machine that becomes slower or faster. A visit is
    one call that is not timed, which loads the caches, and several that are.

    Args:
        runs: List of functions without arguments.
        rounds: Number of rounds.
        tick: Function without arguments that is called after each round.

    Returns:
        List with a `Timing` for each function.
    """
    numbers = [_calls_of_visit(run) for run in runs]
    walls = [[] for _ in runs]
    cpus = [[] for _ in runs]
    order = [*range(len(runs)), *reversed(range(len(runs)))]
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            wall, cpu = [[] for _ in runs], [0.0 for _ in runs]
            for index in order:
                seconds, cpu_seconds = _visit(runs[index], numbers[index])
                wall[index] += seconds
                cpu[index] += cpu_seconds
            for index, number in enumerate(numbers):
                walls[index].append(wall[index])
                cpus[index].append(cpu[index] / (2 * number))
            tick()
    finally:
        if collects:
            gc.enable()
    return [
        Timing(np.array(wall), np.array(cpu))
        for wall, cpu in zip(walls, cpus, strict=True)
    ]


def _calls_of_visit(run):
    seconds, _ = _visit(run, _WARM_UP)
    number = math.ceil(_VISIT / max(min(seconds), 1e-9))
    return min(max(number, _FEWEST), _MOST)


def _visit(run, number):
    """Returns wall times of some calls, and the CPU time of all."""
    run()
    seconds = []
    begin = time.process_time()
    for _ in range(number):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds, time.process_time() - begin

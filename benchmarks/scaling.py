"""How memory and time of a mask update grow with the number of weights.

Sixteen kernels of one size, pruned to 90 % by magnitude: ranked all together ("global")
and each by itself ("uniform"). Each size runs in a process of its own, whose largest
resident memory is read. Kernels are updated twice from new values in between.

    python benchmarks/scaling.py --smoke
    python benchmarks/scaling.py --sizes 1e6 1e7 1e8 1e9
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
import time

import keras
from keras import ops

from keras_pruner import KerasBasePruner, __version__

NUM_KERNELS = 16


def resident_bytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def assign_values(variables, seed):
    # One by one, so that no more than a kernel is held twice.
    for number, variable in enumerate(variables):
        value = keras.random.normal(variable.shape, seed=seed + number)
        variable.assign(value * (0.5 + number / NUM_KERNELS))


def measure(size, allocation):
    """Returns a dict of the weights, bytes and seconds of two mask updates."""
    side = max(1, round((size / NUM_KERNELS) ** 0.5))
    start = resident_bytes()
    variables = {
        f"kernel_{number}": keras.Variable(ops.zeros((side, side)))
        for number in range(NUM_KERNELS)
    }
    assign_values(variables.values(), 0)
    pruner = KerasBasePruner(
        {"target_sparsity": 0.9, "allocation": allocation}, variables
    )
    held = resident_bytes() - start
    seconds = []
    for update in range(2):
        assign_values(variables.values(), 100 * update)
        before = time.perf_counter()
        pruner.update_masks()
        seconds.append(time.perf_counter() - before)
    check_exact(pruner)
    return {
        "weights": pruner.num_weights,
        "held": held,
        "peak": resident_bytes() - start,
        "seconds": seconds,
    }


def check_exact(pruner):
    wanted = 0.9 * pruner.num_weights
    # Each kernel rounds by itself where the allocation is uniform.
    if abs(pruner.num_pruned - wanted) > NUM_KERNELS:
        raise RuntimeError(f"{pruner.num_pruned} pruned, {wanted} asked for")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", type=float, default=[1e6, 1e7, 1e8])
    parser.add_argument("--smoke", action="store_true", help="small sizes only")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        size, allocation = options.one
        print(json.dumps(measure(float(size), allocation)))
        return
    print(
        f"keras_pruner {__version__}, Keras {keras.__version__} on "
        f"{keras.backend.backend()}, Python {platform.python_version()}\n"
    )
    print("| weights | allocation | first update, s | second, s | bytes a weight |")
    print("|---|---|---|---|---|")
    for size in [1e4, 1e5] if options.smoke else options.sizes:
        for allocation in ("uniform", "global"):
            command = [sys.executable, __file__, "--one", str(size), allocation]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            found = json.loads(done.stdout)
            first, second = found["seconds"]
            print(
                f"| {found['weights']:,} | {allocation} | {first:.2f} | {second:.2f} | "
                f"{found['held'] / found['weights']:.1f}, at most "
                f"{found['peak'] / found['weights']:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

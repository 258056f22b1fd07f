"""Resident memory of mask updates of one large kernel, in a process of its own.

    python benchmarks/update_memory.py --size 1e8 --pattern 4x4 --allocation global
    python benchmarks/update_memory.py --size 1e8 --selection

A small kernel is pruned before the process is measured. What is counted is the peak
beyond that, less the bytes of the weights and masks. TensorFlow keeps what it once had,
so the peak of making the pruner is in it, too. The first update compiles; the second
does not. With `--selection` it is of `select_lowest` alone: what that holds beyond the
scores that it is given and the mask that it returns.
"""

import argparse
import json
import threading

import keras
import numpy as np
from keras import ops
from psutil import Process

from keras_pruner.backend import CompiledFunction
from keras_pruner.masks import select_lowest
from keras_pruner.pruners import create_pruners

BYTES_OF_SCORE = 4


class Peak:
    """Context that samples the resident memory of the process once a millisecond.

    Attributes:
        highest: Bytes at the peak.
    """

    def __enter__(self):
        self._process, self._is_over = Process(), threading.Event()
        self.highest = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self):
        while not self._is_over.wait(0.001):
            self.highest = max(self.highest, self._process.memory_info().rss)

    def __exit__(self, *error):
        self._is_over.set()
        self._thread.join()


def made_pruner(size, options):
    settings = {
        "target_sparsity": 0.9,
        "pattern": options.pattern,
        "allocation": options.allocation,
        "mask_bits": options.mask_bits,
    }
    # Square, of whole blocks of four.
    side = int(size**0.5) // 4 * 4
    value = np.random.default_rng(0).standard_normal((side, side), "float32")
    kernel = keras.Variable(value, trainable=True, name="kernel")
    (pruner,) = create_pruners(settings, {"kernel": kernel})
    return pruner


def update(pruner, sparsity):
    pruner.update_masks(sparsity)
    (kernel,) = pruner.kernels
    ops.convert_to_numpy(ops.reshape(kernel.variable, (-1,))[:1])


def selection_extras(size):
    """Returns the peaks of two selections over the bytes of their scores."""
    side, select = int(size**0.5), CompiledFunction(select_lowest)
    generator = np.random.default_rng(0)
    select(*select_arguments(generator.random((64, 64), "float32"), 0.5))
    value = generator.random((side, side), "float32")
    extras = []
    for sparsity in (0.5, 0.7):
        scores, k = select_arguments(value, sparsity)
        before = Process().memory_info().rss + value.size
        with Peak() as peak:
            mask = select(scores, k)
            ops.convert_to_numpy(mask[0, 0])
        del mask, scores
        extras.append(round((peak.highest - before) / value.nbytes, 3))
    return extras


def select_arguments(value, sparsity):
    k = ops.convert_to_tensor(int(sparsity * value.size), "int32")
    return ops.convert_to_tensor(value), k


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=1e8)
    parser.add_argument("--pattern", default="1x1")
    parser.add_argument("--allocation", default="uniform")
    parser.add_argument("--mask-bits", type=int, default=8)
    parser.add_argument("--selection", action="store_true")
    options = parser.parse_args()
    if options.selection:
        print(json.dumps(selection_extras(options.size)))
        return
    for sparsity in (0.5, 0.7):
        update(made_pruner(64**2, options), sparsity)
    before = Process().memory_info().rss
    pruner = made_pruner(options.size, options)
    scores = BYTES_OF_SCORE * pruner.num_weights
    before += pruner.num_weights * (4 + options.mask_bits / 8)
    extras = []
    for sparsity in (0.5, 0.7):
        with Peak() as peak:
            update(pruner, sparsity)
        extras.append(round((peak.highest - before) / scores, 3))
    print(json.dumps(extras))


if __name__ == "__main__":
    main()

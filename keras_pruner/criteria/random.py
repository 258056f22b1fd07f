import math
import zlib

from keras import ops

from keras_pruner.criteria.base import Criterion, register_criterion


@register_criterion("random")
class Random(Criterion):
    """Scores every weight uniformly at random: the baseline to beat.

    `scores = hash(index, seed, path) / 2^24`, in [0, 1)

    The numbers come from an integer hash of the weight's index, not from a backend's
    generator. So they are the same at every update (a pruned weight stays pruned), on
    every backend, and take no memory.

    Args:
        seed: Integer.
    """

    default_allocation = "erk"

    def __init__(self, seed=0):
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"`seed` must be an integer. Received: seed={seed!r}")
        self.seed = seed

    def scores(self, weight, kernel):
        return uniform_hash(weight.shape, salt_of(f"{self.seed}/{kernel.path}"))

    def get_config(self):
        return {"seed": self.seed}


def salt_of(text):
    """Returns an int32, as a Python integer, that differs from text to text."""
    return _as_int32(zlib.crc32(text.encode()))


def uniform_hash(shape, salt):
    """Returns numbers in [0, 1) that look random, the same on every backend.

    Args:
        shape: Shape of the float32 tensor to return.
        salt: Integer or int32 tensor; another salt gives other numbers.
    """
    index = ops.reshape(ops.arange(math.prod(shape), dtype="int32"), shape)
    return ops.cast(_mix(ops.bitwise_xor(_mix(index), salt)), "float32") / 2.0**24


def _as_int32(value):
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def _shift_right(x, places):
    """Logical shift of an int32: the sign bit does not spread."""
    return ops.bitwise_and(ops.right_shift(x, places), 2 ** (32 - places) - 1)


def _mix(x):
    """An avalanche hash of int32 to [0, 2^24): multiply wraps, shifts are logical."""
    x = ops.bitwise_xor(x, _shift_right(x, 16)) * _as_int32(0x7FEB352D)
    x = ops.bitwise_xor(x, _shift_right(x, 15)) * _as_int32(0x846CA68B)
    return _shift_right(ops.bitwise_xor(x, _shift_right(x, 16)), 8)

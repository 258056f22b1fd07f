"""Pseudo-random numbers that are equal on every backend, and the backend's own."""

import math
import zlib

import keras
from keras import ops


def salt_of(text):
    """Returns a text's CRC-32 as a Python integer in the range of int32."""
    return _as_int32(zlib.crc32(text.encode()))


def uniform_hash(shape, salt):
    """Returns pseudo-random numbers in [0, 1) that are equal on every backend.

    Args:
        shape: Shape of the float32 tensor to return.
        salt: Integer or int32 tensor that seeds the numbers.
    """
    index = ops.reshape(ops.arange(math.prod(shape), dtype="int32"), shape)
    return ops.cast(_mix(ops.bitwise_xor(_mix(index), salt)), "float32") / 2.0**24


def _as_int32(value):
    value &= 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


def _shift_right(x, places):
    """Shifts an int32 logically, so that the sign bit does not spread."""
    return ops.bitwise_and(ops.right_shift(x, places), 2 ** (32 - places) - 1)


def _mix(x):
    """Hashes int32 to [0, 2^24); multiplications wrap and shifts are logical."""
    x = ops.bitwise_xor(x, _shift_right(x, 16)) * _as_int32(0x7FEB352D)
    x = ops.bitwise_xor(x, _shift_right(x, 15)) * _as_int32(0x846CA68B)
    return _shift_right(ops.bitwise_xor(x, _shift_right(x, 16)), 8)


def random_state():
    """Returns the state of the backend's own generator as bytes, or `None`.

    torch draws dropout and the order of shuffled data from its generator. You cannot
    read TensorFlow's generator, and JAX has none.
    """
    if keras.backend.backend() != "torch":
        return None
    import torch

    return torch.get_rng_state().numpy().tobytes()


def set_random_state(state):
    """Restores a state that `random_state` returned."""
    if keras.backend.backend() != "torch" or state is None:
        return
    import torch

    torch.set_rng_state(torch.tensor(list(state), dtype=torch.uint8))

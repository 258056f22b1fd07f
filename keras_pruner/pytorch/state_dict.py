"""Converts the saved state of a pruner to torch tensors, and back."""

import numpy as np
from keras import ops


def as_tensors(state):
    """Returns a dict of NumPy arrays as a dict of CPU tensors."""
    return {name: _as_tensor(array) for name, array in state.items()}


def as_arrays(state):
    """Returns a dict of tensors as a dict of NumPy arrays; anything else unchanged."""
    if not isinstance(state, dict):
        return state
    return {name: ops.convert_to_numpy(value) for name, value in state.items()}


def _as_tensor(array):
    import torch

    if str(array.dtype) == "bfloat16":
        # NumPy has no bfloat16 of its own, so torch cannot read the array.
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))

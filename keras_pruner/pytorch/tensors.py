"""Converts between torch tensors, NumPy arrays and tensors of Keras' backend."""

import keras
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


def as_array(tensor):
    """Returns a torch tensor as a NumPy array, bfloat16 as float32."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()


def as_keras(tensor):
    """Returns a copy of a torch tensor as a tensor of Keras' backend."""
    if keras.backend.backend() == "torch":
        return tensor.detach().clone()
    dtype = "bfloat16" if str(tensor.dtype) == "torch.bfloat16" else None
    # The array of a CPU tensor shares its memory.
    return ops.convert_to_tensor(as_array(tensor).copy(), dtype=dtype)


def as_torch(value):
    """Returns an array, or a tensor of Keras' backend, as a torch tensor."""
    import torch

    if isinstance(value, torch.Tensor):
        return value
    return _as_tensor(ops.convert_to_numpy(value))


def _as_tensor(array):
    import torch

    if str(array.dtype) == "bfloat16":
        # NumPy has no bfloat16 of its own, so torch cannot read the array.
        return torch.from_numpy(array.view("int16")).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))

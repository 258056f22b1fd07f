"""The state of the random generator that a backend has of its own."""

import keras


def random_state():
    """Returns the state of the backend's own generator as bytes; `None` if it has none.

    torch draws dropout and the order of shuffled data from it. TensorFlow's cannot be
    read, and JAX has none.
    """
    if keras.backend.backend() != "torch":
        return None
    import torch

    return torch.get_rng_state().numpy().tobytes()


def set_random_state(state):
    """Sets the state that `random_state` returned."""
    if keras.backend.backend() != "torch" or state is None:
        return
    import torch

    torch.set_rng_state(torch.tensor(list(state), dtype=torch.uint8))

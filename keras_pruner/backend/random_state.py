"""Reads and restores the state of the backend's own random generator."""

import keras


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

"""Where and how the maths of `keras.ops` runs on the tensors of a torch module."""

import contextlib

import keras


def check_backend():
    """Raises unless Keras runs on torch.

    Raises:
        RuntimeError: It says what to set.
    """
    backend = keras.backend.backend()
    if backend != "torch":
        raise RuntimeError(
            "PytorchBasePruner prunes torch modules, so Keras must run on torch, but "
            f"its backend is '{backend}'. Set the environment variable "
            "KERAS_BACKEND=torch before Python starts (or `os.environ`, before the "
            "first import of keras). For a Keras model use PruningCallback."
        )


@contextlib.contextmanager
def beside_training(device):
    """Context for maths that is no part of the model: no gradients, no autocast.

    Args:
        device: `torch.device` on which new tensors are made.
    """
    import torch

    with (
        keras.device(str(device)),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield

"""Runs the maths of `keras.ops` on the tensors of a torch module."""

import contextlib

import keras


def check_backend():
    """Raises an error unless Keras runs on torch.

    Raises:
        RuntimeError: If Keras runs on another backend.
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
    """Disables gradients and autocast, for maths outside of the model.

    Args:
        device: `torch.device` of new tensors.
    """
    import torch

    is_torch = keras.backend.backend() == "torch"
    with (
        keras.device(str(device)) if is_torch else contextlib.nullcontext(),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
    ):
        yield

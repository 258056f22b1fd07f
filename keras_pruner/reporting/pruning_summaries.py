"""Writes the sparsity of a model for TensorBoard."""

import importlib.util
from typing import Any

import keras
import numpy as np

from keras_pruner.backend import summary_writer_of
from keras_pruner.kernels import find_all_kernels, masks_of
from keras_pruner.reporting.kernel_values import weights_of
from keras_pruner.types import Logs


class PruningSummaries(keras.callbacks.TensorBoard):
    """Is a TensorBoard callback that also writes the sparsity of every kernel.

    It counts zeros in the weights that layers compute with, as `report` does, no matter
    how the zeros were made. Frozen kernels and those under LoRA count too. Embeddings
    count once they are pruned. The scalars `sparsity/<path of the kernel>` and
    `sparsity/all` have one value per epoch. The arguments are those of
    `keras.callbacks.TensorBoard`.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "PruningSummaries needs TensorBoard. Install it, or "
                "keras-pruner[tensorboard]."
            )
        super().__init__(*args, **kwargs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        super().on_epoch_end(epoch, logs)
        self.write_sparsities(epoch)

    def write_sparsities(self, step: int) -> None:
        """Writes the sparsity of every kernel now.

        Args:
            step: Integer that TensorBoard shows it at.
        """
        with summary_writer_of(self).as_default():
            for name, sparsity in _sparsities(self.model).items():
                self.summary.scalar(f"sparsity/{name}", sparsity, step=step)


def _sparsities(model):
    """Returns a dict from the path of each kernel, and `"all"`, to its sparsity."""
    masks = masks_of(model)
    found = {}
    zeros = total = 0
    for kernel in find_all_kernels(model).known:
        values = weights_of(kernel, masks)
        if values is None or values.size == 0:
            continue
        count = values.size - int(np.count_nonzero(values))
        is_pruned = count > 0 or id(kernel.variable) in masks
        if isinstance(kernel.layer, keras.layers.Embedding) and not is_pruned:
            continue
        zeros, total = zeros + count, total + values.size
        found[kernel.path] = count / values.size
    return found | {"all": zeros / total} if total else {}

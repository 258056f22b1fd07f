"""What TensorBoard shows of a pruned model."""

import importlib.util

import keras
from keras import ops

from keras_pruner.kernels import find_kernels


class PruningSummaries(keras.callbacks.TensorBoard):
    """TensorBoard callback that also writes the sparsity of every prunable kernel.

    It reads the weights themselves, so it shows what is true, whoever made the zeros.
    Scalars are named `sparsity/<path of the kernel>` and `sparsity/all`, one value per
    epoch. Takes the arguments of `keras.callbacks.TensorBoard`.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, *args, **kwargs):
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "PruningSummaries needs TensorBoard. Install it, or "
                "keras-pruner[tensorboard]."
            )
        super().__init__(*args, **kwargs)

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        zeros = total = 0
        with self._train_writer.as_default():
            for kernel in find_kernels(self.model).kernels:
                values = ops.convert_to_numpy(kernel.variable)
                count = int((values == 0).sum())
                zeros, total = zeros + count, total + values.size
                self.summary.scalar(
                    f"sparsity/{kernel.path}", count / values.size, step=epoch
                )
            if total:
                self.summary.scalar("sparsity/all", zeros / total, step=epoch)

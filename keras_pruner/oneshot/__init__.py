"""Makes masks from a few batches of data, without training."""

from keras_pruner.oneshot.at_init import prune_at_init
from keras_pruner.oneshot.inputs import KernelInputs, register_kernel_inputs

__all__ = ["KernelInputs", "prune_at_init", "register_kernel_inputs"]

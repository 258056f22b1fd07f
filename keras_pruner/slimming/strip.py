"""A plain copy of a pruned model."""

from keras_pruner.kernels import check_built
from keras_pruner.pytorch import is_torch_module, strip_module
from keras_pruner.training import plain_copy


def strip(model):
    """Returns a plain copy of a model: no wrapper layers, pruned weights exactly zero.

    The copy loads without this package and is not compiled. The model given is not
    changed. A model that was pruned by the callback alone is plain already; its copy
    differs only in being uncompiled.

    Args:
        model: Built Keras model; or, with Keras on torch, a `torch.nn.Module` that
            `PytorchBasePruner` has pruned, whose copy is not compiled and has no hooks.

    Returns:
        Keras model, or torch module, with the same outputs.

    Raises:
        ValueError: If the model cannot be copied.
    """
    if is_torch_module(model):
        return strip_module(model)
    check_built(model)
    return plain_copy(model)

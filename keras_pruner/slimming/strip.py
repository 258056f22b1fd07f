"""Makes a plain copy of a pruned model."""

from keras_pruner.kernels import check_built
from keras_pruner.pytorch import is_torch_module, strip_module
from keras_pruner.training import plain_copy


def strip(model):
    """Returns a plain copy of a model: no wrapper layers, pruned weights exactly zero.

    The copy loads without this package and is not compiled. The original model is
    unchanged. A model that only the callback pruned is already plain; its copy differs
    only because it is not compiled.

    Args:
        model: Built Keras model; or, if Keras runs on torch, a `torch.nn.Module` that
            `PytorchBasePruner` has pruned. Its copy is not compiled and has no hooks.

    Returns:
        Keras model, or torch module, with the same outputs.

    Raises:
        ValueError: If the model cannot be copied.

    Example:

    >>> layer = PrunedLayer(keras.layers.Dense(2, name="dense"))
    >>> model = keras.Sequential([keras.Input((2,)), layer])
    >>> _ = layer.layer.kernel.assign([[1.0, 2.0], [3.0, 4.0]])
    >>> _ = layer.masks["dense/kernel"].assign([[True, False], [True, True]])
    >>> dense = strip(model).layers[0]
    >>> dense.name, ops.convert_to_numpy(dense.kernel).tolist()
    ('dense', [[1.0, 0.0], [3.0, 4.0]])
    """
    if is_torch_module(model):
        return strip_module(model)
    check_built(model)
    return plain_copy(model)

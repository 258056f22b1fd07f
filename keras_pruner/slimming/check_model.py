"""Checks whether channels of a model can be cut."""

from keras_pruner.backend import all_layers
from keras_pruner.kernels import check_built
from keras_pruner.pytorch import is_torch_module


def check_can_be_cut(model):
    """Raises an error if an object is no built Keras model, or a layer is quantized.

    Args:
        model: Any object.

    Raises:
        TypeError: If it is no Keras model.
        ValueError: If it is not built, or a layer is quantized.
    """
    if is_torch_module(model):
        raise TypeError(
            "Channels are cut out of Keras models. For torch modules use the package "
            "Torch-Pruning, https://github.com/VainF/Torch-Pruning; `strip` makes a "
            "pruned module plain."
        )
    check_built(model)
    for layer in all_layers(model):
        mode = getattr(layer, "quantization_mode", None)
        if mode is not None:
            raise ValueError(
                f"'{layer.name}' is quantized ('{mode}'), and packed kernels cannot be "
                "cut. Cut channels first, then call `quantize`."
            )

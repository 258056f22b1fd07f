"""Makes a plain copy of a pruned model."""

from keras_pruner.comparison import check_copy
from keras_pruner.kernels import check_built
from keras_pruner.pytorch import check_module, is_torch_module, strip_module
from keras_pruner.training import plain_copy
from keras_pruner.types import Data, ModelT


def strip(model: ModelT, *, check: bool = True, inputs: Data = None) -> ModelT:
    """Returns a plain copy of a model: no wrapper layers, pruned weights exactly zero.

    The copy loads without this package and is not compiled. The original model is
    unchanged. A model that only the callback pruned is already plain; its copy differs
    only because it is not compiled.

    The copy keeps all that Keras saves with the model: weights, vocabularies, adapted
    statistics, states of random generators, and which layers are frozen. Classes and
    functions that are not registered are kept too. Then model and copy run on the same
    inputs, and an error tells if their outputs differ.

    Args:
        model: Built Keras model; or a `torch.nn.Module` that `PytorchBasePruner` or
            `prune_one_shot` has pruned. Its copy is not compiled and has no hooks.
        check: Whether to compare the outputs of the copy with the original's.
        inputs: A batch to compare them on, as the model takes it. By default two
            samples are made from the shapes and types of the model's inputs. A model
            that does not say them, and a torch module, is compared only on given
            inputs.

    Returns:
        Keras model, or torch module, with the same outputs.

    Raises:
        ValueError: If the model cannot be copied, or the copy computes other outputs.

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
        plain = strip_module(model)
        if check and inputs is not None:
            check_module(model, plain, inputs)
        return plain
    check_built(model)
    plain = plain_copy(model)
    if check:
        check_copy(model, plain, inputs)
    return plain

"""Prepares a model for pruning, and gives the hooks of Intel's manager."""

from typing import Any

import keras

from keras_pruner.compat.neural_compressor.config import WeightPruningConfig
from keras_pruner.compat.neural_compressor.keras_pruning import KerasPruning
from keras_pruner.compat.neural_compressor.torch_pruning import TorchPruning
from keras_pruner.oneshot import prune_one_shot
from keras_pruner.pytorch import is_torch_module


def prepare_pruning(
    model: Any,
    config: Any,
    optimizer: Any = None,
    dataloader: Any = None,
    loss_func: Any = None,
    framework: str | None = None,
    device: Any = None,
) -> Any:
    """Prepares a model for pruning.

    With a Keras model, pass the result to `fit` as a callback, or call its hooks in a
    loop of your own. With a torch module and an `optimizer`, train as before: hooks on
    the optimizer prune. Without an optimizer, call the hooks.

    With `pruning_type="sparse_gpt"` and a `dataloader`, the model itself is pruned at
    once.

    Args:
        model: Built Keras model; or `torch.nn.Module`, with Keras on torch.
        config: `WeightPruningConfig`.
        optimizer: `torch.optim.Optimizer`; a Keras model has its own.
        dataloader: Samples for `"sparse_gpt"`, as `prune_one_shot` takes them.
        loss_func: Kept, and without effect.
        framework: `"keras"`, `"pytorch"`, or `None` for that of the model.
        device: Kept, and without effect.

    Returns:
        Object with Intel's hooks, e.g. `on_train_begin()` and `on_step_begin(batch)`.
        It is also its attribute `callbacks`.

    Raises:
        TypeError: If `config` or `model` has another type.
        ValueError: If a key of the config is unknown or out of its range, nothing can
            be pruned, or an argument is missing.
    """
    if not isinstance(config, WeightPruningConfig):
        raise TypeError(
            "`config` must be a `WeightPruningConfig`. Received: "
            f"{config!r} of type {type(config).__name__}"
        )
    own = _framework_of(model)
    if framework not in (None, own):
        raise ValueError(
            f"The model is one of {own}. Received: framework={framework!r}"
        )
    pruning_config = config.to_pruning_config()
    if config.is_sparse_gpt:
        if dataloader is None:
            raise ValueError(
                "`pruning_type='sparse_gpt'` prunes from samples at once: give them as "
                "`dataloader`."
            )
        prune_one_shot(
            model,
            dataloader,
            config=pruning_config,
            method="sparsegpt",
            allocation="uniform",
            in_place=True,
        )
        return None
    if own == "keras":
        return KerasPruning(model, pruning_config)
    return TorchPruning(model, pruning_config, optimizer)


def prepare_compression(model: Any, confs: Any) -> Any:
    """Returns a manager of pruning, with the attributes `model` and `callbacks`.

    Args:
        model: As in `prepare_pruning`.
        confs: `WeightPruningConfig`, or a list of one.

    Returns:
        As `prepare_pruning` without an optimizer; call its hooks, or pass it to `fit`.
    """
    if isinstance(confs, list | tuple):
        if len(confs) != 1:
            raise ValueError(
                "Only one config, a `WeightPruningConfig`, is supported. Distil by "
                "`keras.distillation`, and quantize by `model.quantize` after pruning. "
                f"Received: {len(confs)} configs"
            )
        confs = confs[0]
    return prepare_pruning(model, confs)


def _framework_of(model):
    if isinstance(model, keras.Model):
        return "keras"
    if is_torch_module(model):
        return "pytorch"
    raise TypeError(
        "`model` must be a Keras model or a torch module. Received: "
        f"{model!r} of type {type(model).__name__}"
    )

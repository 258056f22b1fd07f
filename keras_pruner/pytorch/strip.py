"""Makes a plain copy of a torch module."""

import copy
import sys
from typing import Any

import keras
from keras import ops

from keras_pruner.comparison import compare_outputs
from keras_pruner.masks import apply_mask
from keras_pruner.pytorch.context import beside_training
from keras_pruner.pytorch.forward import arguments_of, fixed_pass
from keras_pruner.pytorch.parameters import unwrap
from keras_pruner.pytorch.tensors import as_array


def is_torch_module(module: Any) -> bool:
    """Whether `module` is a torch module, but no Keras layer, on any backend."""
    if "torch" not in sys.modules or isinstance(module, keras.layers.Layer):
        return False
    import torch

    return isinstance(module, torch.nn.Module)


def strip_module(module, masks=None):
    """Returns a plain copy of a module: not compiled, no hooks, pruned weights zero.

    Args:
        module: `torch.nn.Module`, also compiled or wrapped for data parallelism. It
            stays unchanged.
        masks: Dict from a parameter's name in the module to its bool mask, for a module
            that does not have the zeros yet, e.g. an average of weights.

    Returns:
        `torch.nn.Module`.

    Raises:
        ValueError: If the module has no parameter of a mask's name and shape.
    """
    module, masks = unwrap(module), masks or {}
    own = {plain_name(name): p for name, p in module.named_parameters()}
    wrong = [
        f"'{name}' {tuple(mask.shape)}"
        for name, mask in masks.items()
        if name not in own or own[name].shape != mask.shape
    ]
    if wrong:
        raise ValueError(
            f"{type(module).__name__} has not the parameters that were pruned: "
            f"{', '.join(wrong)} is missing or of another shape."
        )
    # `memo` replaces each compiled part of the module by a copy of its plain part.
    # Inner parts come last in `modules()`, and are copied first.
    memo = {}
    for part in reversed(list(module.modules())):
        if hasattr(part, "_orig_mod"):
            memo[id(part)] = copy.deepcopy(unwrap(part), memo)
    plain = copy.deepcopy(module, memo)
    parameters = dict(plain.named_parameters())
    for name, mask in masks.items():
        with beside_training(parameters[name].device):
            parameters[name].copy_(
                apply_mask(parameters[name], ops.convert_to_tensor(mask))
            )
    return plain


def check_module(module, plain, inputs):
    """Raises an error if a module and its copy have other outputs.

    Args:
        module: `torch.nn.Module`. It runs in evaluation mode, and stays unchanged.
        plain: Its copy by `strip_module`.
        inputs: Tensor, tuple of positional arguments, or dict of named ones.

    Raises:
        ValueError: If the outputs differ by more than rounding.
    """
    pair = (unwrap(module), plain)
    result = compare_outputs(*(_outputs(one, inputs) for one in pair))
    if not result.is_equal:
        raise ValueError(
            f"The copy of {type(module).__name__} computes other outputs than the "
            f"module: they differ by up to {result.difference:.3g}. Does `deepcopy` "
            "copy all of it, and do its outputs depend on its inputs only? "
            "`check=False` skips the comparison."
        )


def _outputs(module, inputs):
    """Returns the tensors that a module returns, as arrays, in evaluation mode."""
    args, kwargs = arguments_of(module, inputs)
    with fixed_pass(module):
        outputs = module(*args, **kwargs)
    return [as_array(x) for x in keras.tree.flatten(outputs) if hasattr(x, "detach")]


def plain_name(name):
    """Returns a parameter's name without the parts that `torch.compile` adds."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")

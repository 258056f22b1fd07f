"""What a pruner of torch modules saves: plain numbers and tensors, no code."""

import math

import keras
import numpy as np
from keras import ops

_FORMAT = 1


def pack(value):
    """Returns a tensor as it is saved: bool ones as one bit a weight.

    Args:
        value: Tensor or variable.

    Returns:
        A copy; or a dict with the `"shape"` and the `"bits"`, a uint8 tensor.
    """
    import torch

    tensor = ops.convert_to_tensor(value).detach()
    if tensor.dtype != torch.bool:
        return tensor.clone()
    bits = np.packbits(ops.convert_to_numpy(tensor))
    return {"shape": list(tensor.shape), "bits": torch.from_numpy(bits)}


def unpack(saved):
    """Inverse of `pack`."""
    if not isinstance(saved, dict):
        return saved
    count = math.prod(saved["shape"])
    bits = np.unpackbits(ops.convert_to_numpy(saved["bits"]), count=count)
    return ops.convert_to_tensor(bits.astype("bool").reshape(saved["shape"]))


def state_of(pruner):
    """Returns the state of a `KerasBasePruner` as a dict."""
    return {
        **_identity(pruner),
        "step": pruner.global_step,
        "updated_at": pruner.updated_at,
        "tensors": {name: pack(v) for name, v in _variables(pruner).items()},
    }


def _identity(pruner):
    """Returns what a state must have been saved with to fit a pruner."""
    config = pruner.config
    return {
        "pruning_type": config.pruning_type,
        "pattern": str(config.pattern),
        "criterion": config.criterion.name,
    }


def _variables(pruner):
    """Returns a dict from a name of its own to each variable that is saved."""
    found = {f"{path}: mask": mask for path, mask in pruner.mask_variables.items()}
    for path, states in pruner.state_variables.items():
        found |= {f"{path}: {name}": state for name, state in states.items()}
    for number, (_, states) in enumerate(pruner.extra_states()):
        found |= {f"parameter {number}: {name}": s for name, s in states.items()}
    return found


def whole_state(pruners):
    """Returns the state of several pruners as one dict."""
    return {"format": _FORMAT, "pruners": [state_of(pruner) for pruner in pruners]}


def load_whole_state(pruners, state, optimizer=None):
    """Gives pruners a state that `whole_state` returned.

    Args:
        pruners: List of `KerasBasePruner`s.
        state: Dict.
        optimizer: `OptimizerSlots` of the optimizer in use, if there is one.

    Raises:
        ValueError: If it does not fit, naming what differs; nothing changes then.
    """
    try:
        _check_whole(pruners, state)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            "This is no whole state of a PytorchBasePruner: give what `state_dict` "
            f"returned. {type(error).__name__}: {error}"
        ) from error
    for pruner, saved in zip(pruners, state["pruners"], strict=True):
        _load(pruner, saved, optimizer)


def _check_whole(pruners, state):
    if state["format"] != _FORMAT:
        raise ValueError(
            f"The state has format {state['format']}, but this version of keras_pruner "
            f"reads format {_FORMAT}."
        )
    if len(state["pruners"]) != len(pruners):
        raise ValueError(
            f"The state was saved with {len(state['pruners'])} pruning configs, but "
            f"this pruner has {len(pruners)}."
        )
    for pruner, saved in zip(pruners, state["pruners"], strict=True):
        _check(pruner, saved)


def _check(pruner, saved):
    for key, value in _identity(pruner).items():
        if saved[key] != value:
            raise ValueError(
                f"The state was saved with {key} '{saved[key]}', but this pruner has "
                f"'{value}'. Use the same config."
            )
    for key in ("step", "updated_at"):
        if isinstance(saved[key], bool) or not isinstance(saved[key], int):
            raise TypeError(f"'{key}' is {saved[key]!r}")
    own, given = _variables(pruner), saved["tensors"]
    for name in [*own, *given]:
        shapes = [
            _shape_of(tensors[name]) if name in tensors else "nothing"
            for tensors in (given, own)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"The state does not fit the pruner, first at '{name}': the state has "
                f"{shapes[0]} and the pruner {shapes[1]}. Use the same model and "
                "config."
            )


def _shape_of(value):
    """Returns the shape of a variable, or of what `pack` made of one."""
    if not isinstance(value, dict):
        return tuple(value.shape)
    shape, bits = tuple(value["shape"]), value["bits"]
    if bits.numel() != math.ceil(math.prod(shape) / 8):
        raise TypeError(f"{bits.numel()} bytes hold the bits of shape {shape}")
    return shape


def _load(pruner, saved, optimizer):
    for name, variable in _variables(pruner).items():
        variable.assign(unpack(saved["tensors"][name]))
    with keras.device("cpu"):
        step, updated_at = (
            keras.Variable(saved[key], dtype="int64", trainable=False, name=key)
            for key in ("step", "updated_at")
        )
    # Bound for a moment, the pruner takes the counts over.
    pruner.bind(step, updated_at, optimizer)
    pruner.bind(None, None, optimizer)
    pruner.refresh()
    pruner.apply_masks()

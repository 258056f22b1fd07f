"""Runs a torch module on a batch, so that nothing of it changes."""

import contextlib
import inspect

import keras

from keras_pruner.pytorch.parameters import unwrap

_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


def required_arguments(module):
    """Returns the names of the arguments that `forward` requires."""
    arguments = inspect.signature(unwrap(module).forward).parameters
    return [
        name
        for name, parameter in arguments.items()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, _EITHER)
    ]


def arguments_of(module, inputs):
    """Returns the arguments of a module's call on a batch.

    Args:
        module: `torch.nn.Module`.
        inputs: Tensor or NumPy array; a tuple or list of positional arguments; or a
            dict of named ones, of which `forward` gets those that it takes. Arrays go
            to the device of the module, floating ones in the dtype of its weights.

    Returns:
        Tuple of positional arguments, and dict of the others.
    """
    import torch

    weights = [p for p in module.parameters() if p.is_floating_point()]

    def tensor(value):
        if isinstance(value, torch.Tensor) or not hasattr(value, "dtype"):
            return value
        value = torch.from_numpy(value)
        if not weights:
            return value
        dtype = weights[0].dtype if value.is_floating_point() else None
        return value.to(weights[0].device, dtype)

    module = unwrap(module)
    inputs = keras.tree.map_structure(tensor, inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    if not isinstance(inputs, dict):
        return (inputs,), {}
    taken = inspect.signature(module.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return (), inputs
    return (), {name: value for name, value in inputs.items() if name in taken}


def _is_compiled(part):
    is_wrapped = hasattr(part, "_orig_mod")
    return is_wrapped or getattr(part, "_compiled_call_impl", None) is not None


@contextlib.contextmanager
def fixed_pass(module):
    """Lets a module run in evaluation mode, without gradients, and changes nothing.

    Training flags, buffers and the random state are put back. Random numbers are the
    same in each pass. Compiled parts run as plain ones.
    """
    import torch

    modes = [(part, part.training) for part in module.modules()]
    buffers = [
        (part, name, buffer, buffer.clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    cuda = {p.device for p in module.parameters() if p.device.type == "cuda"}
    is_fast = torch.backends.mha.get_fastpath_enabled()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(cuda))
        stack.enter_context(torch.no_grad())
        if any(map(_is_compiled, module.modules())):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        torch.default_generator.manual_seed(0)
        for device in cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        try:
            module.eval()
            # A fused layer would not call its parts.
            torch.backends.mha.set_fastpath_enabled(False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(is_fast)
            for part, mode in modes:
                part.training = mode
            for part, name, buffer, value in buffers:
                part._buffers[name] = buffer.copy_(value)

"""Prepares a torch module for `prune_one_shot`, on any backend of Keras."""

import contextlib
import dataclasses

import keras
from keras import ops

from keras_pruner.kernels import KernelSearch
from keras_pruner.pytorch.config_checks import check_settings, with_module_selectors
from keras_pruner.pytorch.context import beside_training
from keras_pruner.pytorch.forward import arguments_of, fixed_pass
from keras_pruner.pytorch.layouts import bias_name, module_kind
from keras_pruner.pytorch.parameters import ModuleView, unwrap
from keras_pruner.pytorch.strip import check_module, plain_name, strip_module
from keras_pruner.pytorch.tensors import as_keras, as_torch


class OneShotModule(ModuleView):
    """Holds the kernels and biases of a torch module as Keras variables.

    With Keras on torch, a variable shares the memory of its parameter. On another
    backend it has a copy of its own, and `write_back` copies it into the parameter. A
    variable has the name of its parameter in its own module.

    Args:
        module: `torch.nn.Module`.

    Attributes:
        module: The module itself, not compiled, not wrapped for data parallelism.
        device: Device of its first parameter.

    Raises:
        ValueError: As `ModuleView`.
    """

    def __init__(self, module):
        super().__init__(module)
        self.module = unwrap(module)
        self._parameters = {}

    def variable(self, parameter, name):
        self._parameters[id(parameter)] = parameter
        name = name.rsplit("/", 1)[-1]
        if keras.backend.backend() == "torch":
            return super().variable(parameter, name)
        if id(parameter) not in self._variables:
            self._variables[id(parameter)] = keras.Variable(
                as_keras(parameter),
                dtype=str(parameter.dtype).removeprefix("torch."),
                trainable=parameter.requires_grad,
                name=name,
            )
        return self._variables[id(parameter)]

    def find_kernels(self):
        """Finds the kernels, and their biases; see `ModuleView.find_kernels`.

        A parameter of several modules is skipped: they read it in different ways.
        """
        found = super().find_kernels()
        owners = {}
        for path, module in self.module.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                owners.setdefault(id(parameter), []).append(f"{path}.{name}")
        kernels, skipped = [], list(found.skipped)
        for kernel in found.kernels:
            own = dict(kernel.layer.named_parameters(recurse=False))
            paths = owners[id(own[kernel.variable.name])]
            if len(paths) > 1:
                reason = f"several modules share it: {', '.join(paths)}"
                skipped.append(kernel.skip(reason))
                continue
            bias = own.get(bias_name(kernel.variable.name))
            if (
                bias is not None
                and bias.requires_grad
                and bias.numel() == kernel.layout.outputs
                and module_kind(kernel.layer) is not None
                and len(owners[id(bias)]) == 1
            ):
                name = bias_name(kernel.variable.name)
                kernel = dataclasses.replace(kernel, bias=self.variable(bias, name))
            kernels.append(kernel)
        return KernelSearch(tuple(kernels), tuple(skipped))

    def run(self, batch):
        """Calls the module on a batch; see `arguments_of`."""
        args, kwargs = arguments_of(self.module, batch)
        return self.module(*args, **kwargs)

    def derivatives(self, variables, batch, factors, are_shares, least):
        """Differentiates `sum(factors * outputs)` on a batch by variables.

        Args:
            variables: List of variables of kernels.
            batch: See `arguments_of`.
            factors: List of NumPy arrays, one for each output with real numbers.
            are_shares: List of bools: whether an output counts by its log-odds.
            least: Distance that such an output has from 0 and 1 at least.

        Returns:
            List of tensors of Keras' backend, zero where the sum does not depend on a
            variable. The module does not change.
        """
        import torch

        known = {id(v): self._parameters[key] for key, v in self._variables.items()}
        parameters = [known[id(variable)] for variable in variables]
        # CuDNN differentiates recurrent layers only in training mode.
        cudnn = torch.backends.cudnn.flags(enabled=False)
        with fixed_pass(self.module), torch.enable_grad(), cudnn:
            outputs = keras.tree.flatten(self.run(batch))
            outputs = [x for x in outputs if isinstance(x, torch.Tensor)]
            real = [x.float() for x in outputs if x.is_floating_point()]
            real = [
                torch.logit(x, eps=least) if is_share else x
                for x, is_share in zip(real, are_shares, strict=True)
            ]
            total = sum(
                (x * torch.from_numpy(factor).to(x.device)).sum()
                for x, factor in zip(real, factors, strict=True)
            )
            found = torch.autograd.grad(total, parameters, allow_unused=True)
        return [
            ops.zeros(parameter.shape) if value is None else as_keras(value)
            for parameter, value in zip(parameters, found, strict=True)
        ]

    @contextlib.contextmanager
    def values(self, state_mapping=None):
        """Lets the module compute with the values of the variables.

        Args:
            state_mapping: List of `(variable, value)` to use in place of variables.
        """
        given = {id(variable): value for variable, value in state_mapping or ()}
        with contextlib.ExitStack() as stack:
            for key, variable in self._variables.items():
                value = given.get(id(variable))
                if value is None and keras.backend.backend() == "torch":
                    continue
                parameter = self._parameters[key]
                value = variable.value if value is None else value
                stack.callback(_set_data, parameter, parameter.data)
                parameter.data = as_torch(value).to(parameter.data)
            yield

    def write_back(self):
        """Copies the values of the variables into the parameters."""
        if keras.backend.backend() == "torch":
            return
        for key, variable in self._variables.items():
            parameter = self._parameters[key]
            parameter.data.copy_(as_torch(variable.value))


@contextlib.contextmanager
def one_shot_module(module, config, inputs, in_place=False, check=True):
    """Prepares a torch module for pruning in one shot.

    Args:
        module: `torch.nn.Module`, also compiled or wrapped for data parallelism.
        config: `PruningConfig`. Its filters may hold parts of the module.
        inputs: A batch; see `arguments_of`.
        in_place: Whether to prune the module itself, or a plain copy.
        check: Whether to compare the copy with the module.

    Yields:
        `OneShotModule`, and the config with filters for it. The module changes on
        another backend than torch only at the end, unless there was an exception.

    Raises:
        ValueError: If the config needs a Keras model, the module does not run on the
            batch, or the copy computes other outputs than the module.
    """
    check_settings(config)
    view = OneShotModule(module if in_place else strip_module(module))
    _check_runs(view, inputs)
    if check and not in_place:
        check_module(module, view.module, inputs)
    given = {plain_name(n): p for n, p in unwrap(module).named_parameters()}

    def parameter_of(kernel):
        return given[kernel.path.replace("/", ".")]

    with beside_training(view.device):
        yield view, with_module_selectors(config, parameter_of)
        view.write_back()


def _check_runs(view, inputs):
    try:
        with fixed_pass(view.module):
            view.run(inputs)
    except Exception as error:
        raise ValueError(
            f"{type(view.module).__name__} does not run on the first batch of `data`: "
            f"{error} (A tuple or list holds positional arguments, a dict named ones.)"
        ) from error


def _set_data(parameter, data):
    parameter.data = data

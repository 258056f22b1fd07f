"""Finds the prunable parameters of torch modules, as `keras.Variable`s."""

import dataclasses

import keras

from keras_pruner.kernels import Kernel, KernelSearch, Skipped, registered_layouts
from keras_pruner.pytorch.context import beside_training
from keras_pruner.pytorch.layouts import embedding_rule, module_rules, variable_layout

# Names that `torch.compile` inserts into the path of a module.
_WRAPPER_NAMES = {"_orig_mod"}

_DTYPES = ("float16", "bfloat16", "float32", "float64")


class ModuleView:
    """Presents torch modules to the pruners of Keras models.

    A `keras.Variable` of the torch backend can hold a parameter itself, not a copy. So
    code that reads and assigns variables works on the module's own parameters.

    Args:
        modules: A module; or a dict from a name of your choice to a module or a
            parameter of two or more axes.

    Attributes:
        device: Device of the first parameter.

    Raises:
        TypeError: If `modules` holds anything else.
        ValueError: If a module has Keras layers, lazy parameters without a shape, or
            parameters on the meta device.
    """

    def __init__(self, modules):
        import torch

        self._members = _members(modules)
        self._variables = {}
        self.device = torch.device("cpu")
        parameters = list(self.parameters())
        if parameters:
            self.device = parameters[0].device
        for name, member in self._members:
            _check_member(name, member)

    def parameters(self):
        """Yields all parameters, shared ones once for each member."""
        import torch

        for _, member in self._members:
            if isinstance(member, torch.nn.Parameter):
                yield member
            else:
                yield from member.parameters()

    def variable(self, parameter, name):
        """Returns the `keras.Variable` that holds a parameter; always the same one."""
        if id(parameter) not in self._variables:
            with beside_training(parameter.device):
                self._variables[id(parameter)] = keras.Variable(
                    parameter,
                    dtype=str(parameter.dtype).removeprefix("torch."),
                    trainable=parameter.requires_grad,
                    name=name.replace("/", "_"),
                )
        return self._variables[id(parameter)]

    @property
    def trainable_variables(self):
        """List of the variables of all trained parameters, each once."""
        found = {}
        for number, parameter in enumerate(self.parameters()):
            if parameter.requires_grad:
                name = f"parameter_{number}"
                found.setdefault(id(parameter), self.variable(parameter, name))
        return list(found.values())

    def find_kernels(self):
        """Finds the prunable parameters, through all nesting.

        Returns:
            `KernelSearch`. Every parameter of two or more axes is in one of its lists,
            unless its class has none to prune. A shared one appears once.
        """
        search = _Search(self)
        for name, member in self._members:
            search.add(name, member)
        return KernelSearch(tuple(search.found), tuple(search.skipped))


class _Search:
    """Collects the kernels of modules in one walk."""

    def __init__(self, view):
        self.view = view
        self.found, self.skipped = [], []
        self.seen = set()
        # Maps the id of a table to the path of its embedding.
        self.tables = {}
        for name, member in view._members:
            self._note_tables(name, member)

    def _note_tables(self, name, member):
        classes, _ = embedding_rule()
        for path, module in _walk(name, member):
            if isinstance(module, classes):
                for parameter in module.parameters(recurse=False):
                    self.tables[id(parameter)] = "/".join(path)

    def add(self, name, member):
        import torch

        if isinstance(member, torch.nn.Parameter):
            self._consider((name,), member, variable_layout(member.shape), None, None)
            return
        before = len(self.found)
        for path, module in _walk(name, member):
            self._add_module(path, module)
        if name is not None and len(self.found) == before + 1:
            # The only kernel of a module has the module's name.
            self.found[-1] = dataclasses.replace(self.found[-1], path=name)

    def _add_module(self, path, module):
        own = dict(module.named_parameters(recurse=False))
        shapes = {n: tuple(p.shape) for n, p in own.items() if len(p.shape) > 1}
        layouts = _layouts(module, shapes)
        for name, parameter in own.items():
            layout = (layouts or {}).get(name)
            reason = None
            if layout is None:
                if len(parameter.shape) < 2:
                    continue
                reason = _unknown_reason(module, name, layouts)
                if reason is None:
                    continue
            self._consider((*path, name), parameter, layout, module, reason)

    def _consider(self, path, parameter, layout, module, reason):
        path, shape = "/".join(path), tuple(parameter.shape)
        if id(parameter) in self.seen:
            return
        if reason is None:
            if not parameter.requires_grad:
                reason = "frozen: requires_grad=False"
            elif str(parameter.dtype).removeprefix("torch.") not in _DTYPES:
                reason = f"its dtype is {parameter.dtype}"
            elif getattr(module, "sparse", False):
                reason = "its gradients are sparse tensors (sparse=True)"
            elif parameter.numel() > 2**31 - 1:
                reason = "more than 2^31 - 1 weights in one kernel"
        self.seen.add(id(parameter))
        if reason is not None:
            self.skipped.append(Skipped(path, shape, reason))
            return
        variable = self.view.variable(parameter, path)
        on_request = self._request(parameter, module)
        kernel = Kernel(path, variable, layout, module, on_request=on_request)
        self.found.append(kernel)

    def _request(self, parameter, module):
        """Returns why a parameter is pruned on request only, or `None`."""
        table = self.tables.get(id(parameter))
        if table is None or hasattr(module, "prunable_kernels"):
            return None
        if isinstance(module, embedding_rule()[0]):
            return (
                "embeddings are pruned only when asked for: add 'Embedding' to "
                "layer_types"
            )
        return (
            f"shared with the embedding '{table}', which is pruned only when "
            "asked for: add 'Embedding' to layer_types"
        )


def _members(modules):
    """Returns pairs of a name, or `None`, and a module or parameter."""
    import torch

    if isinstance(modules, torch.nn.Module):
        return [(None, modules)]
    if not isinstance(modules, dict):
        raise TypeError(
            "`modules` must be a torch.nn.Module, or a dict from a name to a module or "
            f"a parameter. Received: {type(modules).__name__}"
        )
    for name, member in modules.items():
        if not isinstance(member, torch.nn.Module | torch.nn.Parameter):
            raise TypeError(
                f"Module '{name}' must be a torch.nn.Module or a torch.nn.Parameter. "
                f"Received: {type(member).__name__}"
            )
        if isinstance(member, torch.nn.Parameter) and member.ndim < 2:
            raise ValueError(
                f"Module '{name}' is a parameter of shape {tuple(member.shape)}; a "
                "prunable kernel has two or more axes."
            )
    return list(modules.items())


def _walk(name, member):
    """Yields pairs of a path, as a tuple of names, and a module; each module once."""
    import torch

    if isinstance(member, torch.nn.Parameter):
        return
    prefix = () if name is None else (name,)
    for dotted, module in unwrap(member).named_modules():
        names = [n for n in dotted.split(".") if n and n not in _WRAPPER_NAMES]
        yield (*prefix, *names), module


def unwrap(module):
    """Returns the user's module inside of `torch.compile` and data parallelism."""
    import torch

    parallel = torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel
    while True:
        if isinstance(module, parallel):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod
        else:
            return module


def _check_member(name, member):
    import torch

    shown = type(member).__name__ if name is None else f"'{name}'"
    for path, module in _walk(name, member):
        if isinstance(module, keras.layers.Layer):
            raise ValueError(
                f"{shown} holds the Keras layer '{module.name}'. PytorchBasePruner is "
                "for modules without Keras layers: use PruningCallback, or "
                "KerasBasePruner in a custom training loop."
            )
        for own, parameter in module.named_parameters(recurse=False):
            where = ".".join((*path, own))
            if torch.nn.parameter.is_lazy(parameter):
                raise ValueError(
                    f"'{where}' has no shape yet. Call the module on data once before "
                    "pruning."
                )
            if parameter.is_meta:
                raise ValueError(
                    f"'{where}' is on the meta device and has no values. Load or "
                    "initialise the weights before pruning."
                )


def _layouts(module, shapes):
    """Returns a dict from parameter name to layout, or `None` for an unknown class."""
    if hasattr(module, "prunable_kernels"):
        return module.prunable_kernels()
    layouts = registered_layouts(module)
    if layouts is not None:
        return layouts
    classes, rule = embedding_rule()
    if isinstance(module, classes):
        return rule(module, shapes)
    for module_class, rule in module_rules():
        if isinstance(module, module_class):
            return rule(module, shapes)
    return None


def _unknown_reason(module, name, layouts):
    """Returns why a parameter has no layout; `None` if its class has none to prune."""
    import torch

    if isinstance(module, torch.nn.utils.parametrize.ParametrizationList):
        return "a parametrization computes the weight from it: remove that first"
    if layouts is not None:
        if name.startswith("weight") and name.endswith(("_orig", "_g", "_v")):
            return (
                "torch.nn.utils.prune or weight_norm computes the weight from it: "
                "remove that first"
            )
        return None
    return (
        f"no rule for module class {type(module).__name__}: register one with "
        "`register_kernel_rule`, or give the module `prunable_kernels()`"
    )

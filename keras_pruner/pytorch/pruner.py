"""Defines the pruner of plain torch modules."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Self

from keras_pruner.config import AnyConfig, as_config
from keras_pruner.kernels import Selection, select_kernels
from keras_pruner.pruners import PrunerGroup, load_state, state_of
from keras_pruner.pytorch.config_checks import check_settings, with_module_selectors
from keras_pruner.pytorch.context import beside_training, check_backend
from keras_pruner.pytorch.hooks import Attachment
from keras_pruner.pytorch.parameters import ModuleView, unwrap
from keras_pruner.pytorch.strip import plain_name, strip_module
from keras_pruner.pytorch.tensors import as_arrays, as_tensors


class PytorchBasePruner(PrunerGroup):
    """Prunes a plain `torch.nn.Module`, in an unchanged training loop.

    ```python
    import torch

    net = torch.nn.Sequential(
        torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3)
    )
    optimizer = torch.optim.AdamW(net.parameters())
    pruner = PytorchBasePruner(
        {"target_sparsity": 0.9, "begin_step": 0, "end_step": 20}, net
    )
    pruner.attach(net, optimizer)
    for _ in range(30):
        optimizer.zero_grad()
        logits = net(torch.from_numpy(x))
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)).backward()
        optimizer.step()
    pruner.detach()
    plain = pruner.strip()
    ```

    A `keras.Variable` shares the memory of each parameter, and each config has a
    registered pruner (`pruning_type`) as for a Keras model. So patterns, criteria,
    allocations, schedules, regularizers and pruners are the same, also those that you
    register. Masks equal those of the Keras layer of the same weights.

    It prunes the weights of Linear, Bilinear, all convolutions, RNN, LSTM, GRU and
    their cells, MultiheadAttention, and Embedding if `layer_types` names it.
    `register_kernel_rule`, or a module's method `prunable_kernels()`, adds others. A
    kernel's path is its parameter's name with `/` instead of `.`, without the
    `_orig_mod` of `torch.compile`.

    Keras must run on torch: set `KERAS_BACKEND=torch` before you import Keras.
    `grasp`, `synflow` and the patterns `"mha"` and `"channel_groups"` work with Keras
    models only.

    Args:
        config: `PruningConfig`, or a dict for `PruningConfig.from_dict`. `include` and
            `exclude` also accept torch modules.
        modules: A `torch.nn.Module`; or a dict from a name of your choice to a module,
            or to a parameter of two or more axes with its outputs first. The only
            kernel of a module has the module's name in the dict.

    Attributes:
        pruners: List of the pruners: one for the config and one for each local config.
            `config`, `scheduler` and similar attributes are those of the first.
        kernels: Tuple of the `Kernel`s that are pruned.
        skipped: Tuple of `Skipped`: the parameters that stay dense, and why.
        num_weights: Number of weights in all kernels.
        num_pruned: Number of weights that the masks zero.

    Raises:
        RuntimeError: If Keras runs on another backend.
        ValueError: If nothing is prunable (the message says why for each parameter), a
            selector matches nothing, a module has Keras layers, or a setting is wrong.
        TypeError: If `modules` holds anything else.
    """

    framework = "pytorch"

    def __init__(
        self, config: AnyConfig, modules: Any, framework: str | None = None
    ) -> None:
        check_backend()
        config = with_module_selectors(as_config(config))
        check_settings(config)
        self._attachment: Any = None
        super().__init__(config, modules, framework)

    def build(self) -> None:
        self._view = ModuleView(self.modules)
        self.device = self._view.device
        super().build()

    def select(self) -> list[Selection]:
        return select_kernels(self._view, self.config)

    def beside_training(self) -> AbstractContextManager[Any]:
        return beside_training(self.device)

    def on_before_optimizer_step(self, gradients: Any = None) -> Any:
        """Called between the backward pass and the optimizer's step.

        Args:
            gradients: Dict from a kernel's name to its gradient, or a list in the order
                of `masks`. `None` changes the gradients of the parameters in place.

        Returns:
            The same form, with zeros for pruned weights; or `None`.
        """
        if gradients is not None:
            return self.mask_gradients(gradients)
        held = {kernel.path: kernel.variable.value for kernel in self.kernels}
        shaped = self.mask_gradients({n: p.grad for n, p in held.items()})
        for name, parameter in held.items():
            if parameter.grad is not None:
                parameter.grad.copy_(shaped[name])
        return None

    def attach(
        self,
        module: Any,
        optimizer: Any,
        total_steps: int | None = None,
        grad_scaler: Any = None,
    ) -> Self:
        """Prunes while an optimizer trains, through hooks on it.

        The loop stays unchanged, also with gradient accumulation, `clip_grad_norm_`,
        `GradScaler`, closures, parameter groups, `torch.compile`. A mask update that is
        already due runs at once. Attach the pruner after you load initial weights.

        Args:
            module: The trained module, which has all pruned parameters; also as
                returned by `torch.compile` or `DistributedDataParallel`.
            optimizer: `torch.optim.Optimizer` that trains all pruned parameters.
            total_steps: Optimizer steps of the training; required only if the config
                leaves `begin_step` or `end_step` open.
            grad_scaler: `torch.amp.GradScaler` that scales the loss, or `None`.

        Returns:
            The pruner itself.

        Raises:
            ValueError: If the pruner is already attached, the module or the optimizer
                lacks a pruned parameter, or the steps are unknown.
            TypeError: If `module` or `optimizer` has another type.
        """
        self._check_attachable(module, optimizer)
        self.schedule_open_steps(total_steps)
        attachment = Attachment(self.pruners, optimizer, self.device, grad_scaler)
        self.attach_optimizer(attachment.slots)
        self.take_over_weights()
        self.on_train_begin()
        self.update_if_due()
        attachment.begin()
        self._attachment = attachment
        self._module = module
        return self

    def detach(self) -> None:
        """Removes the hooks; warns if the target was not reached.

        The masks are no longer enforced. Pruned weights are zero, and `strip` returns a
        plain module. If you attach the pruner again, it continues where it stopped.
        """
        if self._attachment is None:
            raise ValueError("The pruner is not attached: call `attach` first.")
        self._attachment.end()
        self._attachment = None
        self.on_train_end()

    def strip(self, module: Any = None) -> Any:
        """Returns a plain copy of a module with the pruned weights exactly zero.

        Args:
            module: The module to copy, which stays unchanged; by default the attached
                one, or `modules`. Another one needs parameters of the same names, such
                as that of an `AveragedModel`.

        Returns:
            `torch.nn.Module`: not compiled, without hooks of the pruner.

        Raises:
            ValueError: If the module lacks a pruned parameter.
        """
        own = self._own_module()
        names = {
            id(parameter): plain_name(name)
            for name, parameter in unwrap(own).named_parameters()
        }
        masks = self.masks
        return strip_module(
            own if module is None else module,
            {names[id(k.variable.value)]: masks[k.path] for k in self.kernels},
        )

    def _own_module(self):
        module = getattr(self, "_module", self.modules)
        if isinstance(module, dict):
            raise ValueError(
                "The pruner was made of a dict and never attached, so the whole module "
                "is not known. Call `attach` before `strip`."
            )
        return module

    def _check_attachable(self, module, optimizer):
        import torch

        if self._attachment is not None:
            raise ValueError("The pruner is attached already: call `detach` first.")
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"`module` must be a torch.nn.Module. Received: {module!r}")
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(
                f"`optimizer` must be a torch.optim.Optimizer. Received: {optimizer!r}"
            )
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        for name, parameters, advice in (
            ("module", module.parameters(), "Attach the module that was pruned."),
            ("optimizer", trained, "Add them to it, or leave them out by `exclude`."),
        ):
            present = {id(parameter) for parameter in parameters}
            missing = [
                kernel.path
                for kernel in self.kernels
                if id(kernel.variable.value) not in present
            ]
            if missing:
                raise ValueError(
                    f"`{name}` has not these pruned parameters: {', '.join(missing)}. "
                    f"{advice}"
                )

    # Resuming.

    def state_dict(self) -> dict[str, Any]:
        """Returns masks, states and counts, to save beside model and optimizer.

        Returns:
            Dict of numbers, strings and tensors, which `torch.save` writes and
            `torch.load(weights_only=True)` reads. Masks have one bit a weight.
        """
        with self.beside_training():
            return as_tensors(state_of(self.pruners))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the values that `state_dict` returned, and applies the masks.

        Call it together with those of model and optimizer, before or after `attach`.

        Args:
            state: Dict.

        Raises:
            ValueError: If the values do not fit the model or the config; the message
                names the first mismatch. Nothing changes then.
        """
        with self.beside_training():
            load_state(self.pruners, as_arrays(state))

"""Checks a `PruningConfig` for torch modules, and lets modules select kernels."""

import dataclasses


def check_settings(config):
    """Raises a `ValueError` if a config needs a Keras model.

    Args:
        config: `PruningConfig`.
    """
    for part in (config, *config.local_configs):
        _refuse_keras_only(part)


class _ModuleSelector:
    """Selects the kernels of a torch module, also of nested modules."""

    def __init__(self, module, parameter_of):
        self.module = module
        self.parameter_of = parameter_of

    def __call__(self, kernel):
        parameter = self.parameter_of(kernel)
        return any(p is parameter for p in self.module.parameters())

    def __repr__(self):
        return repr(self.module)


def with_module_selectors(config, parameter_of=None):
    """Returns a config with a selector in place of each torch module.

    Args:
        config: `PruningConfig`.
        parameter_of: Function from a `Kernel` to its parameter in these modules. By
            default the kernel's variable holds it.
    """
    import torch

    def held(kernel):
        return kernel.variable.value

    def selector(given):
        if not isinstance(given, torch.nn.Module):
            return given
        return _ModuleSelector(given, parameter_of or held)

    def selectors(given):
        return None if given is None else tuple(map(selector, given))

    return dataclasses.replace(
        config,
        include=selectors(config.include),
        exclude=selectors(config.exclude),
        local_configs=tuple(
            with_module_selectors(local, parameter_of) for local in config.local_configs
        ),
    )


def _refuse_keras_only(config):
    if config.criterion is not None and config.criterion.at_init_only:
        raise ValueError(
            f"Criterion '{config.criterion.name}' scores an untrained model by "
            "`prune_at_init`, which takes Keras models only. For a torch module use "
            "'snip' with `begin_step` and `end_step` 1."
        )
    if config.pattern.overlaps:
        raise ValueError(
            f"Pattern '{config.pattern}' follows channels through Keras models only. "
            "To prune coupled channels of a torch module, use the package "
            "Torch-Pruning (https://github.com/VainF/Torch-Pruning). For single "
            "kernels use '1xchannel' or 'channelx1'."
        )
    if config.pattern.coupling_kind is not None:
        raise ValueError(
            f"Pattern '{config.pattern}' takes Keras' attention layers only. For a "
            "torch module use '1xchannel' on its in_proj_weight, or blocks."
        )

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

    def __init__(self, module):
        self.module = module

    def __call__(self, kernel):
        return any(p is kernel.variable.value for p in self.module.parameters())

    def __repr__(self):
        return repr(self.module)


def with_module_selectors(config):
    """Returns a config with a selector in place of each torch module."""
    import torch

    def selector(given):
        return _ModuleSelector(given) if isinstance(given, torch.nn.Module) else given

    def selectors(given):
        return None if given is None else tuple(map(selector, given))

    return dataclasses.replace(
        config,
        include=selectors(config.include),
        exclude=selectors(config.exclude),
        local_configs=tuple(map(with_module_selectors, config.local_configs)),
    )


def _refuse_keras_only(config):
    if config.criterion is not None and config.criterion.at_init_only:
        raise ValueError(
            f"Criterion '{config.criterion.name}' scores an untrained model by "
            "`prune_at_init`, which takes Keras models only. For a torch module use "
            "'snip' with `begin_step` and `end_step` 1."
        )
    if config.pattern.coupling_kind is not None:
        raise ValueError(
            f"Pattern '{config.pattern}' takes Keras' attention layers only. For a "
            "torch module use '1xchannel' on its in_proj_weight, or blocks."
        )

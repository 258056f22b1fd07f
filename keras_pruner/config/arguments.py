"""Lets functions and classes take a config, settings, or both."""

import dataclasses
import inspect
from typing import Any

from keras_pruner.checks import shown
from keras_pruner.config.forms import with_open_pattern
from keras_pruner.config.pruning_config import PruningConfig
from keras_pruner.config.settings import (
    Settings,
    keyword_for,
    rename_keys,
    setting_parameters,
)
from keras_pruner.types import FunctionT

# What functions take as `config`.
AnyConfig = PruningConfig | Settings | dict[str, Any] | None


def as_config(config):
    """Returns a `PruningConfig` for a config, a dict, or `None` (all defaults).

    Raises:
        TypeError: If `config` is anything else. The message says which keyword takes
            such a value.
    """
    return merged_config(config, {})


def merged_config(config, settings):
    """Returns a config with some of its fields changed.

    Args:
        config: `PruningConfig`, dict, or `None` for the defaults.
        settings: Dict of fields, under their own names or Intel's. They win.

    Raises:
        TypeError: If `config` has another type.
        ValueError: If a setting is unknown or invalid.
    """
    if isinstance(config, PruningConfig):
        changes = with_open_pattern(config, rename_keys(settings))
        return dataclasses.replace(config, **changes) if changes else config
    if config is not None and not isinstance(config, dict):
        raise TypeError(
            "A pruning config is a `PruningConfig` or a dict. Give settings by name, "
            f"e.g. {keyword_for(config)}. Received: {shown(config)}"
        )
    # One dict, so that a default does not contradict a setting.
    return PruningConfig(**(rename_keys(config or {}) | rename_keys(settings)))


def takes_settings(function: FunctionT) -> FunctionT:
    """Shows the settings of `PruningConfig` in place of `**settings`.

    It sets the signature that editors, notebooks and `help` read. The function itself
    is returned unchanged.

    Args:
        function: Function or method whose last parameter is `**settings`, or
            `**kwargs` that include settings. Annotate it with `Unpack[Settings]` for
            type checkers.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    own = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in parameters if p not in own and p.name != "settings"]
    names = {parameter.name for parameter in own}
    added = setting_parameters(PruningConfig.defaults())
    added = [parameter for parameter in added if parameter.name not in names]
    shown_signature = signature.replace(parameters=[*own, *added, *rest])
    function.__signature__ = shown_signature  # type: ignore[attr-defined]
    return function

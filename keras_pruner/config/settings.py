"""Names the settings of a config, and what you can write for each."""

import functools
import inspect
import numbers
import typing
from collections.abc import Callable, Mapping, Sequence

from keras_pruner.checks import did_you_mean, shown
from keras_pruner.components import (
    ALLOCATIONS,
    CAPABILITIES,
    CRITERIA,
    PATTERNS,
    REGULARIZERS,
    SCHEDULES,
    Allocation,
    Criterion,
    EngineCapability,
    Pattern,
    Regularizer,
    Schedule,
)
from keras_pruner.config.foreign_names import FOREIGN_NAMES
from keras_pruner.config.pruner_type import PRUNERS
from keras_pruner.intel_names import KEY_ALIASES, renamed
from keras_pruner.types import Where

# The registry of each setting that is a component.
FAMILIES = {
    "pattern": PATTERNS,
    "for_engine": CAPABILITIES,
    "criterion": CRITERIA,
    "allocation": ALLOCATIONS,
    "schedule": SCHEDULES,
    "regularizer": REGULARIZERS,
}


class OneShotSettings(typing.TypedDict, total=False):
    """Holds the settings that `prune_one_shot` takes beside arguments of its own."""

    pattern: str | Pattern | dict | None
    for_engine: str | EngineCapability | dict | None
    criterion: str | Criterion | dict | None
    schedule: str | Schedule | dict | None
    initial_sparsity: float
    begin_step: int | None
    end_step: int | None
    frequency: int | None
    include: Where
    exclude: Where
    layer_types: str | type | Sequence[str | type] | None
    min_sparsity: float
    max_sparsity: float | None
    group_reduction: str
    regularizer: str | Regularizer | dict | None
    regularizer_strength: float
    low_memory_usage: bool
    mask_bits: int
    pruning_type: str
    pruner_options: Mapping[str, object] | None
    resume_from_pruned_checkpoint: bool
    local_configs: Sequence[typing.Any] | dict | None


class Settings(OneShotSettings, total=False):
    """Holds settings of a `PruningConfig`, as keyword arguments or as a dict.

    The keys are the fields of `PruningConfig`. The types are those that you can write;
    the config holds one form of each.
    """

    target_sparsity: float | None
    allocation: str | Allocation | Mapping[str, float] | Callable | None


class LayerSettings(Settings, total=False):
    """Holds settings, and arguments of `keras.layers.Layer`."""

    name: str | None
    dtype: typing.Any
    trainable: bool
    autocast: bool
    activity_regularizer: typing.Any


_KNOWN = tuple(Settings.__annotations__)


def rename_keys(settings):
    """Returns a copy of a dict of settings with the fields' names as its keys.

    Args:
        settings: Dict with fields' names, or those of Intel Neural Compressor, as keys.

    Raises:
        TypeError: If a key is no string.
        ValueError: If a key is unknown, or a setting has two names in the dict. The
            message says what to write instead, also for names of other libraries.
    """
    for key in settings:
        if not isinstance(key, str):
            raise TypeError(
                f"The keys of a pruning config are names of settings. Received: {key!r}"
            )
        if key not in _KNOWN and key not in KEY_ALIASES:
            raise _unknown(key)
    return renamed(settings)


def _unknown(key):
    """Returns the error for a name that is no setting; it says what to write."""
    known = [*_KNOWN, *KEY_ALIASES]
    if key in FOREIGN_NAMES:
        hint = f" Write {FOREIGN_NAMES[key]}."
    else:
        hint = did_you_mean(key, known)
    return ValueError(
        f"Unknown pruning config key {shown(key)}.{hint} Known: "
        f"{', '.join(sorted(_KNOWN))}; and Intel's names: "
        f"{', '.join(sorted(KEY_ALIASES))}."
    )


def keyword_for(value):
    """Returns a setting, as you write it, that could be meant by a lone value."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return f"`target_sparsity={shown(value)}`"
    for name, registry in (FAMILIES | {"pruning_type": PRUNERS}).items():
        if isinstance(value, registry.base) or registry.knows(value):
            return f"`{name}={shown(value)}`"
    return "`target_sparsity=0.9`"


def setting_parameters(defaults):
    """Returns an `inspect.Parameter` for each setting, with its type and default.

    Args:
        defaults: Dict from the name of each setting to its default.
    """
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults[name],
            annotation=Settings.__annotations__[name],
        )
        for name in defaults
    ]


def takes_every_name(cls):
    """Lets a dataclass take its fields under all their names, and advise on others."""
    from_fields = cls.__init__

    @functools.wraps(from_fields)
    def __init__(self, *args, **settings):
        if args:
            raise TypeError(
                f"Settings are given by name, e.g. {keyword_for(args[0])}. Received: "
                f"{', '.join(map(shown, args))}"
            )
        from_fields(self, **rename_keys(settings))

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    __init__.__signature__ = inspect.Signature(
        [own, *setting_parameters(cls.defaults())]
    )
    cls.__init__ = __init__
    return cls

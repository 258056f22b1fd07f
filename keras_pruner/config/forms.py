"""Brings the forms in which a user gives a setting into the one that a config holds."""

import re

import keras

from keras_pruner.checks import shown
from keras_pruner.components import ALLOCATIONS, CRITERIA, Allocation, Custom
from keras_pruner.config.foreign_names import FOREIGN_VALUES
from keras_pruner.intel_names import TYPE_ALIASES

# Allocations that see what multiplies the kernels, as `prune_one_shot` does.
SAMPLED_ALLOCATIONS = ("error_curves", "owl")


def as_tuple(value):
    """Returns the items of a collection, or one value as a tuple."""
    if value is None:
        return ()
    # Models and torch modules are single values, even those that can be iterated.
    if isinstance(value, str | bytes | dict) or callable(value):
        return (value,)
    try:
        return tuple(value)
    except TypeError:
        return (value,)


def refuse_foreign_value(key, registry, given):
    """Raises an error that says what to write for a word of another library.

    Args:
        key: Name of the setting.
        registry: Its `Registry`, whose names are accepted.
        given: Value of any type.
    """
    if not isinstance(given, str) or registry.knows(given):
        return
    word = "_".join(given.lower().replace("-", " ").split())
    if word in FOREIGN_VALUES[key]:
        raise ValueError(
            f"Unknown {registry.family} {given!r} in `{key}`. Write "
            f"`{key}={FOREIGN_VALUES[key][word]!r}`. Known: {', '.join(registry)}."
        )


def as_allocation(given):
    """Returns an `Allocation` for a name, a dict, a function or an instance.

    A dict with a string under `"name"` describes an allocation. Every other dict maps
    regular expressions to sparsities.

    Raises:
        ValueError: If the name is unknown, or the allocation needs samples.
    """
    if isinstance(given, str) and given in SAMPLED_ALLOCATIONS:
        raise ValueError(
            f"Allocation '{given}' needs samples, so a config does not take it. Write "
            f"`prune_one_shot(model, data, allocation='{given}')`, or use one of: "
            f"{', '.join(ALLOCATIONS)}."
        )
    if isinstance(given, dict):
        is_custom = bool(given) and not isinstance(given.get("name"), str)
    else:
        is_custom = callable(given) and not isinstance(given, Allocation)
    return Custom(given) if is_custom else ALLOCATIONS.get(given)


def agrees(criterion, name):
    """Returns whether a criterion is open, or the same as that of a name."""
    return criterion is None or CRITERIA.get(criterion) == CRITERIA.get(name)


def with_open_pattern(config, changes):
    """Lets another engine choose the pattern, unless the config says one of its own.

    Args:
        config: `PruningConfig` to change.
        changes: Dict of fields.

    Returns:
        The dict, perhaps with `pattern=None`.
    """
    if "for_engine" not in changes or "pattern" in changes:
        return changes
    engine, pattern = config.for_engine, config.pattern
    if pattern.is_unstructured or (engine and pattern == engine.choose_pattern()):
        return changes | {"pattern": None}
    return changes


def refuse_overlaps(config, function):
    """Raises an error if a config has a pattern that masks kernels together.

    Args:
        config: `PruningConfig`.
        function: Name of the function that prunes each kernel by itself.
    """
    for part in (config, *config.local_configs):
        if part.pattern.overlaps:
            raise ValueError(
                f"`{function}` treats each kernel by itself, but pattern "
                f"'{part.pattern}' masks several kernels and their biases together. "
                "`prune_structured` cuts channels without training, and "
                f"`PruningCallback(pattern='{part.pattern}')` masks them while a model "
                "trains. Or choose another pattern."
            )


def layer_type_names(given):
    """Returns the names of layer classes, each once.

    Args:
        given: A class or a name, or a collection of them. A name of Intel Neural
            Compressor may stand for several classes.

    Raises:
        TypeError: If one is neither a class nor a string.
    """
    names = []
    for one in as_tuple(given):
        name = one.__name__ if isinstance(one, type) else one
        if not isinstance(name, str):
            raise TypeError(
                "`layer_types` takes layer classes or their names; `include` takes "
                f"single layers. Received: {shown(one)}"
            )
        names += TYPE_ALIASES.get(name, (name,))
    return tuple(dict.fromkeys(names))


def plain_selector(selector, key):
    """Returns a regular expression for a selector.

    Raises:
        ValueError: If it is a function.
    """
    if isinstance(selector, str):
        return selector
    if isinstance(selector, keras.layers.Layer):
        return re.escape(selector.name)
    raise ValueError(
        f"`{key}` holds a function, which cannot be saved. Use a regular expression. "
        f"Received: {shown(selector)}"
    )

"""Checks of the numbers in a `PruningConfig`."""

import math
import numbers


def check_sparsities(config, assign):
    """Checks the sparsities of a `PruningConfig` and makes them floats.

    Args:
        config: The config.
        assign: Function that sets a field, by its name.
    """
    for key, highest_is_open in (
        ("target_sparsity", True),
        ("initial_sparsity", True),
        ("min_sparsity", False),
        ("max_sparsity", False),
    ):
        value = getattr(config, key)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"`{key}` must be a number. Received: {value!r}")
        inside = 0 <= value < 1 if highest_is_open else 0 <= value <= 1
        if not inside:
            hint = " (a fraction, not a percentage)" if 1 < value <= 100 else ""
            raise ValueError(
                f"`{key}` must be in [0, 1{')' if highest_is_open else ']'}{hint}. "
                f"Received: {value}"
            )
        assign(key, float(value))
    if config.initial_sparsity > config.target_sparsity:
        raise ValueError(
            "`initial_sparsity` must not exceed `target_sparsity`. Received: "
            f"{config.initial_sparsity} > {config.target_sparsity}"
        )
    if config.min_sparsity > config.max_sparsity:
        raise ValueError(
            "`min_sparsity` must not exceed `max_sparsity`. Received: "
            f"{config.min_sparsity} > {config.max_sparsity}"
        )
    highest = config.pattern.max_sparsity
    for key in ("target_sparsity", "min_sparsity"):
        if getattr(config, key) > highest:
            raise ValueError(
                f"Pattern '{config.pattern}' prunes at most {highest:g} of a kernel, "
                f"so `{key}` cannot be met. Lower it to {highest:g}, or use "
                f"another pattern. Received: {getattr(config, key)}"
            )
    is_absolute = config.allocation is not None and config.allocation.is_absolute
    if not is_absolute and not (
        config.min_sparsity <= config.target_sparsity <= config.max_sparsity
    ):
        raise ValueError(
            "The caps cannot meet the target: kernels that each have a sparsity in "
            f"[{config.min_sparsity}, {config.max_sparsity}] cannot have "
            f"{config.target_sparsity} together. Change `min_sparsity`, "
            "`max_sparsity` or `target_sparsity`."
        )


def check_steps(config, assign):
    """Checks the steps of a `PruningConfig` and makes them integers."""
    for key, lowest in (("begin_step", 0), ("end_step", 0), ("frequency", 1)):
        value = getattr(config, key)
        if value is None:
            continue
        if not is_whole(value):
            raise TypeError(f"`{key}` must be an integer. Received: {value!r}")
        if value < lowest:
            raise ValueError(f"`{key}` must be >= {lowest}. Received: {value}")
        assign(key, int(value))
    if None not in (config.begin_step, config.end_step):
        if config.end_step < config.begin_step:
            raise ValueError(
                "`end_step` must not come before `begin_step`. Received: "
                f"begin_step={config.begin_step}, end_step={config.end_step}"
            )


def check_mask_bits(config, assign):
    """Checks `mask_bits` of a `PruningConfig` and makes it an integer."""
    bits = config.mask_bits
    if not is_whole(bits):
        raise TypeError(f"`mask_bits` must be an integer. Received: {bits!r}")
    if bits not in (1, 8):
        raise ValueError(
            "`mask_bits` must be 8 (a byte a weight) or 1 (packed, an eighth of it). "
            f"Received: {bits}"
        )
    assign("mask_bits", int(bits))


def is_whole(value):
    """Whether a value is a whole number, of whatever type, and no bool."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return math.isfinite(value) and int(value) == value


def check_number(options, name, low, high, *, integer=False):
    """Raises unless an option is a number in [low, high].

    Args:
        options: Dict of options.
        name: The option's name.
        low: Lowest value.
        high: Highest value.
        integer: Whether it must be an integer.
    """
    value = options[name]
    kinds = int if integer else int | float
    if isinstance(value, bool) or not isinstance(value, kinds):
        kind = "an integer" if integer else "a number"
        raise TypeError(f"Option '{name}' must be {kind}. Received: {value!r}")
    if not low <= value <= high:
        raise ValueError(
            f"Option '{name}' must be in [{low:g}, {high:g}]. Received: {value}"
        )

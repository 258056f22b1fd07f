"""Checks of what `pruner_options` holds."""


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

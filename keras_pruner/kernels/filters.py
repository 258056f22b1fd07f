"""Selects kernels by name, by layer or by a function."""

import re

import keras

from keras_pruner.checks import did_you_mean, shown


def matches_path(pattern, path):
    """Returns whether a regular expression matches whole names of a path.

    It must match one name or several consecutive names.

    Example:

    >>> path = "block/dense_1/kernel"
    >>> [matches_path(p, path) for p in ("dense_1", "block/dense_.", "block/.*")]
    [True, True, True]
    >>> matches_path("dense_1", "block/dense_10/kernel")
    False
    """
    names = path.split("/")
    return any(
        re.fullmatch(pattern, "/".join(names[start:end]))
        for start in range(len(names))
        for end in range(start + 1, len(names) + 1)
    )


def check_regex(value, key):
    """Raises an error if `value` is no regular expression.

    Args:
        value: Value of any type.
        key: Name of the setting, for the message.

    Raises:
        TypeError: If it is no string.
        ValueError: If Python cannot compile it.
    """
    if not isinstance(value, str):
        raise TypeError(
            f"`{key}` takes regular expressions. Received: {shown(value)} of type "
            f"{type(value).__name__}"
        )
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(
            f"`{key}` holds {shown(value)}, which is no regular expression: {error}"
        ) from error


def check_selector(selector, key):
    """Raises an error if `selector` is not a regex, a layer or a function."""
    if isinstance(selector, str):
        check_regex(selector, key)
    elif isinstance(selector, type):
        raise TypeError(
            f"`{key}` holds the class {selector.__name__}. Use `layer_types` to select "
            "the layers of a class."
        )
    elif not isinstance(selector, keras.layers.Layer) and not callable(selector):
        raise TypeError(
            f"`{key}` takes regular expressions, layers, or functions from a kernel to "
            f"a bool. Received: {shown(selector)} of type {type(selector).__name__}"
        )


def selects(selector, kernel):
    """Returns whether a selector picks a kernel."""
    if isinstance(selector, str):
        return matches_path(selector, kernel.path)
    if isinstance(selector, keras.layers.Layer):
        return any(v is kernel.variable for v in selector.variables)
    return bool(selector(kernel))


def _names(selector, path):
    """Returns whether a regular expression or a layer names a path."""
    if isinstance(selector, keras.layers.Layer):
        selector = re.escape(selector.name)
    return isinstance(selector, str) and matches_path(selector, path)


def names_any(selectors, skipped):
    """Returns whether a selector names one of some `Skipped`s."""
    return any(
        _names(selector, skip.path) for selector in selectors for skip in skipped
    )


def select(kernels, selectors, key, skipped=()):
    """Returns the kernels that any selector picks.

    Args:
        kernels: Prunable `Kernel`s.
        selectors: Regular expressions, layers or functions.
        key: Name of the setting that holds them, for messages.
        skipped: `Skipped`s. A selector may pick these only, e.g. a frozen layer.

    Raises:
        ValueError: If a selector picks nothing, because such a filter is probably a
            mistake.
    """
    chosen = set()
    for selector in selectors:
        hits = {kernel.path for kernel in kernels if selects(selector, kernel)}
        if not hits and not any(_names(selector, skip.path) for skip in skipped):
            names = [name for kernel in kernels for name in kernel.path.split("/")]
            shown = selector if isinstance(selector, str) else repr(selector)
            raise ValueError(
                f"`{key}` has {shown!r}, which matches no prunable kernel."
                f"{did_you_mean(shown, names)} Kernels: "
                f"{', '.join(kernel.path for kernel in kernels) or 'none'}"
            )
        chosen |= hits
    return [kernel for kernel in kernels if kernel.path in chosen]

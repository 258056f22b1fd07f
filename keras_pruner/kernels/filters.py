"""Selects kernels by name, by layer or by a function."""

import re

import keras

from keras_pruner.registry import did_you_mean


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


def check_selector(selector, key):
    """Raises an error if `selector` is not a regex, a layer or a function."""
    if isinstance(selector, str):
        try:
            re.compile(selector)
        except re.error as error:
            raise ValueError(
                f"`{key}` holds '{selector}', which is no regular expression: {error}"
            ) from error
    elif not isinstance(selector, keras.layers.Layer) and not callable(selector):
        raise TypeError(
            f"`{key}` takes regular expressions, layers, or functions from a kernel to "
            f"a bool. Received: {selector!r} of type {type(selector).__name__}"
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

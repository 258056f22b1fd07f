"""Makes axes that grow with the number of their rows."""


def axes_for(ax, **figure):
    """Returns axes, or new ones on a figure with the given settings.

    Raises:
        ImportError: If new ones are needed, and matplotlib is missing.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib. Install it, or keras-pruner[plots]."
        ) from error
    return pyplot.subplots(**figure)[1]


def axes_of_rows(ax, names, width=5.0, row=0.2):
    """Returns axes with a row for each name, from the bottom up.

    New axes grow with the number of names. The names on given axes shrink until they
    fit, down to 3 points.

    Args:
        ax: Matplotlib axes, or `None` for new ones.
        names: List of texts.
        width: Width beside the names, in inches.
        row: Height of a row, in inches.

    Returns:
        Tuple of the axes and of the size of the names in points.
    """
    longest = max(map(len, names), default=0)
    # Inches: a name of 9 points a row.
    size = (width + 0.5 + 0.08 * longest, 1.5 + row * len(names))
    ax = axes_for(ax, figsize=size, layout="constrained")
    height = ax.get_window_extent().height / ax.figure.dpi
    points = min(9, max(3, 0.8 * 72 * height / max(1, len(names))))
    ax.set_yticks(range(len(names)), names, fontsize=points)
    ax.set_ylim(-0.6, max(1, len(names)) - 0.4)
    return ax, points


def counts(value, _=None):
    """Returns a number, as of weights, in thousands, millions or billions."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"

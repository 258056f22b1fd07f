"""Plots groups of channels."""

from keras_pruner.channels import ChannelGraph
from keras_pruner.reporting.plots.axes import axes_for
from keras_pruner.types import Axes


def plot_graph(graph: ChannelGraph, ax: Axes = None) -> Axes:
    """Plots which layers lose channels together.

    Each group of channels is a line over the layers, in the order of their calls, with
    a dot at each layer that loses the channels of the group. The width of the line
    grows with the number of channels.

    Args:
        graph: `ChannelGraph`.
        ax: Matplotlib axes, or `None` for new ones, which grow with the graph.

    Returns:
        The axes.

    Raises:
        ValueError: If the graph has no groups.
    """
    if not graph.groups:
        raise ValueError(
            f"The graph of model '{graph.name}' has no groups to plot. "
            "`print(graph)` tells why each axis is pinned."
        )
    touched = [
        list(dict.fromkeys(m.path.rpartition("/")[0] for m in group.members))
        for group in graph.groups
    ]
    in_groups = set().union(*touched)
    layers = dict.fromkeys(path.rpartition("/")[0] for path in graph.variables)
    places = {path: i for i, path in enumerate(p for p in layers if p in in_groups)}
    # Inches: a name of 7 points a layer and a group, beside the names themselves.
    size = (4 + 0.13 * len(places), 3 + 0.15 * len(touched))
    ax = axes_for(ax, figsize=size, layout="constrained")
    largest = max(group.size for group in graph.groups)
    for row, (group, paths) in enumerate(zip(graph.groups, touched, strict=True)):
        xs = [places[path] for path in paths]
        width = 1 + 4 * (group.size / largest) ** 0.5
        color = "tab:orange" if group.kind == "heads" else "tab:blue"
        ax.hlines(row, min(xs), max(xs), linewidth=width, color=color, alpha=0.5)
        ax.plot(xs, [row] * len(xs), "o", color=color, markersize=4)
    names = [f"{group.name} ({group.size} {group.kind})" for group in graph.groups]
    ax.set_yticks(range(len(names)), names, fontsize=7)
    ax.set_xticks(range(len(places)), list(places), fontsize=7, rotation=90)
    ax.invert_yaxis()
    return ax

"""Plots the weights of a model: histograms, and pictures of the masks."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_pruner.kernels import check_built, find_all_kernels, masks_of
from keras_pruner.reporting.kernel_values import weights_of
from keras_pruner.reporting.plots.axes import axes_for, axes_of_rows
from keras_pruner.reporting.render import percent
from keras_pruner.types import Axes

_BINS = 101
# A picture has at most so many cells along an axis; a row has so many pictures.
_CELLS, _PICTURES = 128, 4


def plot_weights(model: keras.Model, ax: Axes = None) -> Axes:
    """Plots a histogram of the weights of each kernel, one above the other.

    Weights are shares of the largest finite one of their kernel. Zeros are left out,
    and counted beside the histogram. New axes grow with the number of kernels.

    Args:
        model: Built Keras model.
        ax: Matplotlib axes, or `None` for new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the model is not built, or has no kernel with weights.
    """
    kernels = _weights_by_path(model)
    names = list(kernels)[::-1]
    ax, points = axes_of_rows(ax, names, row=0.3)
    edges = np.linspace(-1, 1, _BINS + 1)
    for row, name in enumerate(names):
        values = kernels[name].ravel()
        kept = values[(values != 0) & np.isfinite(values)]
        largest = np.max(np.abs(kept), initial=0.0)
        counts, _ = np.histogram(kept / largest if largest else kept, edges)
        heights = 0.9 * counts / max(1, counts.max())
        low = row - 0.45
        ax.stairs(low + heights, edges, baseline=low, fill=True, color="tab:blue")
        text = f" {percent(np.mean(values == 0), 0)} zeros"
        ax.text(1, row, text, va="center", fontsize=points)
    ax.axvline(0, color="gray", linewidth=0.5)
    ax.set(xlabel="weight / largest weight of the kernel", xlim=(-1, 1.4))
    ax.set_xticks([-1, -0.5, 0, 0.5, 1])
    return ax


def plot_masks(
    model: keras.Model, paths: str | Sequence[str] | None = None
) -> list[Axes]:
    """Plots which weights of each kernel are zero, as pictures.

    A picture is the kernel's matrix: inputs down, outputs across. Dark cells are kept
    weights. A cell of a large matrix stands for several weights; the more are kept, the
    darker it is. The figure grows with the number of kernels.

    Args:
        model: Built Keras model.
        paths: Path of a kernel, or a list of paths, or `None` for all kernels.

    Returns:
        List with the axes of each picture.

    Raises:
        ValueError: If the model is not built or has no such kernel, or no path is
            given.
    """
    kernels = _weights_by_path(model, as_matrices=True)
    paths = (
        [paths] if isinstance(paths, str) else list(kernels if paths is None else paths)
    )
    if not paths:
        raise ValueError(
            f"`paths` names no kernel. The model has: {', '.join(kernels)}"
        )
    for path in paths:
        if path not in kernels:
            raise ValueError(
                f"'{model.name}' has no kernel '{path}'. It has: {', '.join(kernels)}"
            )
    across = min(_PICTURES, len(paths))
    down = math.ceil(len(paths) / across)
    axes = axes_for(
        None,
        nrows=down,
        ncols=across,
        figsize=(2.6 * across, 2.4 * down),
        layout="constrained",
        squeeze=False,
    ).ravel()
    for ax, path in zip(axes, paths, strict=False):
        _draw_mask(ax, path, kernels[path])
    for ax in axes[len(paths) :]:
        ax.remove()
    return list(axes[: len(paths)])


def _draw_mask(ax, path, matrix):
    kept = _shares(matrix != 0)
    ax.imshow(kept, cmap="Greys", vmin=0, vmax=1, aspect="auto", interpolation="none")
    size = " x ".join(map(str, matrix.shape))
    zeros = percent(np.mean(matrix == 0), 0)
    # A name that is too long for its picture keeps its end.
    name = path if len(path) <= 28 else f"...{path[-25:]}"
    ax.set_title(f"{name}\n{size}, {zeros} zeros", fontsize=7)
    ax.set(xticks=[], yticks=[])


def _shares(kept):
    """Returns the shares of true elements in cells of a matrix.

    Example:

    >>> _shares(np.eye(4, dtype=bool)).shape
    (4, 4)
    >>> _shares(np.ones((256, 3), bool)).shape
    (128, 3)
    """
    for axis in (0, 1):
        size = kept.shape[axis]
        cells = min(size, _CELLS)
        starts = np.arange(cells) * size // cells
        lengths = np.diff([*starts, size])
        sums = np.add.reduceat(kept.astype("float32"), starts, axis=axis)
        kept = sums / lengths.reshape((-1, 1) if axis == 0 else (1, -1))
    return kept


def _weights_by_path(model, as_matrices=False):
    """Returns a dict from paths to the weights of kernels, as the layers compute."""
    check_built(model)
    masks, found = masks_of(model), {}
    for kernel in find_all_kernels(model).known:
        values = None if kernel.on_request else weights_of(kernel, masks)
        if values is not None and values.size:
            if as_matrices:
                values = _as_matrix(kernel, values)
            found[kernel.path] = np.asarray(values)
    if not found:
        raise ValueError(f"'{model.name}' has no kernel whose weights can be plotted.")
    return found


def _as_matrix(kernel, values):
    """Returns weights as the matrix (K, N) of the kernel."""
    if tuple(values.shape) != tuple(kernel.variable.shape):
        # Packed weights have another shape than their variable.
        return values.reshape((-1, values.shape[-1]))
    return ops.convert_to_numpy(kernel.layout.to_matrix(ops.convert_to_tensor(values)))

"""Defines prunable variables, skipped variables, and the result of a search."""

import dataclasses
import math

import keras

from keras_pruner.kernels.layouts import KernelLayout


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """Describes one prunable variable of a model.

    Args:
        path: Names from the model's child down to the variable, joined by `/`.
        variable: `keras.Variable`.
        layout: `KernelLayout`.
        layer: The layer that owns the variable, or `None`.
        owner: The wrapper layer that masks the variable, or `None`.
        attention: Path of the attention layer whose heads the kernel holds, or `None`.
    """

    path: str
    variable: keras.Variable
    layout: KernelLayout
    layer: keras.layers.Layer | None = None
    owner: keras.layers.Layer | None = None
    attention: str | None = None

    @property
    def wrapper_mask(self):
        """The mask variable of the wrapper layer around the kernel, or `None`."""
        return None if self.owner is None else self.owner.mask_of(self.variable)

    def __repr__(self):
        return f"<Kernel '{self.path}' {tuple(self.variable.shape)}>"


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Describes a matrix-like variable that is not pruned, and why."""

    path: str
    shape: tuple
    reason: str

    @property
    def size(self):
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class KernelSearch:
    """Holds the result of a search: prunable `kernels` and `skipped` variables."""

    kernels: tuple
    skipped: tuple

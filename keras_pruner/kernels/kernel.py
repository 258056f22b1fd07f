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
        wrapper: The wrapper layer that masks the variable, or `None`.
        attention: Path of the attention layer whose heads the kernel holds, or `None`.
        on_request: Reason to skip the kernel unless a config asks for it by its layer
            class, or `None`.
    """

    path: str
    variable: keras.Variable
    layout: KernelLayout
    layer: keras.layers.Layer | None = None
    wrapper: keras.layers.Layer | None = None
    attention: str | None = None
    on_request: str | None = None

    @property
    def wrapper_mask(self):
        """The mask variable of the wrapper layer around the kernel, or `None`."""
        return None if self.wrapper is None else self.wrapper.mask_of(self.variable)

    def skip(self, reason):
        """Returns the `Skipped` of this kernel."""
        return Skipped(self.path, tuple(self.variable.shape), reason)

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

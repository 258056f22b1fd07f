"""Defines prunable variables, skipped variables, and the result of a search."""

import dataclasses
import math
from typing import Any, Protocol

import keras

from keras_pruner.kernels.layouts import KernelLayout

# How the reason begins of a variable that may have several axes, but is no matrix.
NOT_A_MATRIX = "not multiplied by as a matrix"


@dataclasses.dataclass(frozen=True)
class Coupling:
    """The place of a kernel among kernels that lose the same groups together.

    Group i of the unit is the rows (axis 0) or columns (axis 1) of the kernel's matrix
    that `index_map` sends to i.

    Args:
        kind: What the groups are, e.g. `"heads"`.
        unit: Name of the unit, e.g. the path of an attention layer.
        role: The kernel's part in the unit, e.g. `"query"`.
        axis: Axis of the matrix along which the groups lie: 0 (K) or 1 (N).
        num_groups: Number of groups.
        index_map: Tuple with the group of each index along the axis, -1 for none; or
            `None` for runs of equal length, one after the other.
    """

    kind: str
    unit: str
    role: str
    axis: int
    num_groups: int
    index_map: tuple | None = None


class ScoredKernel(Protocol):
    """What a criterion may read of the kernel that it scores."""

    @property
    def path(self) -> str:
        """The path of the kernel in the model."""

    @property
    def layout(self) -> KernelLayout:
        """How the kernel becomes a matrix."""


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """Describes one prunable variable of a model.

    Args:
        path: Names from the model's child down to the variable, joined by `/`.
        variable: `keras.Variable`.
        layout: `KernelLayout`.
        layer: The layer that owns the variable, or `None`.
        wrapper: The wrapper layer that masks the variable, or `None`.
        couplings: Tuple of `Coupling`s, or of a pattern's own class with a `kind`: how
            other kernels lose groups with it.
        on_request: Reason to skip the kernel unless a config asks for it by its layer
            class, or `None`.
        is_output: Whether the model returns the outputs of the kernel, perhaps through
            layers without kernels.
        bias: `keras.Variable` (N,) that the layer adds to the kernel's product, if the
            search tells it.
        is_scored: Whether criteria score it. If not, as a bias, its mask follows from
            the kernels that lose groups with it.
    """

    path: str
    variable: keras.Variable
    layout: KernelLayout
    layer: keras.layers.Layer | None = None
    wrapper: keras.layers.Layer | None = None
    couplings: tuple = ()
    on_request: str | None = None
    is_output: bool = False
    bias: keras.Variable | None = None
    is_scored: bool = True

    @property
    def wrapper_mask(self) -> Any:
        """The mask variable of the wrapper layer around the kernel, or `None`."""
        return None if self.wrapper is None else self.wrapper.mask_of(self.variable)

    def coupling(self, kind: str) -> Any:
        """Returns the kernel's first coupling of a kind, or `None`."""
        return next(iter(self.couplings_of(kind)), None)

    def couplings_of(self, kind: str) -> tuple[Any, ...]:
        """Returns a tuple of the kernel's couplings of a kind."""
        return tuple(c for c in self.couplings if c.kind == kind)

    def skip(self, reason: str) -> "Skipped":
        """Returns the `Skipped` of this kernel."""
        return Skipped(self.path, tuple(self.variable.shape), reason)

    def __repr__(self) -> str:
        return f"<Kernel '{self.path}' {tuple(self.variable.shape)}>"


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Describes a matrix-like variable that is not pruned, and why."""

    path: str
    shape: tuple
    reason: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class KernelSearch:
    """Holds the result of a search.

    Args:
        kernels: Tuple of the prunable `Kernel`s.
        skipped: Tuple of `Skipped`.
        skipped_kernels: Tuple with the `Kernel` of each of `skipped`, if the search
            tells them. The layout is `None` if no rule knows the variable.
    """

    kernels: tuple[Kernel, ...]
    skipped: tuple[Skipped, ...]
    skipped_kernels: tuple[Kernel, ...] = ()

    @property
    def known(self) -> tuple[Kernel, ...]:
        """The kernels, and those of the skipped that a rule knows, e.g. quantized."""
        held = [kernel for kernel in self.skipped_kernels if kernel.layout is not None]
        return (*self.kernels, *held)

    @property
    def matrices(self) -> tuple[Kernel, ...]:
        """The kernels, and those of the skipped that are matrices, e.g. quantized."""
        pairs = zip(self.skipped_kernels, self.skipped, strict=True)
        matrices = [k for k, skip in pairs if not skip.reason.startswith(NOT_A_MATRIX)]
        return (*self.kernels, *matrices)

"""Defines prunable variables, skipped variables, and the result of a search."""

import dataclasses
import math

import keras

from keras_pruner.kernels.layouts import KernelLayout


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


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """Describes one prunable variable of a model.

    Args:
        path: Names from the model's child down to the variable, joined by `/`.
        variable: `keras.Variable`.
        layout: `KernelLayout`.
        layer: The layer that owns the variable, or `None`.
        wrapper: The wrapper layer that masks the variable, or `None`.
        couplings: Tuple of `Coupling`s: how other kernels lose groups with it.
        on_request: Reason to skip the kernel unless a config asks for it by its layer
            class, or `None`.
        is_output: Whether the model returns the outputs of the kernel, perhaps through
            layers without kernels.
        bias: `keras.Variable` (N,) that the layer adds to the kernel's product, if the
            search tells it.
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

    @property
    def wrapper_mask(self):
        """The mask variable of the wrapper layer around the kernel, or `None`."""
        return None if self.wrapper is None else self.wrapper.mask_of(self.variable)

    def coupling(self, kind):
        """Returns the kernel's `Coupling` of a kind, or `None`."""
        return next((c for c in self.couplings if c.kind == kind), None)

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
    """Holds the result of a search.

    Args:
        kernels: Tuple of the prunable `Kernel`s.
        skipped: Tuple of `Skipped`.
        skipped_kernels: Tuple with the `Kernel` of each of `skipped`, if the search
            tells them. The layout is `None` if no rule knows the variable.
    """

    kernels: tuple
    skipped: tuple
    skipped_kernels: tuple = ()

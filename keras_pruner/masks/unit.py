"""Kernels that lose the same groups together, and what their masks are made from."""

from typing import Any, NamedTuple


class ScoredKernel:
    """What the maths of an update may know of a kernel: its layout and its path.

    Kernels of one layout share what is compiled, unless the path is looked at: then it
    is a part of the unit's signature.
    """

    def __init__(self, kernel):
        self.layout = kernel.layout
        self.path_is_read = False
        self._path = kernel.path

    @property
    def path(self):
        self.path_is_read = True
        return self._path


class Unit:
    """Kernels that lose the same groups together.

    Args:
        indices: Positions of the kernels among all that are pruned.
        kernels: The `Kernel`s.
        rules: Their `TrainingRule`s, which know how memories are kept.

    Attributes:
        kernels: Tuple of `ScoredKernel`s.
    """

    def __init__(self, indices, kernels, rules):
        self.indices = tuple(indices)
        self.kernels = tuple(map(ScoredKernel, kernels))
        self.rules = tuple(rules)

    @property
    def signature(self):
        """Hashable: what the maths of an update depends on, besides tensors."""
        return tuple(
            (kernel.layout, kernel._path if kernel.path_is_read else None)
            for kernel in self.kernels
        )


class UnitInputs(NamedTuple):
    """What the masks of one unit are made from.

    Args:
        weights: List of the kernels' values.
        masks: List of their masks, if the pruner asks for them, else empty.
        states: List of dicts of the states that the pruner asks for.
        targets: Dict from what is made, `"masks"` or a state, to how many groups are
            pruned in it, an int tensor (); or to the `Cut` that a joint ranking found.
        extra: Dict of further tensors of fixed shapes.
        groups: List of the one tensor of the groups' scores, if made already.
    """

    weights: list
    masks: list
    states: list
    targets: dict
    extra: dict
    groups: list = ()


class UnitResult(NamedTuple):
    """The masks of one unit.

    Args:
        masks: List of bool masks, each of its kernel's shape; `True` = keep.
        states: List of dicts of the states that change.
        finite: Bool tensor (2, kernels): whether all of a kernel's weights, and all of
            what its criterion remembers, are finite.
    """

    masks: list
    states: list
    finite: Any

"""Defines units, the kernels that lose the same groups together, and their data."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Member:
    """A kernel in a unit, as the maths of an update sees it.

    Members of one layout and pattern share compiled code, unless the maths reads the
    path. The path is then a part of the signature.

    Args:
        kernel: `Kernel`.
        pattern: `Pattern` that divides this kernel into the groups of the unit. Group i
            of every member is pruned together, also if it lies along another axis.

    Attributes:
        layout: The kernel's `KernelLayout`.
        is_scored: Whether the kernel has a share in the scores of the groups.
    """

    def __init__(self, kernel, pattern):
        self.layout = kernel.layout
        self.pattern = pattern
        self.is_scored = kernel.is_scored
        self.path_is_read = False
        self._path = kernel.path

    @property
    def path(self):
        self.path_is_read = True
        return self._path

    @property
    def signature(self):
        """Hashable identity of the member except tensors."""
        path = self._path if self.path_is_read else None
        return self.layout, self.pattern, self.is_scored, path


class Unit:
    """Holds kernels that lose the same groups together.

    Args:
        indices: Positions of the kernels among all pruned kernels.
        kernels: The `Kernel`s.
        rules: Their `TrainingRule`s, which define how criterion states are kept.
        patterns: List with the `Pattern` that divides each of them.

    Attributes:
        kernels: Tuple of `Member`s.

    Example:

    >>> attention = keras.layers.MultiHeadAttention(num_heads=4, key_dim=1, name="att")
    >>> attention.build(query_shape=(None, 3, 2), value_shape=(None, 3, 2))
    >>> kernels = find_kernels(attention).kernels
    >>> pattern = PATTERNS.get("mha")
    >>> (heads,) = pattern.units(kernels)
    >>> heads.indices
    (0, 1, 2, 3)
    >>> unit = Unit(heads.indices, kernels, [None] * 4, heads.patterns)
    >>> for member in unit.kernels:  # A head is a column of three, a row of the last.
    ...     shape = (member.layout.rows, member.layout.outputs)
    ...     print(member.path, shape, "axis", member.pattern.axis)
    att/query/kernel (2, 4) axis 1
    att/key/kernel (2, 4) axis 1
    att/value/kernel (2, 4) axis 1
    att/attention_output/kernel (4, 2) axis 0
    """

    def __init__(self, indices, kernels, rules, patterns):
        self.indices = tuple(indices)
        self.kernels = tuple(map(Member, kernels, patterns))
        self.rules = tuple(rules)

    @property
    def signature(self):
        """Hashable identity of all inputs of the maths except tensors."""
        return tuple(member.signature for member in self.kernels)


class UnitInputs(NamedTuple):
    """Holds the inputs for the masks of one unit.

    Args:
        weights: List of the kernels' values.
        masks: List of the kernels' masks, or empty if the pruner does not need them.
        states: List of dicts of the states that the pruner needs.
        targets: Dict from `"masks"` or a state's name to the number of groups to prune,
            an int tensor (), or to a `Cut` from a joint ranking.
        extra: Dict of further tensors of fixed shapes.
        groups: List with the one tensor of the groups' scores, if already computed.
    """

    weights: list
    masks: list
    states: list
    targets: dict
    extra: dict
    groups: Sequence[Any] = ()


class UnitResult(NamedTuple):
    """Holds the masks of one unit.

    Args:
        masks: List of bool masks, each of its kernel's shape; `True` = keep.
        states: List of dicts of the states that change.
        finite: Bool tensor (3, kernels): whether a kernel's weights, its criterion
            state, and its scores are finite.
    """

    masks: Sequence[Any]
    states: Sequence[Any]
    finite: Any

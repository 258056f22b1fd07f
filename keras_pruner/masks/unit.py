"""Defines units, the kernels that lose the same groups together, and their data."""

from typing import Any, NamedTuple


class ScoredKernel:
    """Shows the maths of an update a kernel's layout and path, and nothing else.

    Kernels of one layout share compiled code, unless the maths reads the path. The path
    is then a part of the unit's signature.
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
    """Holds kernels that lose the same groups together.

    Args:
        indices: Positions of the kernels among all pruned kernels.
        kernels: The `Kernel`s.
        rules: Their `TrainingRule`s, which define how criterion states are kept.

    Attributes:
        kernels: Tuple of `ScoredKernel`s.

    Example:

    >>> attention = keras.layers.MultiHeadAttention(num_heads=4, key_dim=1, name="att")
    >>> attention.build(query_shape=(None, 3, 2), value_shape=(None, 3, 2))
    >>> kernels = find_kernels(attention).kernels
    >>> PATTERNS.get("mha").couple(kernels)
    [(0, 1, 2, 3)]
    >>> unit = Unit([0, 1, 2, 3], kernels, rules=[None] * 4)
    >>> for kernel in unit.kernels:  # A head is a column of three, a row of the last.
    ...     print(kernel.path, (kernel.layout.rows, kernel.layout.outputs))
    att/query/kernel (2, 4)
    att/key/kernel (2, 4)
    att/value/kernel (2, 4)
    att/attention_output/kernel (4, 2)
    """

    def __init__(self, indices, kernels, rules):
        self.indices = tuple(indices)
        self.kernels = tuple(map(ScoredKernel, kernels))
        self.rules = tuple(rules)

    @property
    def signature(self):
        """Hashable identity of all inputs of the maths except tensors."""
        return tuple(
            (kernel.layout, kernel._path if kernel.path_is_read else None)
            for kernel in self.kernels
        )


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
    groups: list = ()


class UnitResult(NamedTuple):
    """Holds the masks of one unit.

    Args:
        masks: List of bool masks, each of its kernel's shape; `True` = keep.
        states: List of dicts of the states that change.
        finite: Bool tensor (2, kernels): whether a kernel's weights, and its criterion
            state, are finite.
    """

    masks: list
    states: list
    finite: Any

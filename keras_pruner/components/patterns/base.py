"""Defines the base class of patterns, and their registry."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from keras import ops

from keras_pruner.checks import shown
from keras_pruner.kernels import Kernel, KernelLayout
from keras_pruner.registry import Component, Registry
from keras_pruner.types import Tensor


class CoupledKernels(NamedTuple):
    """Names the kernels that lose the same groups, and how each of them is divided.

    Args:
        name: Name of the unit that they form.
        indices: Tuple of the kernels' positions in a list.
        patterns: List with the `Pattern` that divides each of them.
    """

    name: str
    indices: tuple
    patterns: Any


class Pattern(Component):
    """Divides a kernel's matrix into groups of weights that are pruned together.

    A pattern reduces the scores of weights to one score per group, and turns a choice
    of groups into a mask. All its groups prune the same number of weights.

    Subclasses define `num_groups`, `group_size`, `group_scores` and `spread`. They also
    define `parse` if the name holds sizes, `reason_to_skip` if some kernels do not fit,
    and `expand` if a pruned group keeps some of its weights.

    Example:

    Each pattern prunes its first group of a matrix of 4 inputs by 4 outputs:

    >>> layout = KernelLayout(shape=(4, 4), window=(), inputs=4, outputs=4)
    >>> scores = ops.reshape(ops.arange(16, dtype="float32"), (4, 4))
    >>> for name in ("1x1", "2x1", "2:4", "channelx1", "1xchannel"):
    ...     pattern = PATTERNS.get(name)
    ...     groups = pattern.group_scores(scores, layout, "mean")
    ...     mask = pattern.expand(groups == ops.min(groups), scores, layout)
    ...     print(name, ops.convert_to_numpy(mask).astype(int).tolist())
    1x1 [[0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    2x1 [[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    2:4 [[0, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    channelx1 [[0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    1xchannel [[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1]]
    """

    # Highest sparsity that the pattern can reach.
    max_sparsity = 1.0
    # Whether it chooses single weights, even if it counts in groups.
    chooses_weights = False
    # Whether a group is one weight.
    is_unstructured = False
    # Whether a group is a whole channel or head.
    prunes_channels = False
    # Whether a group is a whole output of the kernel.
    removes_outputs = False
    # Whether the last axis of the groups' scores runs along the outputs.
    keeps_outputs = False
    # Number of adjacent rows of the matrix in which each group lies, so that strips of
    # so many rows can be pruned one after the other; or `None`.
    rows_of_group: int | None = None
    # Kind of coupling that a kernel needs to take the pattern, or `None`.
    coupling_kind: str | None = None
    # Whether a kernel may be in several units, whose masks all apply to it. How many
    # weights are zero then depends on which groups are pruned. It defines `cost_of`,
    # `floor` and `round_to`, as `ChannelGroups` does.
    overlaps = False
    # Name of the allocation if neither config, pruner nor criterion choose; or `None`.
    default_allocation: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Returns the pattern that `text` names, or `None` if it names another."""
        return cls() if text == cls.name else None

    def check(self, config: Any) -> None:
        """Raises a `ValueError` if it cannot work with a `PruningConfig`."""

    def place(
        self, kernels: Sequence[Kernel], modules: Any
    ) -> tuple[Sequence[Kernel], Any]:
        """Adds to kernels what the pattern must know of their place in a model.

        Args:
            kernels: List of `Kernel`s that a config selects.
            modules: The model, or the dict, in which they were found.

        Returns:
            Tuple of a list of `Kernel`s, perhaps with further variables that lose
            weights with them; and of a list of `Skipped`.
        """
        return kernels, []

    def refusal(self, kernel: Kernel) -> str | None:
        """Returns why a `Kernel` stays dense under the pattern, or `None`."""
        return self.reason_to_skip(kernel.layout)

    def groups_of(self, kernel: Kernel) -> "Pattern":
        """Returns the pattern that divides one kernel of a unit: most often itself."""
        return self

    def unit_name(self, kernels: Sequence[Kernel]) -> str:
        """Returns the name of the unit that coupled kernels form."""
        return kernels[0].path

    def reason_to_skip(self, layout: KernelLayout) -> str | None:
        """Returns why a kernel of this layout cannot take the pattern, or `None`."""
        return None

    def couple(self, kernels: Sequence[Kernel]) -> list[tuple[int, ...]]:
        """Returns the sets of kernels that lose the same groups.

        Args:
            kernels: List of `Kernel`s that take the pattern.

        Returns:
            List of tuples of indices into `kernels`, with each index once.
        """
        return [(index,) for index in range(len(kernels))]

    def units(self, kernels: Sequence[Kernel]) -> list[CoupledKernels]:
        """Returns the units that kernels form, as a list of `CoupledKernels`.

        Args:
            kernels: List of `Kernel`s that take the pattern.
        """
        made = []
        for indices in self.couple(kernels):
            members = [kernels[index] for index in indices]
            patterns = list(map(self.groups_of, members))
            made.append(CoupledKernels(self.unit_name(members), indices, patterns))
        return made

    def num_groups(self, layout: KernelLayout) -> int:
        """Returns the number of groups in a kernel of this layout."""
        raise NotImplementedError(f"{type(self).__name__} must define `num_groups`.")

    def group_size(self, layout: KernelLayout) -> int:
        """Returns how many weights are zeroed when one group is pruned."""
        raise NotImplementedError(f"{type(self).__name__} must define `group_size`.")

    def group_scores(
        self, scores: Tensor, layout: KernelLayout, reduction: str
    ) -> Tensor:
        """Reduces the scores of weights to scores of groups.

        Args:
            scores: Float32 tensor of shape (K, N).
            layout: `KernelLayout` of the kernel.
            reduction: `"mean"`, `"sum"`, `"max"` or `"l2"`.

        Returns:
            Float32 tensor with one element per group, of any shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `group_scores`.")

    def spread(self, values: Tensor, layout: KernelLayout) -> Tensor:
        """Copies the value of each group to its weights.

        Args:
            values: Tensor with the shape of `group_scores`.
            layout: `KernelLayout` of the kernel.

        Returns:
            Tensor of shape (K, N) and the dtype of `values`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `spread`.")

    def expand(self, pruned: Tensor, scores: Tensor, layout: KernelLayout) -> Tensor:
        """Turns the chosen groups into the mask of the matrix.

        Args:
            pruned: Bool tensor with the shape of `group_scores`; `True` = prune.
            scores: Float32 tensor (K, N): the scores of the weights.
            layout: `KernelLayout` of the kernel.

        Returns:
            Bool tensor of shape (K, N); `True` = keep.
        """
        return ops.logical_not(self.spread(pruned, layout))

    def pool(self, values: Tensor, layout: KernelLayout) -> Tensor:
        """Sums values over each group.

        Args:
            values: Float32 tensor of shape (K, N).
            layout: `KernelLayout` of the kernel.

        Returns:
            Float32 tensor with the shape of `group_scores`; or `values` unchanged, if
            the pattern chooses single weights.
        """
        if self.chooses_weights:
            return values
        return self.group_scores(values, layout, "sum")

    def group_norms(self, weight: Tensor, layout: KernelLayout) -> Tensor:
        """Returns the L2 norm of each group, in the shape of `group_scores`."""
        magnitudes = ops.abs(ops.cast(weight, "float32"))
        return self.group_scores(magnitudes, layout, "l2")

    def __str__(self) -> str:
        return str(self.name)


class PatternRegistry(Registry):
    """Builds patterns from names that hold sizes, such as `"4x1"` and `"2:4"`."""

    def knows(self, identifier: Any) -> bool:
        return isinstance(identifier, str) and self._parsed(identifier) is not None

    def unknown(self, identifier: Any) -> ValueError:
        error = super().unknown(identifier)
        if isinstance(identifier, str):
            plain = "".join(identifier.lower().split())
            plain = re.sub("[*,;/_-]", "x", plain)
            if self.knows(plain):
                return ValueError(f"{error} Did you mean '{plain}'?")
        return error

    def get(self, identifier: Any, default: Any = None) -> "Pattern":
        if isinstance(identifier, list | tuple) and len(identifier) == 2:
            n, m = map(shown, identifier)
            raise TypeError(
                f"A pattern is given by name: '{n}x{m}' for blocks of {n} outputs by "
                f"{m} inputs, '{n}:{m}' to prune {n} of every {m} inputs. Received: "
                f"{shown(identifier)}"
            )
        return super().get(identifier, default)

    def _parsed(self, name):
        """Returns the pattern that a string names, or `None`."""
        parsed = (pattern.parse(name) for pattern in self._classes.values())
        return next((pattern for pattern in parsed if pattern is not None), None)

    def _from_name(self, name):
        pattern = self._parsed(name)
        if pattern is None:
            raise self.unknown(name)
        return pattern


PATTERNS = PatternRegistry("pattern", Pattern)


register_pattern = PATTERNS.register

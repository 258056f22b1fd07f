"""Defines the pattern that prunes channels of a model's dependency graph."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_pruner.channels import ChannelGraph
from keras_pruner.checks import check_choice, check_in_range
from keras_pruner.components.patterns.base import (
    CoupledKernels,
    Pattern,
    register_pattern,
)
from keras_pruner.components.patterns.channel_slices import ChannelSlices
from keras_pruner.kernels import Kernel, dense_layout, find_all_kernels


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelCoupling:
    """The slices of a variable that belong to the channels of a group.

    Args:
        unit: Name of the `ChannelGroup`.
        slices: `ChannelSlices`.
        graph: `ChannelGraph` of the group.
        kind: `"channels"`.
    """

    unit: str
    slices: ChannelSlices
    graph: ChannelGraph | None = None
    kind: str = "channels"


class MultiplyAdds:
    """Counts the multiply-adds of a model without some channels.

    Args:
        graph: `ChannelGraph`.

    Attributes:
        total: Multiply-adds of one sample.
    """

    def __init__(self, graph):
        self.graph = graph
        self.total = graph.multiply_adds()

    def removed(self, pruned):
        """Returns the multiply-adds that go with some channels.

        Args:
            pruned: Dict from the name of a group to the numbers of its channels.
        """
        return self.total - self.graph.multiply_adds(pruned)


@register_pattern("channel_groups")
class ChannelGroups(Pattern):
    """Whole channels of a model, with every weight that belongs to them.

    The channels are those of `ChannelGraph(model).groups`. A pruned channel is zero in
    all variables of its group: in the columns of the kernels that compute it, their
    biases, the gamma and beta of normalization layers, depthwise kernels, and in the
    rows of the kernels that read it. So the masked model computes the same as one from
    which the channels are cut out. Moving statistics stay unchanged.

    A kernel may lose rows with one group and columns with another; its mask keeps what
    all its groups keep. The score of a channel is the sum over the kernels of its
    group. Variables that are no kernels, as biases, get masks and no scores. A group is
    pruned if the config selects all its kernels and none is frozen.

    The target is the share of weights that are zero in all variables of the pruned
    groups, biases included. An update prunes the fewest channels, in the order of their
    scores, that reach it.

    Example:

    >>> ChannelGroups(floor=0.25, round_to=8)
    ChannelGroups(cost='parameters', floor=0.25, round_to=8)

    Args:
        cost: Of what `target_sparsity` is the share: `"parameters"` of the pruned
            groups, or `"flops"` for the multiply-adds of the whole model.
        floor: Share of each group's channels that are kept, rounded up, in [0, 1]; at
            least one channel is. `max_sparsity` of a config replaces it.
        round_to: Kept channels of each pruned group are a multiple of this integer.

    References:
        [DepGraph, Fang et al., 2023](https://arxiv.org/abs/2301.12900)
    """

    coupling_kind = "channels"
    prunes_channels = True
    overlaps = True
    default_allocation = "global_l2"

    def __init__(
        self, cost: str = "parameters", floor: float = 0.1, round_to: int = 1
    ) -> None:
        check_choice(cost, "`cost`", ("parameters", "flops"))
        self.cost = cost
        self.floor = check_in_range(floor, "`floor`", 0, 1)
        self.round_to = check_in_range(round_to, "`round_to`", 1, integer=True)

    def check(self, config: Any) -> None:
        if config.criterion.pools or config.criterion.needs_dense_weights:
            raise ValueError(
                f"Criterion '{config.criterion.name}' does not score channels of "
                f"pattern '{self}': it keeps a number for each group of one kernel, or "
                "lets pruned weights learn. Use 'magnitude', 'snip_momentum', 'fisher' "
                "or another criterion of single weights."
            )

    def place(
        self, kernels: Sequence[Kernel], modules: Any
    ) -> tuple[Sequence[Kernel], Any]:
        if not isinstance(modules, keras.Model):
            raise ValueError(
                f"Pattern '{self}' follows channels through a whole model: pass a "
                f"built Keras model. Received: {type(modules).__name__}"
            )
        if any(kernel.wrapper is not None for kernel in kernels):
            raise ValueError(
                f"Pattern '{self}' also masks biases and other variables, which "
                "wrapper layers do not. Use PruningCallback on a model without "
                "wrapper layers."
            )
        return _Placement(kernels, modules).place()

    def groups_of(self, kernel: Kernel) -> Pattern:
        """Returns the slices of a kernel that is seen alone.

        They are its outputs if these are channels of a group, else its inputs.
        """
        order = kernel.layout.permutation or range(len(kernel.layout.shape))
        last = {axis: place for place, axis in enumerate(order)}
        slices = [c.slices for c in kernel.couplings_of(self.coupling_kind)]
        return max(slices, key=lambda own: max(last[axis] for axis, _ in own.slices))

    def units(self, kernels: Sequence[Kernel]) -> list[CoupledKernels]:
        found = {}
        for index, kernel in enumerate(kernels):
            for coupling in kernel.couplings_of(self.coupling_kind):
                found.setdefault(coupling.unit, {})[index] = coupling.slices
        return [
            CoupledKernels(name, tuple(members), list(members.values()))
            for name, members in found.items()
        ]

    def cost_of(self, kernels: Sequence[Kernel]) -> Any:
        """Returns what the target counts in place of weights, or `None`.

        Args:
            kernels: List of `Kernel`s that `place` returned.

        Returns:
            `MultiplyAdds`, or `None` if the target is a share of the weights.
        """
        if self.cost == "parameters":
            return None
        return MultiplyAdds(kernels[0].coupling(self.coupling_kind).graph)

    def get_config(self) -> dict[str, Any]:
        return {"cost": self.cost, "floor": self.floor, "round_to": self.round_to}


class _Placement:
    """Places the kernels of a model in its channel groups.

    Args:
        kernels: List of the `Kernel`s that a config selects.
        model: Built Keras model.
    """

    def __init__(self, kernels, model):
        self.chosen = {id(kernel.variable): kernel for kernel in kernels}
        search = find_all_kernels(model)
        known = [*search.kernels, *search.skipped_kernels]
        self.known = {id(kernel.variable): kernel for kernel in known}
        self.graph = ChannelGraph(model)
        self.couplings, self.others = {}, {}
        # Maps the id of a chosen kernel's variable to reasons why it stays dense.
        self.reasons = {key: [] for key in self.chosen}

    def place(self):
        """Returns the kernels and further variables, and the `Skipped`."""
        for group in self.graph.groups:
            reason = self._reason(group)
            if reason is None:
                self._couple(group)
                continue
            reason = f"channel group '{group.name}' stays whole: {reason}"
            for member in group.members:
                self.reasons.get(id(member.variable), []).append(reason)
        for pin in self.graph.pins:
            if not self.reasons.get(id(pin.variable), True):
                self.reasons[id(pin.variable)].append(pin.reason)
        kernels, skipped = [], []
        for key, kernel in (self.chosen | self.others).items():
            couplings = self.couplings.get(key)
            if couplings is not None:
                couplings = (*kernel.couplings, *couplings)
                kernels.append(dataclasses.replace(kernel, couplings=couplings))
            else:
                reasons = dict.fromkeys(self.reasons[key] or ["in no channel group"])
                skipped.append(kernel.skip("; ".join(reasons)))
        return kernels, skipped

    def _reason(self, group):
        """Returns why a group is not pruned, or `None`."""
        if group.size < 2:
            return "it has one channel"
        variables = {id(m.variable): m for m in group.members}
        for key, member in variables.items():
            kernel = self.known.get(key)
            # An embedding that no config asks for is masked like a bias.
            is_kernel = kernel is not None and kernel.layout and not kernel.on_request
            if not member.variable.trainable and len(member.variable.shape) > 1:
                return f"'{member.path}' is frozen"
            if is_kernel and key not in self.chosen:
                return f"'{member.path}' is not selected"
        if not any(key in self.chosen for key in variables):
            return "none of its variables is a kernel"
        return None

    def _couple(self, group):
        slices = {}
        for member in group.members:
            variable = member.variable
            if variable.trainable:
                axis = member.axis % len(variable.shape)
                slices.setdefault(id(variable), []).append((axis, member.indices))
        for member in group.members:
            key = id(member.variable)
            if key not in slices:
                continue
            own = ChannelSlices(group.size, slices.pop(key))
            coupling = ChannelCoupling(group.name, own, self.graph)
            self.couplings.setdefault(key, []).append(coupling)
            if key not in self.chosen and key not in self.others:
                self.others[key] = self._other(member)

    def _other(self, member):
        """Returns a variable that is no chosen kernel, as a `Kernel` without scores."""
        variable, path, number = member.variable, member.path, 1
        if id(variable) in self.known:
            path = self.known[id(variable)].path
        taken = {kernel.path for kernel in self.others.values()}
        while path in taken:
            number += 1
            path = f"{member.path}#{number}"
        layout = dense_layout(tuple(variable.shape))
        return Kernel(path, variable, layout, member.layer, is_scored=False)

"""Holds what is known of a model's channels, and turns counts into masks and cuts."""

import math

import numpy as np
from keras import ops

from keras_pruner.channels import ChannelGraph
from keras_pruner.slimming.cutting import (
    alike,
    cut,
    has_unknown_layers,
    refused_groups,
    runs_own_code,
)
from keras_pruner.slimming.structured.candidates import find_candidates
from keras_pruner.slimming.structured.choose import choose_counts
from keras_pruner.slimming.structured.cost import ChannelCost
from keras_pruner.slimming.structured.curves import by_norms
from keras_pruner.slimming.structured.structured_report import GroupRow
from keras_pruner.slimming.structured.targets import as_text

# Ends of reasons for pins that say little of why a model stays whole.
_IN_ANY_MODEL = (
    "input of the model",
    "output of the model",
    "window of a convolution",
    "one filter for each channel",
)


class ChannelPlan:
    """The channels of a model, the error of their removal, and what it saves.

    Args:
        model: Built Keras model without wrappers, whose weights may be changed.
        include: See `find_candidates`.
        exclude: See `find_candidates`.
        min_kept: Share of its channels that each group keeps at least.
        round_to: Each group keeps a multiple of so many channels, or all.
        uniform: Whether groups that are alike keep equally many channels; see `cut`.

    Attributes:
        model: The model.
        graph: Its `ChannelGraph`.
        candidates: `Candidates`.
        curves: Dict from the names of groups to `Elimination`s, once measured.
        costs: Dict from `"parameters"` and `"flops"` to `ChannelCost`s.

    Raises:
        ValueError: If no group can be cut: the message has the reasons.
    """

    def __init__(
        self, model, include=None, exclude=None, min_kept=0.1, round_to=1, uniform=False
    ):
        self.model, self.graph = model, ChannelGraph(model)
        self.candidates = find_candidates(model, self.graph, include, exclude)
        self._uniform = uniform
        self._try_cuts()
        if not self.candidates.groups:
            raise ValueError(f"No channel of '{model.name}' can be cut.{self._why()}")
        self.curves = {}
        self.costs = {k: ChannelCost(self.graph, k) for k in ("parameters", "flops")}
        self._min_kept, self._round_to = min_kept, round_to

    def _try_cuts(self):
        """Leaves out groups that layers cannot be made smaller by."""
        groups = self.candidates.groups
        may_refuse = has_unknown_layers(self.model) or runs_own_code(self.model)
        if not (self._uniform or may_refuse):
            return
        refused = refused_groups(self.model, self.graph, groups.values(), self._uniform)
        for name, reason in refused.items():
            del groups[name], self.candidates.rows[name]
            self.candidates.skipped[name] = reason

    def measure_norms(self):
        """Takes the norms of weights as the error of their removal."""
        rows = self.candidates.rows
        self.curves = {name: by_norms(own) for name, own in rows.items()}

    def measure(self, curves, progress):
        """Measures the error of the removal from samples.

        Args:
            curves: `CurvesOfOutputs`.
            progress: `rich.progress.Progress`.
        """
        bar = progress.add_task("error curves", total=len(self.candidates.rows))

        def advance(name):
            progress.update(bar, advance=1, description=f"error curves: {name}")

        self.curves = curves.measure(self.candidates.rows, advance)

    def choose(self, kind, budget):
        """Chooses how many channels each group loses.

        Args:
            kind: `"parameters"` or `"flops"`.
            budget: Highest cost.

        Returns:
            Dict from the names of groups to counts.

        Raises:
            ValueError: If the budget cannot be met.
        """
        cost, ties = self.costs[kind], self._ties()

        def of_all(counts):
            return {name: n for first, n in counts.items() for name in ties[first]}

        most, multiples, errors = {}, {}, {}
        for first, names in ties.items():
            size = len(self.curves[first].order)
            least = max(1, math.ceil(self._min_kept * size - 1e-9))
            most[first], multiples[first] = size - least, self._round_to
            errors[first] = sum(np.asarray(self.curves[name].errors) for name in names)
        counts = of_all(
            choose_counts(
                errors,
                lambda counts: cost(of_all(counts)),
                budget,
                most=most,
                multiples=multiples,
            )
        )
        reached = cost(counts)
        if reached > budget * (1 + 1e-9):
            whole = cost({})
            raise ValueError(
                f"The target of {as_text(kind, budget)} cannot be met: at least "
                f"{as_text(kind, reached)} remain of {as_text(kind, whole)}, with "
                f"`min_kept={self._min_kept:g}` and `round_to={self._round_to}`. Give "
                f"a higher target or a lower `min_kept`.{self._why()}"
            )
        return counts

    def _ties(self):
        """Returns a dict from a group to all that lose equally many channels."""
        if not self._uniform:
            return {name: [name] for name in self.curves}
        ties = [[g.name for g in tie] for tie in alike(self.candidates.groups.values())]
        return {
            names[0]: names
            for names in ties
            if all(name in self.curves for name in names)
        }

    def removed(self, counts):
        """Returns a dict from the names of groups to the channels that they lose."""
        return {
            name: self.curves[name].order[:count]
            for name, count in counts.items()
            if count
        }

    def masks(self, counts):
        """Returns the masks of kernels whose inputs lose channels, or key dimensions.

        Returns:
            Dict from all `Kernel`s of the candidates to NumPy bool arrays (K, N);
            `True` = keep.
        """
        masks = {
            kernel: np.ones((kernel.layout.rows, kernel.layout.outputs), bool)
            for kernel in self.candidates.kernels
        }
        for name, channels in self.removed(counts).items():
            group = self.candidates.rows[name]
            readers = [rows for rows in group if rows.is_consumer] or group
            for rows in readers:
                rows.remove(masks[rows.kernel], channels)
        return masks

    def set_zeros(self, counts):
        """Sets all trainable weights of removed channels to zero, in the model."""
        kept = self.graph.kept(self.removed(counts))
        for variable in self.graph.variables.values():
            indices = kept.indices(variable)
            if variable.trainable and any(own is not None for own in indices):
                value = ops.convert_to_numpy(variable)
                places = [
                    np.arange(size) if own is None else own
                    for own, size in zip(indices, variable.shape, strict=True)
                ]
                zeros = np.zeros_like(value)
                zeros[np.ix_(*places)] = value[np.ix_(*places)]
                variable.assign(zeros)

    def cut(self, counts):
        """Returns the smaller model."""
        kept = self.graph.kept(self.removed(counts))
        return cut(self.model, self.graph, kept, uniform=self._uniform)

    def rows(self, counts):
        """Returns the `GroupRow` of each group of the graph."""
        rows = []
        for group in self.graph.groups:
            layers = dict.fromkeys(member.layer.name for member in group.members)
            count, error = counts.get(group.name, 0), None
            reason = self.candidates.skipped.get(group.name)
            if group.name in self.curves:
                error = float(self.curves[group.name].errors[count])
            elif reason is None:
                reason = "no sample reaches the layers that read it"
            rows.append(
                GroupRow(
                    group.name, group.kind, group.size, group.size - count, error,
                    tuple(layers), reason,
                )
            )  # fmt: skip
        return rows

    def _why(self):
        """Returns a sentence for each reason why groups stay whole."""
        reasons = [f"{k}: {v}" for k, v in self.candidates.skipped.items()]
        pins = dict.fromkeys(pin.reason for pin in self.graph.pins)
        # What any model pins says least.
        reasons += sorted(pins, key=lambda reason: reason.endswith(_IN_ANY_MODEL))
        shown = "".join(f"\n  {reason}" for reason in reasons[:8])
        more = len(reasons) - 8
        return f" What stays whole:{shown}" + (f"\n  ... {more} more" * (more > 0))

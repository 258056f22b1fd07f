"""Holds and shows what became of a model."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from keras_pruner.reporting.comparing.verdict import verdict_of
from keras_pruner.reporting.cost import Quantity, ratio_of, view_of
from keras_pruner.reporting.cost.measurement import Measurement
from keras_pruner.reporting.render import Shown, View, percent
from keras_pruner.types import Rows

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclasses.dataclass(frozen=True)
class Outputs:
    """How far the outputs of two models are apart.

    Args:
        difference: Largest absolute difference, or `None`.
        relative_difference: The same, as a share of the largest output, or `None`.
        error: `|after - before|^2 / |before - mean|^2` over all samples, or `None`.
        is_equal: Whether they are equal up to rounding.
        reason: Why they were not compared, or `None`.
    """

    difference: float | None = None
    relative_difference: float | None = None
    error: float | None = None
    is_equal: bool = False
    reason: str | None = None


class ModelComparison(Shown):
    """Shows what became of a model: size, time, accuracy and outputs.

    It prints as a table, shows as HTML in notebooks, and `rows()` and `totals()` return
    plain numbers.

    Args:
        measurement: `Measurement` of both models.
        scores: `Scores` of both models.
        outputs: `Outputs`: how far they are apart.
        layers: Set of the names of the classes of the layers with kernels.

    Attributes:
        verdict: One sentence: faster, smaller and more accurate by how much. A ratio of
            times counts as in `Measurement`.
    """

    def __init__(
        self,
        measurement: Measurement,
        scores: Any,
        outputs: Any,
        layers: Iterable[str] = frozenset(),
    ) -> None:
        self.measurement = measurement
        self.scores = scores
        self.outputs = outputs
        self.layers = set(layers)
        self.verdict = verdict_of(self)

    def rows(self) -> Rows:
        """Returns one dict per line of the table.

        The keys are `"quantity"`, `"before"`, `"after"`, `"ratio"` (after / before) and
        `"reason"` (why a number is missing, or `None`). Times are in milliseconds, and
        have `"ratio_quartiles"`.
        """
        times = {
            f"{one.engine}, batch {one.batch_size}, ms": one.ratio
            for one in self.measurement.latencies
        }
        rows = []
        for one in self.quantities():
            before, after = one.values
            row = {"quantity": one.path, "before": before, "after": after}
            row |= {"ratio": one.ratio, "reason": one.skipped}
            if times.get(one.path) is not None:
                low, _, high = times[one.path]
                row["ratio_quartiles"] = (low, high)
            rows.append(row)
        return rows

    def totals(self) -> dict[str, Any]:
        """Returns a dict with all numbers.

        `"before"`, `"after"` and `"ratio"` are those of `Measurement.totals`, with the
        metrics under `"metrics"`. `"outputs"` has the fields of `Outputs`, and
        `"verdict"` is the sentence.
        """
        totals = self.measurement.totals()
        names = {"before": "model", "after": "other"}
        found = {new: dict(totals[old]) for new, old in names.items()}
        for index, side in enumerate(names):
            found[side]["metrics"] = {
                k: v[index] for k, v in self.scores.values.items()
            }
        return found | {
            "ratio": totals["ratio"],
            "outputs": dataclasses.asdict(self.outputs),
            "verdict": self.verdict,
        }

    def quantities(self) -> list[Any]:
        """Returns the lines of the table, as a list of `Quantity`s."""
        found = []
        for one in self.measurement.quantities():
            if one.path == "nonzero parameters":
                found.append(self._zeros())
            elif callable(one.text):
                found.append(one)
            else:
                found.append(dataclasses.replace(one, text=_short))
        found += [
            Quantity(
                name,
                values,
                "{:.4g}",
                ratio_of(values),
                change=f"{values[1] - values[0]:+.4f}",
            )
            for name, values in self.scores.values.items()
        ]
        apart = self.outputs.relative_difference
        if apart is not None:
            found.append(Quantity("output difference", (None, apart), "{:.2g}"))
        if self.outputs.error is not None:
            found.append(Quantity("output error", (None, self.outputs.error), "{:.2g}"))
        return found

    def _zeros(self):
        totals = self.measurement.totals()
        sides = [totals[side] for side in ("model", "other")]
        # A model without parameters has no zeros either.
        shares = tuple(
            (side["parameters"] - side["nonzero_parameters"])
            / max(1, side["parameters"])
            for side in sides
        )
        change = f"{shares[1] - shares[0]:+.1%}"
        return Quantity("zeros", shares, lambda x: percent(x, 1), change=change)

    def summary_lines(self) -> list[str]:
        """Returns the sentences above the table, the verdict first."""
        # The measurement's own verdict is about time only.
        own = self.measurement.verdict
        lines = [self.verdict]
        lines += [text for text in self.measurement.summary_lines() if text != own]
        if self.outputs.relative_difference is not None:
            lines.append(
                "The output difference is the largest one / the largest output; the "
                "output error is the sum of squares / the variance."
            )
        for what, reason in (
            ("Outputs are not compared", self.outputs.reason),
            ("No accuracy", self.scores.reason),
        ):
            if reason is not None:
                lines.append(f"{what}: {reason}.")
        return lines

    def view(self, expand: bool = False) -> View:
        """Returns what the table shows.

        Args:
            expand: As in `to_text`. Every quantity has its own line anyway.
        """
        return view_of(
            self.summary_lines(),
            self.quantities(),
            ("before", "after"),
            ("change", _change),
            self.measurement.latencies,
        )


def _change(quantity):
    """Returns the change of a quantity, as it reads best.

    Example:

    >>> _change(Quantity("parameters", (40, 10), "{}", 0.25))
    '÷4.00'
    >>> _change(Quantity("zeros", (0.5, 0.5), "{}", 1.0))
    '='
    """
    if quantity.change is not None or quantity.ratio is None:
        return quantity.change or "-"
    ratio = quantity.ratio
    if abs(ratio - 1) < 0.005:
        return "="
    sign, factor = ("÷", 1 / ratio) if 0 < ratio < 1 else ("×", ratio)
    return f"{sign}{factor:#.3g}"


def _short(value):
    """Returns a count with three digits and a unit.

    Example:

    >>> [_short(value) for value in (0, 999, 1234, 50400000, 6.02e8)]
    ['0', '999', '1.23k', '50.4M', '602M']
    """
    for size, unit in _UNITS:
        if abs(value) >= size:
            number = value / size
            digits = 2 if number < 10 else 1 if number < 100 else 0
            return f"{number:.{digits}f}{unit}"
    return f"{value:.0f}"

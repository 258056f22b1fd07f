"""Holds and shows what two models cost."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from keras_pruner.reporting.cost.quantity import (
    Quantity,
    milliseconds,
    ratio_of,
    view_of,
)
from keras_pruner.reporting.cost.verdict import verdict_of
from keras_pruner.reporting.render import Shown, View
from keras_pruner.types import Rows

# A thread that waits more than this is not alone on its processor.
BUSY = 1.2


@dataclasses.dataclass(frozen=True, eq=False)
class Latency:
    """Time of one call on one engine.

    Args:
        engine: Name of the engine.
        batch_size: Number of samples of a call.
        num_threads: Number of threads, or `None` for those of the process.
        timings: Tuple with a `Timing` for each model, or `None` if it was not timed.
        difference: Largest difference of the engine's outputs from those of the Keras
            models, as a share of the largest output, or `None`.
        reason: Why it was not timed, or `None`.
        file_bytes: Tuple with the bytes of each model as exported to the engine's
            format, or `None` if the engine runs no file.
    """

    engine: str
    batch_size: int
    num_threads: int | None
    timings: tuple | None
    difference: float | None = None
    reason: str | None = None
    file_bytes: tuple | None = None

    @property
    def ratio(self):
        """Quartiles of the time of the other model / the model's, or `None`."""
        if self.timings is None or len(self.timings) < 2:
            return None
        return self.timings[1].ratio_to(self.timings[0])

    @property
    def cpu_ratio(self):
        """Quartiles of the same ratio of CPU times, or `None`."""
        if self.timings is None or len(self.timings) < 2:
            return None
        return self.timings[1].cpu_ratio_to(self.timings[0])

    @property
    def decisive_ratio(self):
        """The ratio that a verdict uses: of CPU times if calls wait for a processor."""
        return self.cpu_ratio if self.wait > BUSY else self.ratio

    @property
    def wait(self):
        """Largest wall time / CPU time of a model, or 1 if it runs on more threads."""
        if self.timings is None or self.num_threads != 1:
            return 1.0
        return max(
            t.milliseconds[1] / max(t.cpu_milliseconds, 1e-6) for t in self.timings
        )

    def row(self):
        """Returns the numbers as a dict; times are in milliseconds."""
        row = {
            "engine": self.engine,
            "batch_size": self.batch_size,
            "num_threads": self.num_threads,
            "difference": self.difference,
            "reason": self.reason,
        }
        for name, timing in zip(("model", "other"), self.timings or (), strict=False):
            low, middle, high = timing.milliseconds
            row[f"{name}_ms"] = middle
            row[f"{name}_ms_quartiles"] = (low, high)
            row[f"{name}_cpu_ms"] = timing.cpu_milliseconds
        if self.file_bytes is not None:
            names = ("model_file_bytes", "other_file_bytes")
            row |= dict(zip(names, self.file_bytes, strict=False))
        if self.ratio is not None:
            low, middle, high = self.ratio
            row |= {"ratio": middle, "ratio_quartiles": (low, high)}
            row["cpu_ratio"] = self.cpu_ratio[1]
        return row


class Measurement(Shown):
    """Holds what a model costs, perhaps beside another one.

    It prints as a table, shows as HTML in notebooks, and `rows()` and `totals()` return
    plain numbers.

    Args:
        sizes: Tuple with a `ModelSize` for each model.
        flops: Tuple with a `FlopsReport` for each model, or with the reason why its
            operations could not be counted.
        latencies: Tuple of `Latency`s.
        rounds: Number of rounds in which the models were timed.

    Attributes:
        verdict: Sentence that says whether the other model is faster, or `None` without
            another model or without an engine. A ratio counts as faster if its median
            is at most 0.95 and its upper quartile below 1. It is the ratio of CPU times
            where a call on one thread takes more than 1.2 times its CPU time.
    """

    def __init__(
        self,
        sizes: Sequence[Any],
        flops: Sequence[Any],
        latencies: Sequence[Any],
        rounds: int,
    ) -> None:
        self.sizes = tuple(sizes)
        self.flops = tuple(flops)
        self.latencies = tuple(latencies)
        self.rounds = rounds
        self.verdict = None
        if len(self.sizes) == 2 and self.latencies:
            dense, other = (s.nonzero_parameters / max(1, s.parameters) for s in sizes)
            ratio = ratio_of(self._flops("flops"))
            self.verdict = verdict_of(self.latencies, ratio, other < dense)

    def _flops(self, name):
        return tuple(getattr(report, name, None) for report in self.flops)

    def rows(self) -> Rows:
        """Returns one dict per engine and batch size.

        The keys are `"engine"`, `"batch_size"`, `"num_threads"`, `"difference"` (of the
        engine's outputs from those of the Keras models, as a share of the largest) and
        `"reason"` (why it was not timed, or `None`). If it was timed, also
        `"model_ms"`, `"model_ms_quartiles"` and `"model_cpu_ms"`; with another model
        the same for `"other"`, and `"ratio"`, `"ratio_quartiles"` and `"cpu_ratio"` of
        the other model's time to the model's. Engines that run exported files add
        `"model_file_bytes"` and `"other_file_bytes"`.
        """
        return [latency.row() for latency in self.latencies]

    def totals(self) -> dict[str, Any]:
        """Returns a dict from `"model"` and `"other"` to dicts of numbers.

        The keys are `"parameters"`, `"nonzero_parameters"`, `"flops"`,
        `"effective_flops"`, `"file_bytes"` and `"zipped_bytes"`. With another model,
        `"ratio"` has the other model's numbers divided by the model's. Numbers that
        could not be found are `None`.
        """
        names = ("model", "other")
        totals = {name: {} for name, _ in zip(names, self.sizes, strict=False)}
        for key, values in self._numbers().items():
            for name, value in zip(names, values, strict=False):
                totals[name][key] = value
        if len(self.sizes) == 2:
            totals["ratio"] = {key: ratio_of(v) for key, v in self._numbers().items()}
        return totals

    def _numbers(self):
        def sizes(name):
            return tuple(getattr(size, name) for size in self.sizes)

        return {
            "parameters": sizes("parameters"),
            "nonzero_parameters": sizes("nonzero_parameters"),
            "flops": self._flops("flops"),
            "effective_flops": self._flops("effective_flops"),
            "file_bytes": sizes("file_bytes"),
            "zipped_bytes": sizes("zipped_bytes"),
        }

    def summary_lines(self) -> list[str]:
        """Returns the sentences above the table, the verdict first."""
        lines = [] if self.verdict is None else [self.verdict]
        timed = [latency for latency in self.latencies if latency.timings]
        if timed:
            threads = {latency.engine: latency.num_threads for latency in timed}
            texts = ", ".join(f"{k} {v or 'all'}" for k, v in threads.items())
            takes = ", in which the models take turns" if len(self.sizes) == 2 else ""
            lines.append(
                f"Times are medians over the calls of {self.rounds} rounds{takes}. "
                f"Threads: {texts}."
            )
        waits = max((latency.wait for latency in timed), default=1)
        if waits > BUSY:
            lines.append(
                f"Calls on one thread take up to {waits:.1f} times their CPU time, so "
                "other work runs on this machine. It slows long calls most: compare "
                "the CPU times there."
            )
        return lines

    def view(self, expand: bool = False) -> View:
        """Returns what the table shows.

        Args:
            expand: As in `to_text`.
        """
        names = ("model", "other")[: len(self.sizes)]
        change = ("ratio", _ratio_text) if len(names) == 2 else None
        return view_of(
            self.summary_lines(), self.quantities(), names, change, self.latencies
        )

    def exported_bytes(self) -> dict[str, Any]:
        """Returns a dict from engines that run files to the bytes of each model's."""
        return {one.engine: one.file_bytes for one in self.latencies if one.file_bytes}

    def quantities(self) -> list[Any]:
        """Returns the lines of the table, as a list of `Quantity`s."""
        files = [
            Quantity(f"bytes for {engine}", values, "{:,}", ratio_of(values))
            for engine, values in self.exported_bytes().items()
        ]
        return [*self._costs(), *files, *map(self._time_of, self.latencies)]

    def _costs(self):
        names = {
            "parameters": "parameters",
            "nonzero_parameters": "nonzero parameters",
            "flops": "FLOPs of a sample",
            "effective_flops": "effective FLOPs",
            "file_bytes": "bytes of .keras",
            "zipped_bytes": "bytes, deflated",
        }
        unsaved = next((s.reason for s in self.sizes if s.reason), None)
        uncounted = next((f for f in self.flops if isinstance(f, str)), None)
        reasons = {"file_bytes": unsaved, "zipped_bytes": unsaved, "flops": uncounted}
        numbers = self._numbers()
        if numbers["flops"] == numbers["effective_flops"]:
            del numbers["effective_flops"]
        return [
            Quantity(names[key], v, "{:,}", ratio_of(v), skipped=reasons.get(key))
            for key, v in numbers.items()
        ]

    def _time_of(self, latency):
        name = f"{latency.engine}, batch {latency.batch_size}, ms"
        if latency.timings is None:
            none = (None,) * len(self.sizes)
            return Quantity(name, none, "{}", skipped=latency.reason)
        values = tuple(timing.milliseconds[1] for timing in latency.timings)
        if latency.ratio is None:
            (timing,) = latency.timings
            low, _, high = timing.milliseconds
            cpu = milliseconds(timing.cpu_milliseconds)
            spread = f"{milliseconds(low)} - {milliseconds(high)}"
            return Quantity(name, values, milliseconds, None, spread, cpu)
        low, middle, high = latency.ratio
        spread, cpu = f"{low:.2f} - {high:.2f}", f"{latency.cpu_ratio[1]:.2f}"
        return Quantity(name, values, milliseconds, middle, spread, cpu)


def _ratio_text(quantity):
    return "-" if quantity.ratio is None else f"{quantity.ratio:.2f}"

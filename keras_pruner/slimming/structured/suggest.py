"""Suggests how many channels each layer keeps, as a config to prune by in training."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import ops

from keras_pruner.checks import check_in_range
from keras_pruner.components import Custom
from keras_pruner.config import PruningConfig
from keras_pruner.oneshot import put_back
from keras_pruner.reporting import Column, Shown, View, lines_of, percent, progress_bar
from keras_pruner.slimming.structured.measured import as_cost
from keras_pruner.slimming.structured.preparation import check_model, prepare
from keras_pruner.slimming.structured.structured_report import GroupRow, error_text
from keras_pruner.slimming.structured.targets import as_text, read_target
from keras_pruner.types import Amount, Data, Rows, Where

# Models that are cut and evaluated to find how much costs so many points.
_NUM_TRIALS = 6


@dataclasses.dataclass(frozen=True)
class SuggestionRow(GroupRow):
    """Describes one group of channels in a `Suggestion`.

    Args:
        saved: Share of the whole model's cost that the removal of this group's channels
            saves, if nothing else is removed.
    """

    saved: float = 0.0


class Suggestion(Shown):
    """A plan for channels, with its reasons.

    Args:
        config: `PruningConfig` with the pattern `"channel_groups"`.
        groups: Tuple of `SuggestionRow`s.
        kind: `"parameters"` or `"flops"`.
        cost: Tuple of the cost before and after.
        points: Tuple of the score before, and that of the cut model before training;
            or `None`.

    Attributes:
        config: The config. Its allocation is a dict from groups to the share of the
            channels that they lose, which you can change.
    """

    def __init__(
        self,
        config: PruningConfig,
        groups: Sequence[Any],
        kind: str,
        cost: Any,
        points: tuple[float, float] | None = None,
    ) -> None:
        self.config, self.groups = config, tuple(groups)
        self.kind, self.cost, self.points = kind, tuple(cost), points

    @property
    def headline(self) -> str:
        """One sentence on the plan."""
        before, after = self.cost
        text = (
            f"suggest: {as_text(self.kind, before)} to {as_text(self.kind, after)} "
            f"({after / before:.2f}x)"
        )
        if self.points is not None:
            text += f", score {self.points[0]:.4g} to {self.points[1]:.4g} if cut now"
        return f"{text}. Use it as `PruningCallback(suggestion.config)`, then `shrink`."

    def rows(self) -> Rows:
        """Returns one dict of plain values per group."""
        return [dataclasses.asdict(row) for row in self.groups]

    def view(self, expand: bool = False) -> View:
        """Returns the `View` that is printed."""
        return View(
            [self.headline],
            [
                Column("from", lambda rows: f"{sum(r.size for r in rows):,}"),
                Column("to", lambda rows: f"{sum(r.kept for r in rows):,}"),
                Column(
                    f"saved {self.kind}",
                    lambda rows: percent(min(1.0, sum(r.saved for r in rows))),
                ),
                Column("error", error_text, rank=1),
            ],
            lines_of(self.groups, lambda row: row.kept, expand),
            self.groups,
            "group",
        )


def suggest(
    model: keras.Model,
    data: Data = None,
    target: Mapping[str, Any] | None = None,
    *,
    parameters: Amount = None,
    flops: Amount = None,
    bytes: Amount = None,
    latency: Amount = None,
    points_lost: float | None = None,
    evaluate: Callable[[keras.Model], float] | None = None,
    include: Where = None,
    exclude: Where = None,
    min_kept: float = 0.1,
    round_to: int = 1,
    uniform: bool = False,
    num_samples: int = 512,
    batch_size: int | None = None,
    max_memory: int = 2**32,
    seed: int = 0,
    verbose: bool = True,
    **unknown: Any,
) -> Suggestion:
    """Suggests which channels to remove for a target, as a config for training.

    The error of each group of channels is measured as in `prune_structured`. Channels
    are then taken where the error rises least for the cost that they save; costs of
    groups depend on each other, so this goes step by step; see `choose_counts`.

    Args:
        model: Built Keras model. It does not change.
        data: Samples of the inputs without labels, or `None`; see `prune_one_shot`.
        target: Dict of one target, in place of one of the next four keywords.
        parameters, flops, bytes, latency: The target; see `prune_structured`.
        points_lost: The target "as small as costs at most so many points": the most
            that the score of `evaluate` may fall if the model is cut without training.
            It needs `data` and `evaluate`.
        evaluate: Function from a Keras model to a score, e.g. the accuracy in %. Higher
            is better.
        include, exclude, min_kept, round_to, uniform: See `prune_structured`.
        num_samples, batch_size, max_memory, seed: See `prune_structured`.
        verbose: Whether to show a progress bar and a line on the result.

    Returns:
        `Suggestion`.

    Raises:
        ValueError: If a setting or the data does not fit, or the target cannot be met.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((8,)), keras.layers.Dense(16, "relu", name="hidden"),
    ...     keras.layers.Dense(3, name="head")])
    >>> suggestion = suggest(model, parameters=0.5, verbose=False)
    >>> suggestion.config.allocation
    Custom({'hidden': 0.5625})
    """
    check_model(model, unknown)
    keywords = {
        "parameters": parameters, "flops": flops, "bytes": bytes, "latency": latency
    }  # fmt: skip
    settings = {
        "include": include, "exclude": exclude, "min_kept": min_kept,
        "round_to": round_to, "uniform": uniform, "num_samples": num_samples,
        "batch_size": batch_size, "max_memory": max_memory, "seed": seed,
    }  # fmt: skip
    points = None
    with progress_bar(verbose) as progress:
        if points_lost is None:
            wanted = read_target(target, keywords)
            prepared = prepare(model, data, progress, **settings)
            kind, budget = as_cost(prepared.plan, wanted, model, batch_size)
        else:
            _check_points(points_lost, evaluate, data, {"target": target, **keywords})
            prepared, kind, budget, points = _search(
                model, data, points_lost, evaluate, settings, progress
            )
        counts = prepared.plan.choose(kind, budget)
    suggestion = _suggestion(prepared.plan, kind, counts, points)
    if verbose:
        print(suggestion.headline)
    return suggestion


def _suggestion(plan, kind, counts, points):
    cost = plan.costs[kind]
    whole, rows = cost({}), []
    for row in plan.rows(counts):
        count = row.size - row.kept
        saved = 1 - cost({row.path: count}) / whole if count else 0.0
        rows.append(SuggestionRow(**vars(row), saved=saved))
    # Keys are searched in parts of paths, so longer ones come first.
    shares = {
        re.escape(row.path): count / row.size
        for row in sorted(rows, key=lambda row: -row.path.count("/"))
        if (count := row.size - row.kept)
    }
    pattern = {"name": "channel_groups", "config": {"cost": kind, "floor": 0.0}}
    # Groups without an entry lose nothing.
    config = PruningConfig(
        pattern=pattern, allocation=Custom(shares), target_sparsity=0.0
    )
    return Suggestion(config, rows, kind, (whole, cost(counts)), points)


def _check_points(points_lost, evaluate, data, others):
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ValueError(f"Give one target, `points_lost` or `{given[0]}`.")
    check_in_range(points_lost, "`points_lost`", 0)
    if not callable(evaluate) or data is None:
        raise ValueError(
            "`points_lost` needs `data`, and `evaluate`: a function from a Keras model "
            "to a score, e.g. `lambda m: 100 * np.mean(m.predict(x).argmax(1) == y)`."
        )


def _search(model, data, points_lost, evaluate, settings, progress):
    """Finds the fewest FLOPs that cost at most so many points.

    Returns:
        Tuple of `Prepared`, kind, budget, and the scores before and after.
    """
    before = float(evaluate(model))
    low, high, best = 0.0, 1.0, (1.0, before)
    prepared = prepare(model, data, progress, **settings)
    plan, whole = prepared.plan, prepared.plan.costs["flops"]({})
    dense = [(variable, ops.copy(variable)) for variable in plan.model.weights]
    for _ in range(_NUM_TRIALS):
        share = (low + high) / 2
        try:
            counts = prepared.fit("flops", share * whole, 1, progress)
        except ValueError:
            low = share
            continue
        plan.set_zeros(counts)
        after = float(evaluate(plan.model))
        put_back(dense)
        if after >= before - points_lost:
            high, best = share, (share, after)
        else:
            low = share
    return prepared, "flops", best[0] * whole, (before, best[1])

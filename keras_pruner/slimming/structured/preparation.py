"""Checks the settings of a structured pruning, and measures the channels."""

import dataclasses

from keras_pruner.checks import check_in_range
from keras_pruner.components import PATTERNS
from keras_pruner.oneshot import StageByStage, Wanda, collect_samples
from keras_pruner.slimming.check_model import check_can_be_cut
from keras_pruner.slimming.structured.curves import CurvesOfOutputs
from keras_pruner.slimming.structured.plan import ChannelPlan
from keras_pruner.training import plain_copy

# Steps of the fit of the kept weights.
_FIT = Wanda(per_output=False, refit_steps=30)


@dataclasses.dataclass(frozen=True, eq=False)
class Prepared:
    """A copy of a model whose channels are measured.

    Args:
        plan: `ChannelPlan` of the copy, with curves.
        samples: `Samples`, or `None`.
        run: `StageByStage` of the copy, or `None` without samples.
    """

    plan: ChannelPlan
    samples: object = None
    run: StageByStage | None = None

    def fit(self, kind, budget, steps, progress):
        """Removes channels and fits the weights that are left; returns the counts.

        Each step multiplies the cost by the same factor. Channels that are gone have
        weights of zero, so they come first in the order of the next step.

        Args:
            kind: `"parameters"` or `"flops"`.
            budget: Highest cost.
            steps: Number of steps.
            progress: `rich.progress.Progress`.
        """
        plan, run = self.plan, self.run
        if run is None:
            return plan.choose(kind, budget)
        whole = plan.costs[kind]({})
        reached = {kernel for stage in run.stages for kernel in stage}
        for step in range(1, steps + 1):
            if step > 1:
                plan.measure(CurvesOfOutputs(run), progress)
            counts = plan.choose(kind, whole * (budget / whole) ** (step / steps))
            masks = {k: mask for k, mask in plan.masks(counts).items() if k in reached}
            bar = progress.add_task("weights", total=len(masks))
            for each in run.prune({}, masks):
                progress.update(bar, advance=1, description=each.kernel.path)
        return counts


def prepare(
    model, data, progress, *, include, exclude, min_kept, round_to, num_samples,
    batch_size, max_memory, seed, uniform=False,
):  # fmt: skip
    """Copies a model and measures the errors that its channels' removal makes.

    Args:
        model: Built Keras model.
        data: See `prune_structured`.
        progress: `rich.progress.Progress`.
        include, exclude, min_kept, round_to, num_samples, batch_size, max_memory, seed,
            uniform: See `prune_structured`.

    Returns:
        `Prepared`.
    """
    check_in_range(min_kept, "`min_kept`", 0, 1)
    check_in_range(round_to, "`round_to`", 1, integer=True)
    samples = None
    if data is not None:
        samples = collect_samples(
            model, data, num_samples=num_samples, batch_size=batch_size, seed=seed
        )
    plan = ChannelPlan(plain_copy(model), include, exclude, min_kept, round_to, uniform)
    if samples is None:
        plan.measure_norms()
        return Prepared(plan)
    units = [((kernel,), PATTERNS.get("1x1")) for kernel in plan.candidates.kernels]
    run = StageByStage(
        plan.model, units, samples.batches, _FIT, max_memory=max_memory, seed=seed
    )
    plan.measure(CurvesOfOutputs(run), progress)
    return Prepared(plan, samples, run)


def check_model(model, unknown):
    """Raises an error if an object is no built Keras model, or quantized.

    Args:
        model: Any object.
        unknown: Dict of named arguments that the called function does not know.
    """
    if "for_engine" in unknown:
        raise TypeError(
            "Smaller layers are faster on every engine, so `for_engine` has no meaning "
            "for `prune_structured`. Leave it out."
        )
    if unknown:
        raise TypeError(
            f"Unknown arguments: {', '.join(unknown)}. A target says how much is left: "
            "`parameters`, `flops`, `bytes` or `latency`, e.g. `flops=0.5` for half of "
            "the FLOPs."
        )
    check_can_be_cut(model)

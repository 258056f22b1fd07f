"""Meets targets that only a measurement tells: bytes of a file, and latency."""

import keras

from keras_pruner.reporting import measure
from keras_pruner.slimming.structured.targets import as_text

# Cuts that are measured before one is chosen.
_NUM_TRIALS = 6


def as_cost(plan, target, model, batch_size):
    """Returns a target as a budget that can be counted.

    A file's bytes are searched over the share of the parameters, and latency over that
    of the FLOPs: models are cut by bisection, and measured. The weights that are left
    do not matter for either.

    Args:
        plan: `ChannelPlan` with curves.
        target: `Target`.
        model: The whole model.
        batch_size: Samples in a batch whose latency is measured; `None` is 1.

    Returns:
        Tuple of `"parameters"` or `"flops"`, and the highest cost.

    Raises:
        ValueError: If no trial meets the target.
    """
    if target.kind in plan.costs:
        return target.kind, target.budget(plan.costs[target.kind]({}))
    kind = "parameters" if target.kind == "bytes" else "flops"
    whole = plan.costs[kind]({})
    low, high, best = 0.0, 1.0, None
    wanted, reached = None, None
    for trial in range(_NUM_TRIALS):
        # The first guess takes both to be in proportion.
        share = target.share if trial == 0 and target.share else (low + high) / 2
        try:
            counts = plan.choose(kind, share * whole)
        except ValueError:
            low = share
            continue
        before, after = _measure(target.kind, model, plan.cut(counts), batch_size)
        wanted = target.budget(before)
        reached = after if reached is None else min(reached, after)
        if after <= wanted:
            low, best = share, share
        else:
            high = share
    if best is None:
        least = "nothing" if reached is None else as_text(target.kind, reached)
        asked = "the target" if wanted is None else as_text(target.kind, wanted)
        raise ValueError(
            f"{target.kind}: {asked} cannot be met. The least that was measured is "
            f"{least}. Give a higher target, a lower `min_kept`, or `include` more."
        )
    return kind, best * whole


def measured_costs(plan, counts, target, model, smaller, batch_size):
    """Returns a dict from kinds of costs to their values before and after."""
    found = {k: (cost({}), cost(counts)) for k, cost in plan.costs.items()}
    found["parameters"] = model.count_params(), smaller.count_params()
    if target.kind not in found:
        found[target.kind] = _measure(target.kind, model, smaller, batch_size)
    return found


def _measure(kind, model, smaller, batch_size):
    """Returns what both models cost, by one measurement in turns."""
    engines = () if kind == "bytes" else keras.backend.backend()
    found = measure(model, smaller, batch_size=batch_size or 1, engines=engines)
    if kind == "bytes":
        totals = found.totals()
        return tuple(totals[name]["file_bytes"] for name in ("model", "other"))
    (row,) = found.rows()
    if row["reason"] is not None:
        raise ValueError(f"The latency cannot be measured: {row['reason']}.")
    return tuple(row[f"{name}_ms"] / 1e3 for name in ("model", "other"))

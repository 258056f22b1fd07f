"""Says in one sentence what a model gained and lost."""

from keras_pruner.components import CAPABILITIES, capability_of
from keras_pruner.reporting.cost import outcome_of, ratio_of

# Ratios of sizes within so much of 1 are no difference.
_SAME = 0.02
# Points of accuracy below which models are equally accurate.
_SAME_POINTS = 0.05


def verdict_of(comparison):
    """Returns one sentence about a `ModelComparison`."""
    measurement = comparison.measurement
    parts = [
        "; ".join(_times(measurement.latencies)),
        _size(measurement.totals()["ratio"]),
        *_exported(measurement),
        _accuracy(comparison),
    ]
    text = ", ".join(filter(None, parts)) or "not measured"
    advice = _advice(comparison)
    text = f"{text[0].upper()}{text[1:]}"
    return f"{text}; {advice}." if advice else f"{text}."


def _times(latencies):
    """Returns phrases such as "1.9x faster at batch 1 on litert"."""
    timed = [one for one in latencies if one.decisive_ratio is not None]
    if latencies and not timed:
        return ["not timed, because no engine runs both models"]
    found = {}
    for one in timed:
        found.setdefault(one.engine, []).append(one)
    engines, best = {}, lambda item: min(one.decisive_ratio[1] for one in item[1])
    for engine, ones in sorted(found.items(), key=best):
        engines.setdefault(_at_batches(ones), []).append(engine)
    if len(found) == 1:
        return list(engines)
    return [f"{text} on {' and '.join(names)}" for text, names in engines.items()]


def _at_batches(latencies):
    """Returns how much faster a model is on one engine, by batch size."""
    words = {}
    for one in latencies:
        ratio, outcome = one.decisive_ratio[1], outcome_of(*one.decisive_ratio)
        if outcome == "faster":
            word = f"{1 / ratio:.1f}x faster"
        elif outcome == "slower":
            word = f"{ratio:.1f}x slower"
        else:
            word = "no faster"
        words.setdefault(word, []).append(str(one.batch_size))
    return " and ".join(f"{k} at batch {' and '.join(v)}" for k, v in words.items())


def _size(ratios):
    """Returns a phrase such as "3.1x smaller", of the file and of the zipped file."""
    stored, zipped = ratios["file_bytes"], ratios["zipped_bytes"]
    if not stored or not zipped:
        return None
    if stored < 1 - _SAME:
        both = abs(zipped - stored) > _SAME
        return f"{1 / stored:.1f}x smaller" + (
            f" ({1 / zipped:.1f}x zipped)" if both else ""
        )
    if zipped < 1 - _SAME:
        return f"{1 / zipped:.1f}x smaller if the file is zipped"
    return f"{stored:.1f}x larger" if stored > 1 + _SAME else "no smaller"


def _exported(measurement):
    """Yields phrases such as "9.4x smaller for litert"."""
    stored = measurement.totals()["ratio"]["file_bytes"] or 1
    for engine, values in measurement.exported_bytes().items():
        ratio = ratio_of(values)
        if ratio and abs(ratio / stored - 1) > _SAME:
            size = f"{1 / ratio:.1f}x smaller" if ratio < 1 else f"{ratio:.1f}x larger"
            yield f"{size} for {engine}"


def _accuracy(comparison):
    scores, outputs = comparison.scores, comparison.outputs
    if scores.accuracy is not None:
        points = 100 * (scores.accuracy[1] - scores.accuracy[0])
        if abs(points) < _SAME_POINTS:
            return "equally accurate"
        word = "more" if points > 0 else "less"
        return f"{abs(points):.1f} points {word} accurate"
    if scores.values:
        name, (before, after) = next(iter(scores.values.items()))
        return f"{name} {after:.3g} instead of {before:.3g}"
    if outputs.reason is not None:
        return None
    if outputs.is_equal:
        return "with equal outputs"
    if outputs.error is None:
        return "with other outputs"
    return f"with outputs that differ by {outputs.error:.2g} of their variance"


def _advice(comparison):
    """Returns what would make zeros pay, if there are more and no call is faster."""
    measurement, totals = comparison.measurement, comparison.measurement.totals()
    ratios = [one.decisive_ratio for one in measurement.latencies]
    ratios = [ratio for ratio in ratios if ratio is not None]
    is_faster = any(outcome_of(*ratio) == "faster" for ratio in ratios)
    shares = [
        totals[side]["nonzero_parameters"] / max(1, totals[side]["parameters"])
        for side in ("model", "other")
    ]
    flops = totals["ratio"]["flops"]
    has_same_work = flops is None or flops > 1 - _SAME
    if is_faster or not ratios or not has_same_work or shares[1] >= shares[0]:
        return None
    ways = engines_for_zeros(comparison.layers)
    ways.append("remove whole channels (`prune_structured`, `shrink`)")
    return f"zeros alone make nothing faster here: {', or '.join(ways)}"


def engines_for_zeros(layer_types):
    """Returns the engines of this machine that zeros make faster, with the pattern.

    Args:
        layer_types: Set of the names of the classes of a model's layers with kernels.

    Returns:
        List of texts such as `"prune Dense with pattern '1x4' and export to LiteRT"`.
    """
    found = []
    for engine in dict.fromkeys(CAPABILITIES.values()):
        capability = capability_of(engine())
        names = capability.layer_types
        shared = sorted(layer_types if names is None else layer_types & set(names))
        if "time" in capability.rewards and capability.settings and shared:
            pattern = f"with pattern '{capability.pattern}'"
            layers = "" if names is None else f" {' and '.join(shared)}"
            found.append(f"prune{layers} {pattern} and export to {engine.title}")
    return found

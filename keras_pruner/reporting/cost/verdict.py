"""Says in one sentence whether a model is faster than another."""

# A median ratio within so much of 1 is no difference.
_SAME = 0.05


def verdict_of(latencies, flops_ratio, has_more_zeros):
    """Returns a sentence, or two if the model is nowhere faster.

    Args:
        latencies: List of `Latency`s.
        flops_ratio: FLOPs of the other model / those of the model, or `None`.
        has_more_zeros: Whether the other model has a lower share of nonzero weights.
    """
    timed = [latency for latency in latencies if latency.decisive_ratio is not None]
    if not timed:
        return "Neither faster nor slower: no engine could run both models."
    outcomes = {"faster": [], "not faster": [], "slower": []}
    for latency in timed:
        outcomes[outcome_of(*latency.decisive_ratio)].append(latency)
    if len(outcomes["faster"]) == len(timed):
        return f"Faster: the other model takes {_range(timed)}."
    if outcomes["faster"]:
        parts = [f"{name} on {_places(ls)}" for name, ls in outcomes.items() if ls]
        text = "; ".join(parts)
        return f"{text[0].upper()}{text[1:]}."
    word = "Slower" if len(outcomes["slower"]) == len(timed) else "Not faster"
    why = _why(flops_ratio, has_more_zeros)
    return f"{word}: the other model takes {_range(timed)}. {why}".rstrip()


def outcome_of(low, middle, high):
    """Returns "faster", "slower" or "not faster" for quartiles of a ratio of times.

    Example:

    >>> outcome_of(0.5, 0.55, 0.6), outcome_of(0.9, 0.94, 1.1)
    ('faster', 'not faster')
    >>> outcome_of(0.96, 0.97, 0.98), outcome_of(1.1, 1.2, 1.3)
    ('not faster', 'slower')
    """
    if middle <= 1 - _SAME and high < 1:
        return "faster"
    return "slower" if middle >= 1 + _SAME and low > 1 else "not faster"


def _range(latencies):
    ratios = sorted(latency.decisive_ratio[1] for latency in latencies)
    texts = list(dict.fromkeys(f"{ratio:.2f}" for ratio in (ratios[0], ratios[-1])))
    return f"{' to '.join(texts)} of the model's time"


def _places(latencies):
    return ", ".join(
        f"{one.engine} at batch size {one.batch_size} ({one.decisive_ratio[1]:.2f})"
        for one in latencies
    )


def _why(flops_ratio, has_more_zeros):
    if flops_ratio is None:
        return ""
    if flops_ratio < 1 - _SAME:
        return (
            f"It has {flops_ratio:.2f} of the FLOPs, so other costs outweigh them, "
            "such as the overhead of each call."
        )
    if has_more_zeros:
        return (
            "It has more zeros, but these engines compute with zeros too. Remove whole "
            "channels, units or heads to make it faster."
        )
    return f"It has {flops_ratio:.2f} of the FLOPs."

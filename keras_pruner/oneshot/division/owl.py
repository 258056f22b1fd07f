"""Divides a sparsity over kernels by the outliers among their Wanda scores."""

from keras import ops

# The scores above 5 times their mean are outliers; sparsities differ by 0.08 from
# the target at most.
OUTLIER, REACH = 5.0, 0.08
# As the floor of other allocations: 1 % of a kernel is kept.
_HIGHEST = 0.99


def outlier_ratio(scores, factor=OUTLIER):
    """Returns the share of scores that exceed `factor` times their mean.

    Args:
        scores: Non-negative float tensor of any shape.
        factor: Number > 0.

    Example:

    >>> outlier_ratio(ops.array([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 17.0]]))
    0.125
    """
    is_outlier = scores > factor * ops.mean(scores)
    return float(ops.mean(ops.cast(is_outlier, "float32")))


def owl_sparsities(ratios, sizes, target, caps=(0.0, None), reach=REACH):
    """Chooses sparsities near the target: the more outliers, the lower.

    With the ratios scaled to `r` in [0, 1], a kernel has the sparsity
    `target + 2 reach (c - r)`, clipped to `[target - reach, target + reach]` and to the
    caps. One `c` for all meets the total.

    Args:
        ratios: Dict from a kernel's path to its `outlier_ratio`.
        sizes: Dict from the path to the number of weights.
        target: Sparsity over all kernels, in [0, 1).
        caps: Lowest and highest sparsity of a kernel. A highest of `None` is 0.99, or
            the target if that is higher.
        reach: Largest difference to the target, in (0, 1).

    Returns:
        Dict from the path to a sparsity. The weights of all add up to the target,
        unless the caps forbid it.

    Example:

    >>> ratios, sizes = {"a": 0.0, "b": 0.1, "c": 0.2}, {"a": 30, "b": 30, "c": 30}
    >>> found = owl_sparsities(ratios, sizes, target=0.7)
    >>> {path: round(sparsity, 4) for path, sparsity in found.items()}
    {'a': 0.78, 'b': 0.7, 'c': 0.62}

    References:
        [Outlier Weighed Layerwise Sparsity, Yin et al.,
        2023](https://arxiv.org/abs/2310.05175)
    """
    lowest, highest = caps
    highest = max(_HIGHEST, target) if highest is None else highest
    low, high = max(lowest, target - reach), min(highest, target + reach)
    least, span = min(ratios.values()), max(ratios.values()) - min(ratios.values())
    scaled = {path: (r - least) / (span or 1.0) for path, r in ratios.items()}

    def sparsities(shift):
        wanted = {path: target + 2 * reach * (shift - r) for path, r in scaled.items()}
        return {path: min(high, max(low, s)) for path, s in wanted.items()}

    def total(shift):
        return sum(s * sizes[path] for path, s in sparsities(shift).items())

    # All kernels are at the lowest at -1, and at the highest at 2.
    down, up = -1.0, 2.0
    for _ in range(60):
        middle = (down + up) / 2
        is_below = total(middle) < target * sum(sizes.values())
        down, up = (middle, up) if is_below else (down, middle)
    return sparsities(up)

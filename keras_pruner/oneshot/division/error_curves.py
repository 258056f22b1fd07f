"""Divides a sparsity over kernels by the error that each makes at each sparsity."""

# Sparsities at which errors are measured: dense where curves bend most.
GRID = (0.3, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


def curve_sparsities(curves, sizes, target, caps=(0.0, None)):
    """Chooses the sparsity of each kernel so that the sum of the errors is least.

    A curve begins at `(0, 0)`. It is made monotone and replaced by its lower convex
    hull. Segments are then taken by their slope for each weight, the smallest first,
    until their weights meet the target; the last one in part.

    Args:
        curves: Dict from a kernel's path to a list of `(sparsity, error)`, with rising
            sparsities in (0, 1].
        sizes: Dict from the path to the number of weights.
        target: Sparsity over all kernels, in [0, 1).
        caps: Lowest and highest sparsity of a kernel. A highest of `None` is the last
            sparsity of its curve.

    Returns:
        Dict from the path to a sparsity. The weights of all add up to the target,
        unless the curves and caps end before it: then each kernel is at its highest.

    Example:

    Kernel "a" makes hardly an error up to 0.5, kernel "b" from the beginning:

    >>> curves = {"a": [(0.5, 0.01), (0.8, 0.4)], "b": [(0.5, 0.2), (0.8, 0.6)]}
    >>> curve_sparsities(curves, {"a": 100, "b": 100}, target=0.25)
    {'a': 0.5, 'b': 0.0}
    >>> found = curve_sparsities(curves, {"a": 100, "b": 100}, target=0.6)
    >>> {path: round(sparsity, 6) for path, sparsity in found.items()}
    {'a': 0.7, 'b': 0.5}
    """
    lowest, highest = caps
    segments, found, open_weights = [], {}, target * sum(sizes.values())
    for number, (path, curve) in enumerate(curves.items()):
        hull = lower_hull(_monotone(curve))
        end = hull[-1][0] if highest is None else min(highest, 1.0)
        if end > hull[-1][0]:
            hull.append((end, hull[-1][1] + _last_slope(hull) * (end - hull[-1][0])))
        found[path] = min(lowest, end)
        open_weights -= found[path] * sizes[path]
        for (start, low), (stop, high) in zip(hull, hull[1:], strict=False):
            slope = (high - low) / (stop - start) / sizes[path]
            start, stop = max(start, found[path]), min(stop, end)
            if stop > start:
                segments.append((slope, number, start, stop, path))
    for _, _, start, stop, path in sorted(segments):
        taken = min(stop - start, max(0.0, open_weights) / sizes[path])
        found[path] = start + taken if taken else found[path]
        open_weights -= taken * sizes[path]
    return found


def _monotone(curve):
    """Returns a curve from (0, 0) whose errors never fall."""
    points = [(0.0, 0.0)]
    for sparsity, error in curve:
        points.append((sparsity, max(error, points[-1][1])))
    return points


def lower_hull(points):
    """Returns the points of the lower convex hull.

    Args:
        points: List of `(x, y)` with rising x.

    Returns:
        List of points, with the first and the last one.
    """
    hull = []
    for point in points:
        while len(hull) > 1 and _is_above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _is_above(first, middle, last):
    """Whether the middle point is on or above the line from the first to the last."""
    rise = (last[1] - first[1]) * (middle[0] - first[0])
    return (middle[1] - first[1]) * (last[0] - first[0]) >= rise


def _last_slope(hull):
    (start, low), (stop, high) = hull[-2:]
    return (high - low) / (stop - start)

"""Score -> pattern -> allocation -> mask: the pure maths of one mask update."""

from keras import ops

from keras_pruner.reductions import ordered_sum, rounded_square
from keras_pruner.selection import count_lowest_jointly, select_lowest

# Below every finite score, and finite itself.
_LOWEST_SCORE = -3e38


def make_masks(config, kernels, weights, counts, target, lower, upper):
    """Scores, groups, allocates and selects.

    Args:
        config: `PruningConfig`.
        kernels: The `Kernel`s.
        weights: List of their values.
        counts: Int tensor (kernels,): groups to prune in each; unused where the
            allocation ranks jointly.
        target: Int tensor (): weights to prune in all, for a joint ranking.
        lower: Int tensor (kernels,): fewest groups of each.
        upper: Int tensor (kernels,): most groups of each.

    Returns:
        Tuple of the list of bool masks, each of its kernel's shape; an int32 tensor
        (kernels,) of the groups pruned; and a bool tensor (kernels,): whether all of
        a kernel's weights are finite.
    """
    scores, group_scores, finite = [], [], []
    for kernel, weight in zip(kernels, weights, strict=True):
        finite.append(ops.all(ops.isfinite(weight)))
        score = score_kernel(config, kernel, weight)
        scores.append(score)
        group_scores.append(score_groups(config, kernel, weight, score))
    if config.allocation.ranks_jointly:
        sizes = [config.pattern.group_size(kernel.layout) for kernel in kernels]
        counts = count_lowest_jointly(group_scores, sizes, target, lower, upper)
    masks = []
    for index, kernel in enumerate(kernels):
        pruned = select_lowest(group_scores[index], counts[index])
        mask = config.pattern.expand(pruned, scores[index], kernel.layout)
        masks.append(kernel.layout.from_matrix(mask))
    return masks, ops.cast(counts, "int32"), ops.stack(finite)


def score_kernel(config, kernel, weight):
    """Returns the scores of a kernel's weights as float32, of shape (K, N)."""
    return config.criterion.scores(kernel.layout.to_matrix(weight), kernel)


def score_groups(config, kernel, weight, scores):
    """Returns the scores by which a kernel's groups are ranked."""
    groups = config.pattern.group_scores(scores, kernel.layout, config.group_reduction)
    if getattr(config.allocation, "normalize", None) == "l2":
        groups = groups / _l2_norm(weight)
    if config.resume_from_pruned_checkpoint:
        zero = zero_groups(config, kernel, weight)
        groups = ops.where(zero, _LOWEST_SCORE, groups)
    return ops.cast(groups, "bfloat16") if config.low_memory_usage else groups


def zero_groups(config, kernel, weight):
    """Marks the groups of which pruning would take nothing: they are zero already."""
    magnitudes = ops.abs(ops.cast(kernel.layout.to_matrix(weight), "float32"))
    return config.pattern.group_scores(magnitudes, kernel.layout, "max") == 0


def _l2_norm(weight):
    values = ops.reshape(ops.cast(weight, "float32"), (-1,))
    return ops.maximum(ops.sqrt(ordered_sum(rounded_square(values), 0)), 1e-30)

"""Score -> pattern -> allocation -> mask: the pure maths of one mask update.

Kernels that lose the same groups together, such as those of an attention layer whose
heads are pruned, form a *unit*; most kernels are a unit of their own. Counts are per
unit.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_pruner.reductions import ordered_sum, rounded_square
from keras_pruner.selection import count_lowest_jointly, select_lowest

# Below every finite score, and finite itself.
LOWEST_SCORE = -3e38
HIGHEST_SCORE = 3e38


class UpdateInputs(NamedTuple):
    """What one mask update is made from.

    Args:
        weights: List of the kernels' values.
        masks: List of their masks, if the pruner asks for them, else empty.
        states: List of dicts of the states that the pruner asks for.
        counts: Int tensor (units,): groups to prune in each; unused where the
            allocation ranks jointly.
        target: Int tensor (): weights to prune in all, for a joint ranking.
        lower: Int tensor (units,): fewest groups of each.
        upper: Int tensor (units,): most groups of each.
        extra: Dict of further tensors of fixed shapes.
    """

    weights: list
    masks: list
    states: list
    counts: Any
    target: Any
    lower: Any
    upper: Any
    extra: dict


class UpdateResult(NamedTuple):
    """What one mask update makes.

    Args:
        masks: List of bool masks, each of its kernel's shape; `True` = keep.
        counts: Int32 tensor (units,): groups pruned in each.
        finite: Bool tensor (2, kernels): whether all of a kernel's weights, and all of
            what its criterion remembers, are finite.
        states: List of dicts of the states that change.
    """

    masks: list
    counts: Any
    finite: Any
    states: list


def make_masks(config, kernels, rules, inputs):
    """Scores, groups, allocates and selects.

    Args:
        config: `PruningConfig`, complete.
        kernels: The `Kernel`s.
        rules: Their `TrainingRule`s, which know how memories are kept.
        inputs: `UpdateInputs`.

    Returns:
        `UpdateResult`.
    """
    scores = score_kernels(config, kernels, rules, inputs)
    groups = score_units(config, kernels, inputs.weights, scores)
    counts = unit_counts(config, kernels, groups, inputs)
    masks = expand_units(config, kernels, groups, scores, counts)
    states = [{} for _ in kernels]
    if config.regularizer is not None and config.regularizer.grows:
        final = inputs._replace(**inputs.extra["final"])
        final_counts = unit_counts(config, kernels, groups, final)
        kept = expand_units(config, kernels, groups, scores, final_counts)
        states = [{"doomed": ops.logical_not(mask)} for mask in kept]
    return UpdateResult(masks, ops.cast(counts, "int32"), are_finite(inputs), states)


def are_finite(inputs):
    """Returns which kernels have finite weights, and which finite memories."""
    weights, memories = [], []
    for weight, state in zip(inputs.weights, inputs.states, strict=True):
        weights.append(ops.all(ops.isfinite(weight)))
        memory = state.get("memory", ops.zeros(()))
        memories.append(ops.all(ops.isfinite(ops.cast(memory, "float32"))))
    return ops.stack([ops.stack(weights), ops.stack(memories)])


def score_kernels(config, kernels, rules, inputs):
    """Returns a list of the kernels' scores."""
    return [
        score_kernel(config, kernel, rule, weight, state.get("memory"))
        for kernel, rule, weight, state in zip(
            kernels, rules, inputs.weights, inputs.states, strict=True
        )
    ]


def score_kernel(config, kernel, rule, weight, memory=None):
    """Returns a kernel's scores as float32: of its weights, (K, N), or of its groups.

    Of groups if the criterion pools and the pattern does not choose single weights.
    """
    matrix = kernel.layout.to_matrix(weight)
    if not config.criterion.needs_gradients:
        return config.criterion.scores(matrix, kernel)
    return config.criterion.scores(
        ops.cast(matrix, "float32"), kernel, rule.memory_matrix(memory)
    )


def scores_are_pooled(config):
    """Whether the criterion scores groups, not weights."""
    pools = getattr(config.criterion, "pools", False)
    return pools and not config.pattern.chooses_weights


def score_units(config, kernels, weights, scores):
    """Returns the scores by which each unit's groups are ranked, as a list."""
    pattern = config.pattern
    pooled = scores_are_pooled(config)
    units = []
    for unit in pattern.couple(kernels):
        parts = []
        for index in unit:
            layout = kernels[index].layout
            part = scores[index]
            if pooled:
                # Criteria may flatten what the pattern keeps in two axes.
                shape = pattern.pool(ops.zeros((layout.rows, layout.outputs)), layout)
                part = ops.reshape(part, shape.shape)
            else:
                part = pattern.group_scores(part, layout, config.group_reduction)
            parts.append(part)
        groups = sum(parts[1:], parts[0])
        if getattr(config.allocation, "normalize", None) == "l2":
            groups = groups / _l2_norm([weights[index] for index in unit])
        if config.resume_from_pruned_checkpoint:
            members = [(kernels[index], weights[index]) for index in unit]
            groups = ops.where(zero_groups(config, members), LOWEST_SCORE, groups)
        if config.low_memory_usage:
            groups = ops.cast(groups, "bfloat16")
        units.append(groups)
    return units


def unit_counts(config, kernels, groups, inputs):
    """Returns how many groups each unit gives: as asked, or by a joint ranking."""
    if not config.allocation.ranks_jointly:
        return inputs.counts
    sizes = [
        sum(config.pattern.group_size(kernels[index].layout) for index in unit)
        for unit in config.pattern.couple(kernels)
    ]
    return count_lowest_jointly(
        groups, sizes, inputs.target, inputs.lower, inputs.upper
    )


def expand_units(config, kernels, groups, scores, counts):
    """Selects each unit's lowest groups, and returns the masks of all kernels."""
    selected = [select_lowest(group, counts[i]) for i, group in enumerate(groups)]
    return masks_of_groups(config, kernels, selected, scores)


def masks_of_groups(config, kernels, selected, scores):
    """Turns the chosen groups of each unit into the masks of all kernels.

    Args:
        config: `PruningConfig`.
        kernels: The `Kernel`s.
        selected: List of bool tensors, one per unit; `True` = prune.
        scores: List of the kernels' scores.
    """
    masks = [None] * len(kernels)
    for unit, pruned in zip(config.pattern.couple(kernels), selected, strict=True):
        for index in unit:
            layout = kernels[index].layout
            mask = config.pattern.expand(pruned, scores[index], layout)
            masks[index] = layout.from_matrix(mask)
    return masks


def zero_groups(config, members):
    """Marks the groups of which pruning would take nothing: they are zero already.

    Args:
        config: `PruningConfig`.
        members: List of pairs of a unit's `Kernel`s and their values.
    """
    marks = None
    for kernel, weight in members:
        magnitudes = ops.abs(ops.cast(kernel.layout.to_matrix(weight), "float32"))
        groups = config.pattern.group_scores(magnitudes, kernel.layout, "max")
        marks = groups == 0 if marks is None else ops.logical_and(marks, groups == 0)
    return marks


def _l2_norm(weights):
    total = 0.0
    for weight in weights:
        values = ops.reshape(ops.cast(weight, "float32"), (-1,))
        total = total + ordered_sum(rounded_square(values), 0)
    return ops.maximum(ops.sqrt(total), 1e-30)

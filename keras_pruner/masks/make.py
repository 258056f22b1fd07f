"""Computes the masks of one update with pure functions: score, group, select, expand.

Kernels that lose the same groups together form a *unit*, e.g. in an attention layer
whose heads are pruned. Most kernels are a unit of their own. Each function here takes
one unit, so that equal units share compiled code.
"""

from keras import ops

from keras_pruner.backend import (
    all_finite,
    rounded_square,
    scale_to_one,
    sum_of_all,
)
from keras_pruner.components import CRITERIA
from keras_pruner.masks.select_lowest import (
    Chosen,
    Cut,
    PerOutput,
    select_lowest,
    select_lowest_per_output,
    select_up_to,
)

# It is finite, and below every score that occurs.
LOWEST_SCORE = -3e38

HIGHEST_SCORE = 3e38


def are_finite(inputs, groups=None):
    """Returns which kernels have finite weights, criterion states and scores.

    Args:
        inputs: `UnitInputs`.
        groups: Float tensor of the groups' scores, or `None` if nothing is ranked.

    Returns:
        Bool tensor (3, kernels).
    """
    weights, memories = [], []
    for weight, state in zip(inputs.weights, inputs.states, strict=True):
        weights.append(all_finite(weight))
        memory = state.get("memory", 0.0)
        memories.append(all_finite(ops.cast(memory, "float32")))
    is_ranked_well = ops.convert_to_tensor(True)
    if groups is not None:
        is_ranked_well = all_finite(ops.cast(groups, "float32"))
    scores = [is_ranked_well] * len(weights)
    return ops.stack([ops.stack(weights), ops.stack(memories), ops.stack(scores)])


def score_kernels(config, unit, inputs):
    """Returns a list of the scores of each kernel in a unit."""
    return [
        score_kernel(config, kernel, kernel.pattern, rule, weight, state)
        for kernel, rule, weight, state in zip(
            unit.kernels, unit.rules, inputs.weights, inputs.states, strict=True
        )
    ]


def score_kernel(config, kernel, pattern, rule, weight, state):
    """Returns the float32 scores of a kernel's weights, (K, N), or of its groups.

    A kernel that criteria do not score, as a bias, has zeros.

    It scores groups, in the shape of `pattern.pool`, if the criterion pools and the
    pattern chooses no single weights.

    Args:
        config: `PruningConfig`, complete.
        kernel: `Kernel` or `Member`.
        pattern: Its `Pattern`.
        rule: Its `TrainingRule`.
        weight: Tensor: its value.
        state: Dict with the `"memory"` of a criterion that has one. If that is a slot
            of an optimizer, see `moments_of`.
    """
    layout = kernel.layout
    if not kernel.is_scored:
        return layout.zeros()
    matrix = layout.to_matrix(weight)
    criterion = config.criterion
    if needs_stand_in(config, [state]):
        criterion = CRITERIA.get(criterion.stand_in)
    if not criterion.has_memory:
        return criterion.scores(matrix, kernel)
    memory, further = rule.memory_matrix(state["memory"]), ()
    if criterion.reads_optimizer:
        memory, further = memory / state["weight_in_mean"], (state["mean_of_all"],)
    matrix = ops.cast(matrix, "float32")
    scores = criterion.scores(matrix, kernel, memory, *further)
    if scores_are_pooled(config):
        # Criteria may flatten scores that the pattern keeps in two axes.
        pooled = pattern.pool(layout.zeros(), layout)
        scores = ops.reshape(scores, pooled.shape)
    return scores


def needs_stand_in(config, states):
    """Returns whether the criterion reads an optimizer that has nothing to read."""
    has_memory = any("memory" in state for state in states)
    return config.criterion.reads_optimizer and not has_memory


def weight_scores(config, kernel, rule, weight, state):
    """Returns the scores of a kernel's weights as float32, (K, N).

    Weights of one group have one score if the criterion scores groups.
    """
    pattern = config.pattern.groups_of(kernel)
    scores = score_kernel(config, kernel, pattern, rule, weight, state)
    return (
        pattern.spread(scores, kernel.layout) if scores_are_pooled(config) else scores
    )


def scores_are_pooled(config):
    """Returns whether the criterion scores groups, not weights."""
    return config.criterion.pools and not config.pattern.chooses_weights


def score_groups(config, unit, weights, scores):
    """Returns the scores that rank the groups of a unit.

    Args:
        config: `PruningConfig`, complete.
        unit: `Unit`.
        weights: List of the values of its kernels.
        scores: List of the kernels' scores.
    """
    normalize = config.allocation.normalize == "l2"
    parts = []
    for kernel, part in zip(unit.kernels, scores, strict=True):
        if not kernel.is_scored:
            continue
        if not scores_are_pooled(config):
            part = kernel.pattern.group_scores(
                part, kernel.layout, config.group_reduction
            )
        if normalize and config.pattern.overlaps:
            part = _over_mean_square(part)
        parts.append(part)
    groups = sum(parts[1:], parts[0])
    if normalize:
        if config.pattern.overlaps:
            groups = groups * (1 / len(parts))
        else:
            groups = _over_norm(groups, weights)
    if config.resume_from_pruned_checkpoint:
        groups = ops.where(zero_groups(unit, weights), LOWEST_SCORE, groups)
    if config.low_memory_usage:
        groups = ops.cast(groups, "bfloat16")
    return groups


def select_groups(groups, inputs, what="masks"):
    """Marks the lowest groups, as many as the target demands.

    Args:
        groups: Float tensor: the groups' scores.
        inputs: `UnitInputs`.
        what: Key of the target in `inputs.targets`.
    """
    target = inputs.targets[what]
    if isinstance(target, Chosen):
        return target.groups
    if isinstance(target, Cut):
        return select_up_to(groups, target)
    if isinstance(target, PerOutput):
        return select_lowest_per_output(groups, target.count)
    return select_lowest(groups, target)


def expand_groups(unit, pruned, scores):
    """Expands the chosen groups to the masks of the unit's kernels.

    Args:
        unit: `Unit`.
        pruned: Bool tensor of the groups; `True` = prune.
        scores: List of the kernels' scores.
    """
    return [
        kernel.layout.from_matrix(kernel.pattern.expand(pruned, score, kernel.layout))
        for kernel, score in zip(unit.kernels, scores, strict=True)
    ]


def zero_groups(unit, weights):
    """Marks the groups whose weights are all zero already.

    Args:
        unit: `Unit`.
        weights: List of the values of its kernels.
    """
    marks = None
    for kernel, weight in zip(unit.kernels, weights, strict=True):
        magnitudes = ops.abs(ops.cast(kernel.layout.to_matrix(weight), "float32"))
        groups = kernel.pattern.group_scores(magnitudes, kernel.layout, "max")
        marks = groups == 0 if marks is None else ops.logical_and(marks, groups == 0)
    return marks


def _over_mean_square(scores):
    """Divides the scores of a kernel's groups by the root of their mean square."""
    scale = scale_to_one(scores)
    mean = sum_of_all(scores, lambda x: rounded_square(x * scale)) / scores.shape[0]
    return scores * scale / ops.maximum(ops.sqrt(mean), 1e-30)


def _over_norm(scores, weights):
    """Divides scores by the L2 norm of weights, at any size of the weights."""
    weights = [ops.cast(weight, "float32") for weight in weights]
    scale, total = scale_to_one(*weights), 0.0
    for weight in weights:
        total = total + sum_of_all(weight, lambda x: rounded_square(x * scale))
    return scores * scale / ops.maximum(ops.sqrt(total), 1e-30)

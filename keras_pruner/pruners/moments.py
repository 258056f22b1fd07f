"""Reads the second moments of gradients that an optimizer keeps, for a criterion."""

from keras import ops

from keras_pruner.backend import innermost, second_moment_of, sum_of_all
from keras_pruner.pruners.kernel_changes import active

# The mean of fewer squared gradients says little about a weight.
FEWEST_STEPS = 10


def moments_of(pruner):
    """Returns what a criterion reads from the optimizer, for each kernel.

    Scores of kernels are comparable only if all come from second moments. So no kernel
    has one if the optimizer lacks that of another, has taken fewer than `FEWEST_STEPS`
    steps, or has seen no gradient but zero.

    Args:
        pruner: `KerasBasePruner`.

    Returns:
        List of dicts of tensors: the `"memory"`, which is the slot of the optimizer;
        the `"weight_in_mean"` by which to divide it; and `"mean_of_all"`, the mean over
        the weights of all kernels. A dict is empty if the kernel has no moment, or the
        criterion reads none.
    """
    nothing = [{} for _ in pruner.kernels]
    if not pruner.config.criterion.reads_optimizer:
        return nothing
    found, total, num_weights = {}, 0.0, 0
    for kernel in _scored(pruner):
        moment = second_moment_of(pruner.optimizer, kernel.variable)
        if moment is None or moment.steps < FEWEST_STEPS:
            return nothing
        slot = ops.convert_to_tensor(moment.slot)
        weight = ops.convert_to_tensor(moment.weight, "float32")
        found[kernel.path] = {"memory": slot, "weight_in_mean": weight}
        total = total + pruner.updater.call(_sum_in_float32, slot) / weight
        num_weights += kernel.layout.size
    if not found:
        return nothing
    if ops.convert_to_numpy(total) == 0:
        pruner.updater.tell.once(
            pruner.global_step,
            f"scored by {pruner.config.criterion.stand_in}, because the second moments "
            f"of {_optimizer_name(pruner)} are zero",
        )
        return nothing
    mean = {"mean_of_all": total / num_weights}
    return [
        found[kernel.path] | mean if kernel.path in found else {}
        for kernel in pruner.kernels
    ]


def _scored(pruner):
    return [kernel for kernel in active(pruner) if kernel.is_scored]


def _sum_in_float32(values):
    return sum_of_all(values, lambda x: ops.cast(x, "float32"))


def source_of_scores(pruner):
    """Returns words that say by what a criterion of second moments scores, or `None`.

    Args:
        pruner: `KerasBasePruner`.
    """
    criterion = pruner.config.criterion
    if not criterion.reads_optimizer:
        return None
    if pruner.optimizer is None:
        return f"{criterion.stand_in}, because no optimizer is attached"
    name, kernels = _optimizer_name(pruner), _scored(pruner)
    moments = [second_moment_of(pruner.optimizer, k.variable) for k in kernels]
    pairs = zip(kernels, moments, strict=True)
    lacking = [kernel for kernel, moment in pairs if moment is None]
    if not lacking and _are_too_few(pruner, moments):
        when = (
            "between updates" if pruner.rewinds_schedule else "before the last update"
        )
        return (
            f"{criterion.stand_in}, because {name} takes fewer than {FEWEST_STEPS} "
            f"steps {when}"
        )
    if not lacking:
        return f"{criterion.name} of {name}"
    if len(lacking) == len(kernels):
        return f"{criterion.stand_in}, because {name} keeps no second moments"
    return (
        f"{criterion.stand_in}, because {name} keeps no second moment of "
        f"{lacking[0].path}"
    )


def _are_too_few(pruner, moments):
    """Whether the optimizer will have taken too few steps at the last update."""
    if pruner.scheduler is None:
        return False
    if pruner.rewinds_schedule:
        # Each update empties the optimizer.
        return pruner.scheduler.frequency < FEWEST_STEPS
    more = max(0, pruner.scheduler.last_update - pruner.global_step)
    return any(moment.steps + more < FEWEST_STEPS for moment in moments)


def _optimizer_name(pruner):
    # A torch optimizer is in an object that looks up its state.
    optimizer = innermost(pruner.optimizer)
    return type(getattr(optimizer, "optimizer", optimizer)).__name__

"""Changes the kernels of pruners that exist: released ones, others of the model."""

import dataclasses

from keras import ops

from keras_pruner.backend import count_true
from keras_pruner.config import PRUNERS
from keras_pruner.masks import assign_mask, read_mask, zero_groups


def ids_in(selections):
    """Returns the config and the ids of the kernels of each `Selection`."""
    return [
        (s.config, [id(kernel.variable) for kernel in s.kernels]) for s in selections
    ]


def with_zeros_kept(selection):
    """Returns a `Selection` whose pruner keeps zeros that exist, if it can."""
    config = selection.config
    if not PRUNERS[config.pruning_type].keeps_zeros:
        return selection
    config = dataclasses.replace(config, resume_from_pruned_checkpoint=True)
    return dataclasses.replace(selection, config=config)


def take_over(pruner, owner, begins_again):
    """Copies masks and states from the earlier pruners of the same kernels.

    Args:
        pruner: `KerasBasePruner` that was just created.
        owner: Dict from the id of a variable to its earlier pruner and `Kernel`.
        begins_again: Whether the schedule begins at step 0.
    """
    kept = {id(k.variable) for k in pruner.kernels if id(k.variable) in owner}
    for kernel in pruner.kernels:
        if id(kernel.variable) not in kept:
            continue
        old, old_kernel = owner[id(kernel.variable)]
        mask = pruner.mask_variables[kernel.path]
        assign_mask(mask, ops.copy(old.mask_value(old_kernel)), pruner.updater.call)
        states = old.state_variables[old_kernel.path]
        for name, state in pruner.state_variables[kernel.path].items():
            if name in states and tuple(states[name].shape) == tuple(state.shape):
                state.assign(ops.copy(states[name]))
    pruner.refresh()
    if not begins_again:
        old, _ = owner[id(pruner.kernels[0].variable)]
        pruner.scheduler = old.scheduler
        pruner.restore_counts(old.global_step, old.updated_at)
    elif pruner.config.resume_from_pruned_checkpoint:
        pruner.updater.pinned = [
            _pinned_in(unit, pruner, kept) for unit in pruner.units
        ]


def _pinned_in(unit, pruner, kept):
    """Counts the groups of a unit that earlier masks zero; 0 if a kernel is new."""
    kernels = [pruner.kernels[index] for index in unit.indices]
    if any(id(kernel.variable) not in kept for kernel in kernels):
        return 0
    masks = [ops.cast(pruner.mask_value(kernel), "float32") for kernel in kernels]
    return count_true(zero_groups(unit, masks))


def count_zeros(kernel):
    """Counts the weights of a kernel that are zero in what its layer computes with."""
    zeros = ops.equal(ops.convert_to_tensor(kernel.variable), 0)
    if kernel.wrapper_mask is not None:
        pruned = ops.logical_not(read_mask(kernel.wrapper_mask))
        zeros = ops.logical_or(zeros, pruned)
    return count_true(zeros)


def active(pruner):
    """Returns the kernels of a pruner that were not released, each once."""
    indices = {
        index
        for number, unit in enumerate(pruner.units)
        if number not in pruner.plan.idle
        for index in unit.indices
    }
    return [pruner.kernels[index] for index in sorted(indices)]


def release(pruner, ids, reason):
    """Lets the units of a pruner stay dense whose kernels are all among the ids.

    Returns:
        List of the kernels that stay dense from now on: those in no other unit.
    """
    before = active(pruner)
    for number, unit in enumerate(pruner.units):
        if ids.issuperset(id(pruner.kernels[index]) for index in unit.indices):
            pruner.plan.release([number])
    left = set(map(id, active(pruner)))
    released = [kernel for kernel in before if id(kernel) not in left]
    pruner.skipped += tuple(kernel.skip(reason) for kernel in released)
    for kernel in released:
        mask = ops.ones(kernel.variable.shape, dtype="bool")
        kept = pruner.mask_variables[kernel.path]
        assign_mask(kept, mask, pruner.updater.call)
    pruner.updater.copy_to_wrappers()
    pruner.refresh()
    return released

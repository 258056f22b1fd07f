"""Reads and writes the state that an optimizer keeps per weight, such as momentum.

For an optimizer from outside Keras, pass an object with the methods
`slots_of(variable)`, `get_steps()` and `set_steps(steps)`. An optimizer of your own, or
such an object, may have a method `second_moment_of(variable)`; see the function of that
name.
"""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_pruner.backend.keras_private import (
    count_of,
    moving_averages_of,
    rate_schedule_of,
    second_moment_slots,
    slots_in_order,
    variables_trained_by,
)
from keras_pruner.backend.tracing import run_as_python

# Lists of an optimizer that hold one variable for each weight and are no slots.
_NOT_SLOTS = {
    "_trainable_variables",
    "_model_variables_moving_average",
    "_accumulated_gradients",
}
# Share of the highest learning rate by which weights recover little.
LOW_RATE = 1 / 8


def innermost(optimizer):
    """Returns the optimizer inside all wrappers, such as one for loss scaling."""
    while hasattr(optimizer, "inner_optimizer"):
        optimizer = optimizer.inner_optimizer
    return optimizer


def loss_scale_of(optimizer):
    """Returns the loss scale of an optimizer, as a float or float32 tensor."""
    scale = 1.0
    while optimizer is not None:
        if hasattr(optimizer, "dynamic_scale"):
            scale = ops.convert_to_tensor(optimizer.dynamic_scale) * scale
        elif optimizer.loss_scale_factor is not None:
            scale = scale * optimizer.loss_scale_factor
        optimizer = getattr(optimizer, "inner_optimizer", None)
    return scale


def last_step_before_decay(optimizer, now, begin, end, share=LOW_RATE):
    """Returns the last step at which the scheduled learning rate is not yet low.

    Args:
        optimizer: `keras.optimizers.Optimizer`, wrapped or not.
        now: Present step, as the caller counts steps.
        begin: First step to look at.
        end: Last step to look at.
        share: A rate is low if it is at most this share of the highest.

    Returns:
        Integer in [begin, end). The rate is read at a hundred steps between them.
        `None` if the optimizer has no `LearningRateSchedule`, or if the rate is not low
        at `end`.
    """
    steps = np.linspace(begin, end, 101).astype(int)
    rates = _scheduled_rates(optimizer, steps - now)
    if rates is None:
        return None
    is_high = rates > share * rates.max()
    if is_high[-1] or not is_high.any():
        return None
    return int(steps[is_high][-1])


def highest_rate_in(optimizer, steps):
    """Returns the highest learning rate from now on, as far as it is known.

    Args:
        optimizer: `keras.optimizers.Optimizer`, wrapped or not.
        steps: Number of further steps to look at.

    Returns:
        Float: the present rate, or the highest of a `LearningRateSchedule`.
    """
    rates = _scheduled_rates(optimizer, np.linspace(0, steps, 101).astype(int))
    if rates is None:
        return float(ops.convert_to_numpy(innermost(optimizer).learning_rate))
    return float(rates.max())


def _scheduled_rates(optimizer, steps):
    """Returns the rates of an optimizer's schedule, or `None` if it has none.

    Args:
        optimizer: `keras.optimizers.Optimizer`, wrapped or not.
        steps: Int array: the steps at which to read the rate, counted from now.
    """
    optimizer = innermost(optimizer)
    schedule = rate_schedule_of(optimizer)
    if schedule is None:
        return None
    counts = int(ops.convert_to_numpy(optimizer.iterations)) + steps
    counts = (ops.convert_to_tensor(int(count), "int32") for count in counts)
    with run_as_python():
        return np.array([float(ops.convert_to_numpy(schedule(n))) for n in counts])


def may_skip(optimizer):
    """Returns whether an optimizer may leave the weights unchanged in a step."""
    wrapped = hasattr(optimizer, "inner_optimizer")
    return wrapped or bool(optimizer.gradient_accumulation_steps)


def slots_of(optimizer, variable):
    """Returns the slots that hold one number per weight of a variable.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`, wrapped or not.
        variable: Variable that the optimizer trains.

    Returns:
        List of `keras.Variable`s of the variable's shape; empty for plain SGD.
    """
    if hasattr(optimizer, "slots_of"):
        return optimizer.slots_of(variable)
    optimizer = innermost(optimizer)
    known = variables_trained_by(optimizer)
    position = _position(optimizer, variable)
    if position is None:
        return []
    found = []
    for name, slots in vars(optimizer).items():
        if name in _NOT_SLOTS:
            continue
        slots = slots_in_order(optimizer, slots)
        if isinstance(slots, list | tuple) and len(slots) == len(known):
            slot = slots[position]
            if tuple(getattr(slot, "shape", ())) == tuple(variable.shape):
                found.append(slot)
    return found


class GradientMoment(NamedTuple):
    """Holds an optimizer's running mean of the squared gradients of a variable.

    Args:
        slot: Float variable or tensor of the variable's shape; may be `None` before
            the first step.
        steps: Number of steps in the mean; 0 if it knows nothing yet.
        weight: Share of these steps in the mean, in (0, 1]: `slot / weight` has no
            bias.
    """

    slot: Any
    steps: int
    weight: float = 1.0


def second_moment_of(optimizer, variable):
    """Returns an optimizer's running mean of the squared gradients of a variable.

    The gradients are those that the optimizer applied: unscaled, averaged over
    accumulated batches, clipped, and masked.

    Args:
        optimizer: `keras.optimizers.Optimizer`, wrapped or not; or an object with a
            method of this name, which may return a plain tuple. `None` has no means.
        variable: Variable that the optimizer trains.

    Returns:
        `GradientMoment`, or `None` if the optimizer keeps none for the variable.
    """
    optimizer = innermost(optimizer)
    if hasattr(optimizer, "second_moment_of"):
        found = optimizer.second_moment_of(variable)
        return None if found is None else GradientMoment(*found)
    if optimizer is None or hasattr(optimizer, "slots_of"):
        return None
    slots, decay = second_moment_slots(optimizer)
    if slots is None:
        return GradientMoment(None, steps=0)
    position = _position(optimizer, variable) if slots else None
    slot = None if position is None else slots[position]
    if slot is None:
        return None
    # It counts applied steps only.
    steps = int(ops.convert_to_numpy(optimizer.iterations))
    return GradientMoment(slot, steps, weight_in_mean(decay, steps))


def weight_in_mean(decay, steps):
    """Returns the share of all steps in a running mean that began at zero.

    Args:
        decay: Share of the old mean that each step keeps; `None` if the mean did not
            begin at zero.
        steps: Number of steps.
    """
    return 1.0 if decay is None or not steps else 1.0 - float(decay) ** steps


def moving_average_of(optimizer, variable):
    """Returns an optimizer's exponential moving average of a variable.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`, wrapped or not.
        variable: Variable that the optimizer trains.

    Returns:
        `keras.Variable`, or `None` if the optimizer keeps none.
    """
    if hasattr(optimizer, "slots_of"):
        return None
    optimizer = innermost(optimizer)
    position = _position(optimizer, variable)
    if not optimizer.use_ema or position is None:
        return None
    return moving_averages_of(optimizer)[position]


def _position(optimizer, variable):
    known = variables_trained_by(optimizer)
    return next((i for i, v in enumerate(known) if v is variable), None)


def clear_slots(optimizer, variable, where=None):
    """Sets the slots of a variable to zero.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`, wrapped or not.
        variable: Variable that the optimizer trains.
        where: Bool tensor of the variable's shape; `True` clears a weight's slots.
            `None` clears all.
    """
    for slot in slots_of(optimizer, variable):
        value = ops.convert_to_tensor(slot)
        zeros = ops.zeros_like(value)
        slot.assign(zeros if where is None else ops.where(where, zeros, value))


def get_steps(optimizer):
    """Returns the optimizer's step count, as an int tensor or integer."""
    if hasattr(optimizer, "get_steps"):
        return optimizer.get_steps()
    # Copies, because JAX can donate a buffer only once.
    return ops.copy(count_of(innermost(optimizer)))


def set_steps(optimizer, steps):
    """Sets the optimizer's step count, e.g. for its bias corrections.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`, wrapped or not.
        steps: Int tensor.
    """
    if hasattr(optimizer, "set_steps"):
        optimizer.set_steps(steps)
    else:
        count = count_of(innermost(optimizer))
        count.assign(ops.cast(ops.copy(steps), count.dtype))


def moving_averages(optimizer):
    """Returns a dict from the id of a variable to its moving average.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`, wrapped or not. The dict is empty
            if it keeps no averages.
    """
    optimizer = innermost(optimizer)
    if not optimizer.use_ema:
        return {}
    variables, averages = variables_trained_by(optimizer), moving_averages_of(optimizer)
    pairs = zip(map(id, variables), averages, strict=True)
    return {key: average for key, average in pairs if average is not None}


def newest_in_average(optimizer):
    """Returns the share of the next weights in an optimizer's moving averages.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`, wrapped or not.

    Returns:
        Float32 tensor: 1 before the first step, later `1 - ema_momentum`; 0 if it keeps
        no averages.
    """
    optimizer = innermost(optimizer)
    if not optimizer.use_ema:
        return ops.zeros((), dtype="float32")
    is_first = ops.equal(optimizer.iterations + 0, 0)
    return ops.where(is_first, 1.0, 1.0 - optimizer.ema_momentum)


def apply_inner(optimizer, gradients, variables, trained=None, *, as_pairs=False):
    """Lets an optimizer step, inside of another optimizer's `apply`.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`, wrapped or not.
        gradients: List of gradients.
        variables: List of their variables.
        trained: List of all variables that the optimizer trains, if Keras maps
            variables to values while it runs (`stateless_apply`).
        as_pairs: Whether to call `apply_gradients`, which its class may override.

    Returns:
        Tuple of whether it accepted the gradients, and whether it applied a step, as
        bool tensors. Both are `None` if it always does.
    """
    counter = count_of(innermost(optimizer))
    # A sum is a value; the variable itself would change with the step.
    ticks, iterations = counter + 0, optimizer.iterations + 0
    if trained is None and as_pairs:
        optimizer.apply_gradients(zip(gradients, variables, strict=True))
    elif trained is None:
        optimizer.apply(gradients, variables)
    else:
        values, state = optimizer.stateless_apply(
            [ops.convert_to_tensor(v) for v in optimizer.variables],
            gradients,
            [ops.convert_to_tensor(v) for v in trained],
        )
        new = zip(trained, values, strict=True)
        for variable, value in (*new, *zip(optimizer.variables, state, strict=True)):
            variable.assign(value)
    if not may_skip(optimizer):
        return None, None
    return counter + 0 > ticks, optimizer.iterations + 0 > iterations

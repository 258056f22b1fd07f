"""Reads and writes the state that an optimizer keeps per weight, such as momentum.

For an optimizer from outside Keras, pass an object with the methods
`slots_of(variable)`, `get_steps()` and `set_steps(steps)`.
"""

from keras import ops

from keras_pruner.backend.keras_private import (
    NOT_SLOTS,
    count_of,
    moving_averages_of,
    variables_trained_by,
)


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
        if name in NOT_SLOTS:
            continue
        if isinstance(slots, list | tuple) and len(slots) == len(known):
            slot = slots[position]
            if tuple(getattr(slot, "shape", ())) == tuple(variable.shape):
                found.append(slot)
    return found


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

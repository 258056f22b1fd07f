"""Accesses the state of a torch optimizer, in the form that `backend` uses."""

import keras

from keras_pruner.backend import GradientMoment, weight_in_mean

# Where optimizers of torch keep the running mean of squared gradients of a parameter,
# and the decay of the mean, `None` if it is not known.
_MEANS = {
    "exp_avg_sq": lambda group: group.get("betas", (None, None))[1],
    "square_avg": lambda group: group.get("alpha", group.get("rho")),
}
# The classes that keep one, to know it before the first step.
_CLASSES = ("Adadelta", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop")


class OptimizerSlots:
    """Accesses the slots and the step counts of a `torch.optim.Optimizer`.

    torch creates the state at a parameter's first step, so each call looks it up.

    Args:
        optimizer: `torch.optim.Optimizer`.
    """

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def slots_of(self, variable):
        """Returns the slots of a parameter that hold one number for each weight.

        Args:
            variable: `keras.Variable` that holds the parameter.

        Returns:
            List of `keras.Variable`s that share memory with the optimizer's tensors.
        """
        import torch

        parameter = variable.value
        found = []
        for slot in self.optimizer.state.get(parameter, {}).values():
            if isinstance(slot, torch.Tensor) and slot.shape == parameter.shape:
                found.append(_variable_over(slot))
        return found

    def second_moment_of(self, variable):
        """Returns the running mean of the squared gradients of a parameter.

        Args:
            variable: `keras.Variable` that holds the parameter.

        Returns:
            `GradientMoment`, whose tensor is the optimizer's own; or `None`.
        """
        import torch

        parameter = variable.value
        state = self.optimizer.state.get(parameter, {})
        if not state:
            classes = tuple(getattr(torch.optim, name) for name in _CLASSES)
            keeps = isinstance(self.optimizer, classes)
            return GradientMoment(None, steps=0) if keeps else None
        name = next((name for name in _MEANS if name in state), None)
        if name is None or state[name].shape != parameter.shape:
            return None
        group = next(
            group
            for group in self.optimizer.param_groups
            if any(own is parameter for own in group["params"])
        )
        steps = int(state.get("step", 0))
        weight = weight_in_mean(_MEANS[name](group), steps)
        return GradientMoment(state[name], steps, weight)

    def get_steps(self):
        """Returns the highest step count of any parameter; 0 if there is none."""
        states = self.optimizer.state.values()
        return max((int(state.get("step", 0)) for state in states), default=0)

    def set_steps(self, steps):
        """Sets the step count of every parameter that has one."""
        for state in self.optimizer.state.values():
            if hasattr(state.get("step"), "fill_"):
                state["step"].fill_(int(steps))
            elif "step" in state:
                state["step"] = int(steps)


def _variable_over(tensor):
    """Returns a `keras.Variable` that shares a tensor's memory."""
    import torch

    with keras.device(str(tensor.device)):
        return keras.Variable(
            torch.nn.Parameter(tensor, requires_grad=False),
            dtype=str(tensor.dtype).removeprefix("torch."),
            trainable=False,
            name="slot",
        )

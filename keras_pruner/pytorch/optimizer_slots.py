"""Accesses the state of a torch optimizer, in the form that `backend` uses."""

import keras


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

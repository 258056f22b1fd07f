"""Prunes in any training loop, by hooks on a torch optimizer and its parameters."""

from keras import ops

from keras_pruner.masks import apply_mask
from keras_pruner.pytorch.context import beside_training
from keras_pruner.pytorch.grad_scaler import ScalerWatch
from keras_pruner.pytorch.optimizer_slots import OptimizerSlots


class Attachment:
    """Runs pruners around every step of an optimizer.

    After each backward pass, hooks keep the true gradient of a kernel, if a criterion
    needs it, and zero those of pruned weights. This comes before gradients are clipped,
    so pruned weights have no share in a gradient norm, and criteria see unclipped
    gradients. Before the optimizer's step, each `TrainingRule` makes the gradient for
    the optimizer. After it, the rule accumulates, regularizes and masks. Then the
    pruner counts the step and makes the masks that are due.

    A process group averages gradients over processes after the hooks on parameters. So
    there the pruner reads gradients before the step only. They are equal in all
    processes, but may be clipped.

    Args:
        pruners: List of `KerasBasePruner`s over the parameters.
        optimizer: `torch.optim.Optimizer`.
        device: `torch.device` on which the maths runs.
        grad_scaler: `torch.amp.GradScaler` that scales the loss, or `None`.
    """

    def __init__(self, pruners, optimizer, device, grad_scaler=None):
        from torch.utils.weak import WeakTensorKeyDictionary

        self.pruners = pruners
        self.optimizer = optimizer
        self.slots = OptimizerSlots(optimizer)
        self.device = device
        self.scaler = ScalerWatch(grad_scaler)
        # Maps a gradient to the true one. `zero_grad` frees both.
        self._true = WeakTensorKeyDictionary()
        self._learning_rates = {}
        self._is_prepared = False
        self._is_skipped = False
        self._handles = []

    def begin(self):
        """Registers the hooks."""
        self.scaler.begin()
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]
        if _is_distributed():
            return
        for pruner, kernel in self._kernels():
            hook = self._gradient_hook(pruner, kernel)
            handle = kernel.variable.value.register_post_accumulate_grad_hook(hook)
            self._handles.append(handle)

    def end(self):
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.scaler.end()

    def _kernels(self):
        for pruner in self.pruners:
            for kernel in pruner.kernels:
                yield pruner, kernel

    def _gradient_hook(self, pruner, kernel):
        rule = pruner.rules[kernel.path]

        def hook(parameter):
            gradient = parameter.grad
            with beside_training(parameter.device):
                kept = pruner.mask_value(kernel)
                if rule.needs_gradients:
                    true = gradient.clone()
                    earlier = self._true.get(gradient)
                    if earlier is not None and not rule.keeps_dense:
                        # For pruned weights, `gradient` lacks the earlier passes.
                        true = ops.where(kept, true, earlier + true)
                    self._true[gradient] = true
                if not rule.keeps_dense:
                    gradient.copy_(apply_mask(gradient, kept))

        return hook

    # Around the optimizer's step.

    def _before_step(self, optimizer, args, kwargs):
        closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
        if closure is None:
            self._prepare()
            return None

        def prepared():
            loss = closure()
            self._prepare()
            return loss

        # The closure computes the gradient inside the step.
        if "closure" in kwargs:
            return args, kwargs | {"closure": prepared}
        return (args[0], prepared, *args[2:]), kwargs

    def _prepare(self):
        found_inf = getattr(self.optimizer, "found_inf", None)
        # Fused optimizers check for infinite gradients themselves.
        self._is_skipped = found_inf is not None and bool(found_inf > 0)
        if self._is_skipped:
            return
        if self._is_prepared and any(
            pruner.rules[kernel.path].keeps_dense for pruner, kernel in self._kernels()
        ):
            raise ValueError(
                f"{type(self.optimizer).__name__} calls its closure several times in a "
                "step, but the pruner keeps dense weights, which the model must not "
                "compute with. Use another optimizer, or pruning_type 'basic' with a "
                "criterion other than 'movement'."
            )
        self._is_prepared = True
        with beside_training(self.device):
            for pruner in self.pruners:
                self._shape_gradients(pruner)
                if pruner.freezes_weights:
                    self._drop_gradients()
        groups = self.optimizer.param_groups
        self._learning_rates = {
            id(p): group["lr"] for group in groups for p in group["params"]
        }

    def _shape_gradients(self, pruner):
        """Passes gradients to the optimizer, and the true ones to the rules."""
        # Fused optimizers divide by the loss scale inside their step.
        scale = getattr(self.optimizer, "grad_scale", None)
        scale = 1.0 if scale is None else float(scale)
        gradients, true_gradients = {}, {}
        for kernel in pruner.kernels:
            parameter, path = kernel.variable.value, kernel.path
            gradient = parameter.grad
            if gradient is None:
                # It had no part in the loss, and the optimizer skips it.
                if pruner.rules[path].keeps_dense:
                    gradients[path] = ops.zeros_like(parameter)
                continue
            gradients[path] = gradient / scale
            true = self._true.pop(gradient, None)
            if true is not None:
                true_gradients[path] = true / self.scaler.loss_scale
        shaped = pruner.mask_gradients(gradients, true_gradients)
        for kernel in pruner.kernels:
            parameter = kernel.variable.value
            if parameter.grad is not None:
                parameter.grad.copy_(shaped[kernel.path] * scale)

    def _drop_gradients(self):
        """Lets the optimizer skip every parameter, so that no weight changes."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _after_step(self, optimizer, args, kwargs):
        was_prepared, self._is_prepared = self._is_prepared, False
        if self._is_skipped or not was_prepared:
            return
        with beside_training(self.device):
            for pruner in self.pruners:
                rates = {
                    kernel.path: self._learning_rates[id(kernel.variable.value)]
                    for kernel in pruner.kernels
                }
                pruner.on_after_optimizer_step(rates)
            for pruner in self.pruners:
                pruner.update_if_due()


def _is_distributed():
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return distributed.get_world_size() > 1

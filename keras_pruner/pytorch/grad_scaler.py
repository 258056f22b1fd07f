"""Finds the loss scale of a `torch.amp.GradScaler`."""

from keras_pruner.backend import Patch

# Scalers whose `step` runs, the innermost last.
_running = []
_watches = set()
_patches = []


class ScalerWatch:
    """Finds the loss scale of an optimizer's step.

    `GradScaler.step` does not tell the optimizer that it unscaled the gradients. So you
    pass the scaler. To detect a scaler that you did not pass, a wrapper replaces
    `GradScaler.step` during a watch.

    Args:
        grad_scaler: `torch.amp.GradScaler`, or `None`.
    """

    def __init__(self, grad_scaler=None):
        self.grad_scaler = grad_scaler

    def begin(self):
        """Begins the watch."""
        import torch

        if not _watches:
            step = torch.amp.GradScaler.step
            _patches.append(Patch(torch.amp.GradScaler, step=_announced(step)))
        _watches.add(self)

    def end(self):
        """Ends the watch; the last one also unwraps `GradScaler.step`."""
        _watches.discard(self)
        if not _watches and _patches:
            _patches.pop().undo()

    @property
    def loss_scale(self):
        """Factor by which the loss was multiplied, a float.

        Raises:
            ValueError: If a scaler runs the step and you passed none.
        """
        running = _running[-1] if _running else None
        if self.grad_scaler is not None:
            return self.grad_scaler.get_scale()
        if running is not None and running.is_enabled():
            raise ValueError(
                f"A {type(running).__name__} scales the loss, and the pruner does not "
                "know it, so criteria would see scaled gradients. Call "
                "`pruner.attach(module, optimizer, grad_scaler=scaler)`."
            )
        return 1.0


def _announced(step):
    def announced_step(scaler, *args, **kwargs):
        _running.append(scaler)
        try:
            return step(scaler, *args, **kwargs)
        finally:
            _running.pop()

    return announced_step

"""The loss scale of a `torch.amp.GradScaler`."""

from keras_pruner.backend import Patch

# Scalers whose `step` runs, the innermost last.
_running = []
_watches = set()
_patches = []


class ScalerWatch:
    """Knows the loss scale of an optimizer's step.

    `GradScaler.step` does not tell the optimizer that it unscaled the gradients. So a
    user names the scaler. To notice one that was not named, `GradScaler.step` is
    wrapped while a watch is on.

    Args:
        grad_scaler: `torch.amp.GradScaler`, or `None`.
    """

    def __init__(self, grad_scaler=None):
        self.grad_scaler = grad_scaler

    def begin(self):
        """Begins to watch."""
        import torch

        if not _watches:
            step = torch.amp.GradScaler.step
            _patches.append(Patch(torch.amp.GradScaler, step=_announced(step)))
        _watches.add(self)

    def end(self):
        """Ends the watch, and with the last one the wrapper of `GradScaler.step`."""
        _watches.discard(self)
        if not _watches and _patches:
            _patches.pop().undo()

    @property
    def loss_scale(self):
        """Factor that the loss was multiplied with, a float.

        Raises:
            ValueError: If a scaler runs the step that was not named.
        """
        running = _running[-1] if _running else None
        if self.grad_scaler is not None:
            return self.grad_scaler.get_scale()
        if running is not None and running.is_enabled():
            raise ValueError(
                f"A {type(running).__name__} scales the loss, and the pruner was not "
                "told of it, so criteria would see scaled gradients. Call "
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

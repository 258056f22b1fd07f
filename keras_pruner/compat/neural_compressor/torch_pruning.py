"""Intel's hooks for a torch module."""

from typing import Any

from keras_pruner.compat.neural_compressor.hooks import UnusedHooks
from keras_pruner.pytorch import PytorchBasePruner


class TorchPruning(UnusedHooks):
    """Prunes a torch module, by hooks on its optimizer or in a loop that calls them.

    Args:
        model: `torch.nn.Module`.
        config: `PruningConfig`.
        optimizer: `torch.optim.Optimizer` to put hooks on. Then the hooks below do
            nothing. `None` if the loop calls them.

    Attributes:
        model: The module.
        pruner: Its `PytorchBasePruner`.
    """

    def __init__(self, model: Any, config: Any, optimizer: Any = None) -> None:
        self.model = model
        self.pruner = PytorchBasePruner(config, model)
        self._is_attached = optimizer is not None
        if self._is_attached:
            self.pruner.attach(model, optimizer)

    @property
    def callbacks(self) -> Any:
        return self

    @property
    def pruners(self) -> list[Any]:
        """List of the pruners: one for each config."""
        return self.pruner.pruners

    def on_train_begin(self, dataloader: Any = None) -> None:
        if not self._is_attached:
            self.pruner.on_train_begin()

    def on_epoch_begin(self, epoch: int) -> None:
        if not self._is_attached:
            self.pruner.on_epoch_begin(epoch)

    def on_step_begin(self, batch_id: int = 0) -> None:
        if not self._is_attached:
            self.pruner.on_step_begin(batch_id)

    def on_before_optimizer_step(self) -> Any:
        if not self._is_attached:
            self.pruner.on_before_optimizer_step()

    def on_after_optimizer_step(self) -> None:
        if not self._is_attached:
            self.pruner.on_after_optimizer_step()

    def on_epoch_end(self) -> None:
        if not self._is_attached:
            self.pruner.on_epoch_end()

    def on_train_end(self) -> None:
        """Removes the hooks of the optimizer, and warns if the target was not met."""
        if self._is_attached:
            self.pruner.detach()
            self._is_attached = False
        else:
            self.pruner.on_train_end()

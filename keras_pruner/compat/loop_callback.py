"""A `PruningCallback` whose hooks also prune in a loop of the user's own."""

import keras

from keras_pruner.kernels import select_in_model
from keras_pruner.pruners import PrunerGroup
from keras_pruner.training import PruningCallback, running_fit


class LoopCallback(PruningCallback):
    """Prunes in `fit` as `PruningCallback`, and in other loops by a `PrunerGroup`.

    Attributes:
        loop: `PrunerGroup` of the loop that runs, or `None` in `fit`.
    """

    def _forget_all(self):
        super()._forget_all()
        self.loop = None

    def set_model(self, model: keras.Model) -> None:
        keras.callbacks.Callback.set_model(self, model)
        if self.is_in_fit:
            super().set_model(model)

    @property
    def is_in_fit(self) -> bool:
        """Whether `fit` trains the model now."""
        return running_fit(self.model) is not None

    def begin_loop(self) -> None:
        """Creates the pruners of a loop, or continues with those of the last one."""
        selections = select_in_model(self.model, self.config)
        group = self._group
        if group is None or not group.prunes(selections):
            group = self.make_group(selections)
        self._group = self.loop = group
        group.on_train_begin()

    def in_loop(self, hook: str) -> PrunerGroup:
        """Returns the `PrunerGroup` of the loop.

        Args:
            hook: Name of the hook that the loop calls.

        Raises:
            ValueError: If no loop has begun.
        """
        if self.loop is None:
            raise ValueError(
                f"`{hook}` is for loops of your own: call `on_train_begin()` before "
                "the first step. In `fit`, pass this object as a callback."
            )
        # Reading the model makes its variables current on JAX.
        _ = self.model
        return self.loop

    def end_loop(self) -> None:
        """Ends the loop, and warns if the target was not reached."""
        loop, self.loop = self.loop, None
        loop.on_train_end()

"""Prunes in a training loop that keeps weights and optimizer state as plain values."""

from collections.abc import Sequence
from typing import Unpack

import keras
from keras import ops

from keras_pruner.backend import (
    applies_stateless,
    is_tracing,
    last_step_before_decay,
    snapshot_of,
)
from keras_pruner.config import AnyConfig, Settings, merged_config
from keras_pruner.kernels import check_built, select_in_model
from keras_pruner.pruners import PrunerGroup
from keras_pruner.training.fit.fit_attachment import build_optimizer
from keras_pruner.types import Tensor


class StatelessPruner:
    """Prunes in a stateless training loop, as Keras' guide for JAX writes it.

    The loop passes lists of values through `stateless_call` and `stateless_apply`. Use
    the attribute `optimizer` in place of yours: masks, criterion states and counts are
    some of its variables, so they are part of your compiled step and of your
    checkpoints. Call `update` before each step, outside of `jax.jit`, and `end` once:

    ```
    pruner = StatelessPruner(model, optimizer, target_sparsity=0.8, ...)
    optimizer = pruner.optimizer
    weights, slots = pruner.values()
    for batch in batches:
        weights, slots = pruner.update(weights, slots)
        weights, slots = compiled_step(weights, slots, batch)
    pruner.end(weights, slots)
    ```

    To resume, make the model and the pruner again, and pass the restored lists to
    `update`.

    Args:
        model: Built Keras model.
        optimizer: `keras.optimizers.Optimizer` that the loop trains with.
        config: `PruningConfig`, or dict for `PruningConfig.from_dict`.
        total_steps: Optimizer updates of the whole run; required only if the config
            leaves `begin_step` or `end_step` open.
        **settings: Fields of `PruningConfig`, in place of a config or on top of it.

    Attributes:
        optimizer: `PruningOptimizer` around the given optimizer, built for the
            trainable variables of the model.
        group: `PrunerGroup`.

    Raises:
        ValueError: If a setting is unknown or invalid, the model is not built or has
            `PrunedLayer`s, nothing is prunable, the steps are unknown, or the backend
            is TensorFlow, where Keras has no `stateless_apply`.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        config: AnyConfig = None,
        *,
        total_steps: int | None = None,
        **settings: Unpack[Settings],
    ) -> None:
        if not applies_stateless():
            raise ValueError(
                "Keras has no `stateless_apply` on TensorFlow. Call the hooks of "
                "`KerasBasePruner` in your loop; those of a step also work inside of a "
                "`tf.function`."
            )
        config = merged_config(config, settings)
        check_built(model)
        self.group = PrunerGroup(config, select_in_model(model, config))
        if any(kernel.wrapper is not None for kernel in self.group.kernels):
            raise ValueError(
                "StatelessPruner keeps the masks in the optimizer, but the model has "
                "`PrunedLayer`s, which have their own. Use the layers without them."
            )
        latest_end = None
        if total_steps is not None:
            latest_end = last_step_before_decay(optimizer, 0, 0, total_steps)
        self.group.schedule_open_steps(total_steps, latest_end=latest_end)
        self.group.begin()
        self.optimizer = build_optimizer(model, optimizer, self.group)
        self._weights = list(model.trainable_variables)
        # Step of the next update; it is known after the first call of `update`.
        self._next_update, self._is_begun = None, False
        # The count when it was last read, and calls of `update` since.
        self._step, self._calls = 0, 0
        # Most steps between two calls; unknown before the second.
        self._steps_per_call = None

    @property
    def sparsity(self) -> float:
        """Zeroed weights / weights, over all kernels that are pruned; in [0, 1)."""
        return self.group.current_sparsity_ratio

    def values(self) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the values of the variables: trainable ones, the optimizer's."""
        return (
            list(map(snapshot_of, self._weights)),
            list(map(snapshot_of, self.optimizer.variables)),
        )

    def update(
        self,
        trainable_variables: Sequence[Tensor],
        optimizer_variables: Sequence[Tensor],
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Makes the masks that are due. Call it before each step.

        It reads the count of steps, which waits for the device, only when an update may
        be due. For that it assumes that the loop takes about equally many steps between
        two calls. Steps that Keras skipped do not count.

        Args:
            trainable_variables: List of the values of `model.trainable_variables`.
            optimizer_variables: List of the values of `optimizer.variables`.

        Returns:
            Tuple of the two lists, in the order of `stateless_apply`. Without an update
            they are those that were given.

        Raises:
            ValueError: If the lists do not fit, in a `jax.jit`, or if a kernel holds
                NaN or infinity.
        """
        self._check(trainable_variables, optimizer_variables)
        if not self._may_be_due(optimizer_variables):
            return trainable_variables, optimizer_variables
        return self._update(trainable_variables, optimizer_variables)

    def end(
        self,
        trainable_variables: Sequence[Tensor],
        optimizer_variables: Sequence[Tensor],
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Makes a last update if it is due, and assigns all values to the variables.

        It warns if the target was not reached. Assign the non-trainable values
        yourself.

        Args:
            trainable_variables: See `update`.
            optimizer_variables: See `update`.

        Returns:
            Tuple of the two lists.
        """
        self._check(trainable_variables, optimizer_variables)
        values = self._update(trainable_variables, optimizer_variables)
        self.group.warn_if_short()
        return values

    def _check(self, *lists):
        if is_tracing():
            raise ValueError(
                "StatelessPruner decides in Python whether the masks change. Call its "
                "methods outside of the `tf.function` or `jax.jit`."
            )
        all_variables = self._weights, self.optimizer.variables
        for name, values, variables in zip(
            ("trainable", "optimizer"), lists, all_variables, strict=True
        ):
            if len(values) != len(variables):
                raise ValueError(
                    f"There are {len(variables)} {name} variables. Use the attribute "
                    "`optimizer` of the pruner in place of your optimizer. Received: "
                    f"{len(values)} values"
                )

    def _may_be_due(self, optimizer_variables):
        if self._is_begun and self._next_update is None:
            return False
        self._calls += 1
        if self._steps_per_call is not None:
            most = self._step + self._calls * self._steps_per_call
            if most < self._next_update:
                return False
        variables = self.optimizer.variables
        index = next(i for i, v in enumerate(variables) if v is self.optimizer.step)
        step = int(ops.convert_to_numpy(optimizer_variables[index]))
        if step < self._step:
            # An earlier state was restored.
            self._is_begun = False
        if self._is_begun:
            taken = -(-(step - self._step) // self._calls)
            self._steps_per_call = max(1, taken, self._steps_per_call or 0)
        self._step, self._calls = step, 0
        return not self._is_begun or step >= self._next_update

    def _update(self, *lists):
        variables = [*self._weights, *self.optimizer.variables]
        values = [*lists[0], *lists[1]]
        for value, variable in zip(values, variables, strict=True):
            if tuple(value.shape) != tuple(variable.shape):
                raise ValueError(
                    f"The value of '{variable.path}' has shape {tuple(value.shape)}, "
                    f"but the variable has {tuple(variable.shape)}. Nothing was "
                    "assigned."
                )
        for value, variable in zip(values, variables, strict=True):
            variable.assign(value)
        steps = self.optimizer.last_update_steps
        for pruner, step in zip(self.group.pruners, steps, strict=True):
            pruner.bind(self.optimizer.step, step, self.optimizer)
            pruner.refresh()
        if self.group.update_if_due():
            self.optimizer.enforce()
        self._next_update, self._is_begun = self.group.next_update, True
        weights, slots = self.values()
        # The same kinds of lists, because `jax.jit` compiles for them.
        kinds = [tuple if isinstance(old, tuple) else list for old in lists]
        return kinds[0](weights), kinds[1](slots)

    def __repr__(self) -> str:
        return f"StatelessPruner({self.group!r})"

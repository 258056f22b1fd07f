"""Defines the base of an optimizer that wraps the user's own."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras

from keras_pruner.types import Tensor


def _inner_setting(name, default=None):
    """Returns a property: a setting that every optimizer of Keras has."""

    def get(self) -> Any:
        inner = vars(self).get("inner_optimizer")
        return default if inner is None or not self._inherits else getattr(inner, name)

    def set_(self, value: Any) -> None:
        inner = vars(self).get("inner_optimizer")
        # Keras' constructor sets its defaults, before there is an inner optimizer.
        if inner is not None:
            setattr(inner, name, value)

    return property(get, set_, doc=f"`{name}` of the inner optimizer.")


class WrapperOptimizer(keras.optimizers.Optimizer):
    """Wraps an optimizer, so that other code can use it like the wrapped one.

    Attributes that it lacks, e.g. `momentum`, and the settings of every optimizer, e.g.
    `weight_decay`, are the inner optimizer's: reading and setting them reaches it. A
    subclass defines `apply`, and calls the inner optimizer there.

    Args:
        inner_optimizer: `keras.optimizers.Optimizer`.
        name: Name of the wrapper.

    Attributes:
        gets_pairs: Whether `apply` runs inside `apply_gradients`, which the inner
            optimizer's class may override.

    Raises:
        TypeError: If `inner_optimizer` is no optimizer of Keras.

    Example:

    >>> optimizer = WrapperOptimizer(keras.optimizers.SGD(0.1, momentum=0.9))
    >>> optimizer.momentum = 0.5
    >>> optimizer.inner_optimizer.momentum
    0.5
    """

    clipnorm = _inner_setting("clipnorm")
    clipvalue = _inner_setting("clipvalue")
    ema_momentum = _inner_setting("ema_momentum", 0.99)
    ema_overwrite_frequency = _inner_setting("ema_overwrite_frequency")
    global_clipnorm = _inner_setting("global_clipnorm")
    gradient_accumulation_steps = _inner_setting("gradient_accumulation_steps")
    loss_scale_factor = _inner_setting("loss_scale_factor")
    use_ema = _inner_setting("use_ema", False)
    weight_decay = _inner_setting("weight_decay")

    def __init__(
        self, inner_optimizer: keras.optimizers.Optimizer, name: str | None = None
    ) -> None:
        if not isinstance(inner_optimizer, keras.optimizers.Optimizer):
            raise TypeError(
                "`inner_optimizer` must be a keras.optimizers.Optimizer. "
                f"Received: {inner_optimizer!r}"
            )
        # The learning rate is the inner optimizer's, as in Keras' own wrapper.
        super().__init__(learning_rate=0.0, name=name)
        self._inherits = True
        self.gets_pairs = False
        self.inner_optimizer = inner_optimizer

    def build(self, variables: Sequence[keras.Variable]) -> None:
        # Keras must not add averages or sums to the wrapper, too.
        self._inherits = False
        super().build(variables)
        self._inherits = True

    def __getattr__(self, name: str) -> Any:
        # Python calls this for names that the wrapper lacks.
        inner = vars(self).get("inner_optimizer")
        if inner is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__} has no attribute '{name}'")
        return getattr(inner, name)

    def __setattr__(self, name: str, value: Tensor) -> None:
        inner = vars(self).get("inner_optimizer")
        is_own = name in vars(self) or hasattr(type(self), name)
        if inner is None or is_own or not hasattr(inner, name):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    @property
    def variables(self) -> list[keras.Variable]:
        return super().variables + self.inner_optimizer.variables

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss: Tensor) -> Tensor:
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def exclude_from_weight_decay(
        self, var_list: Any = None, var_names: Any = None
    ) -> None:
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def apply_gradients(self, grads_and_vars: Any) -> Any:
        self.gets_pairs = True
        try:
            super().apply_gradients(grads_and_vars)
        finally:
            self.gets_pairs = False
        return self.iterations

    def get_config(self) -> dict[str, Any]:
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"name": self.name, "inner_optimizer": inner}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Self:
        config = dict(config)
        inner = keras.saving.deserialize_keras_object(
            config.pop("inner_optimizer"), custom_objects=custom_objects
        )
        return cls(inner, **config)

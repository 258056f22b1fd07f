"""The wrapper layer of tfmot, as a `PrunedLayer` of this package."""

import dataclasses
import functools
import numbers
import re
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
from absl import logging
from keras import ops

from keras_pruner.backend import Patch, is_called_to_train
from keras_pruner.compat.tfmot.as_config import as_pruning_config
from keras_pruner.compat.tfmot.prunable_layer import layouts_of, weights_of
from keras_pruner.compat.tfmot.prune_registry import PruneRegistry
from keras_pruner.compat.tfmot.pruning_schedule import (
    ConstantSparsity,
    PolynomialDecay,
    PruningSchedule,
)
from keras_pruner.kernels import find_all_kernels, find_wrapped
from keras_pruner.masks import read_mask
from keras_pruner.training import PrunedLayer

_SCHEDULES = {
    schedule.__name__: schedule for schedule in (ConstantSparsity, PolynomialDecay)
}


@keras.saving.register_keras_serializable(package="keras_pruner_tfmot")
class PruneLowMagnitude(PrunedLayer):
    """Wraps a layer, so that training prunes its weights with the least magnitudes.

    It is a `PrunedLayer` of this package with the arguments of tfmot. Train it with the
    callback `UpdatePruningStep`.

    Args:
        layer: Keras layer that `PruneRegistry` supports, or a layer with the method
            `get_prunable_weights`. The wrapper uses this layer, not a copy.
        pruning_schedule: `PruningSchedule`, in optimizer updates.
        block_size: Pair of inputs and outputs of the blocks to prune, for kernels of
            two axes. A kernel that the block does not divide stays dense.
        block_pooling_type: `"AVG"` or `"MAX"`: the score of a block.
        sparsity_m_by_n: Pair (m, n) to prune m of every n inputs; or `None`. The
            schedule then only says when masks are updated. A kernel that has neither
            two nor four axes, or whose inputs n does not divide, stays dense.
        **kwargs: Arguments of `keras.layers.Layer`. The name is always
            `"prune_low_magnitude_"` and the layer's name.

    Attributes:
        pruning_step: `keras.Variable` with the number of optimizer updates, at the end
            of the latest epoch; -1 before training.
        prunable_weights: List of the layer's prunable weights.
        pruning_vars: List of a tuple of the weight, its mask (a bool variable), and the
            least magnitude that is left, for each pruned weight.

    Raises:
        ValueError: If an argument is invalid, or the layer is not supported; in a call
            to train, if no `UpdatePruningStep` was in use.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        pruning_schedule: PruningSchedule = ConstantSparsity(0.5, 0),  # noqa: B008
        block_size: Sequence[int] = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(pruning_schedule, PruningSchedule):
            raise ValueError(
                "`pruning_schedule` must be a `PruningSchedule`, such as "
                "`ConstantSparsity(0.5, 0)`. Received: "
                f"{pruning_schedule!r} of type {type(pruning_schedule).__name__}"
            )
        if block_pooling_type not in ("AVG", "MAX"):
            raise ValueError(
                "Unsupported pooling type: `block_pooling_type` must be 'AVG' or "
                f"'MAX'. Received: {block_pooling_type!r}"
            )
        block_size = _pair(block_size, "block_size")
        if sparsity_m_by_n is not None:
            sparsity_m_by_n = _pair(sparsity_m_by_n, "sparsity_m_by_n")
        refuse_unsupported(layer)
        config = as_pruning_config(
            pruning_schedule, block_size, block_pooling_type, sparsity_m_by_n
        )
        if PruneRegistry.supports(layer):
            PruneRegistry.make_prunable(layer)
        elif not hasattr(layer, "prunable_kernels"):
            Patch(layer, prunable_kernels=functools.partial(layouts_of, layer))
        if layer.built and block_size != (1, 1):
            _check_two_axes(layer)
        kwargs["name"] = f"{_snake_case(type(self).__name__)}_{layer.name}"
        super().__init__(layer, config, **kwargs)
        self.pruning_schedule = pruning_schedule
        self.block_size = block_size
        self.block_pooling_type = block_pooling_type
        self.sparsity_m_by_n = sparsity_m_by_n
        self._count = _Count()

    def build(self, input_shape: Any = None) -> None:
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        if self.block_size != (1, 1):
            _check_two_axes(self.layer)
        super().build(input_shape)

    def _chosen(self):
        weights = set(map(id, weights_of(self.layer)))
        found = find_all_kernels(self.layer).kernels
        kernels = [kernel for kernel in found if id(kernel.variable) in weights]
        pattern = self.pruning_config.pattern
        chosen = []
        for kernel in kernels:
            reason = pattern.refusal(kernel)
            if not pattern.is_unstructured and len(kernel.variable.shape) not in (2, 4):
                reason = f"pattern '{pattern}' needs a kernel of 2 or 4 axes"
            if reason is None:
                chosen.append(dataclasses.replace(kernel, on_request=None))
            else:
                logging.warning("'%s' stays dense: %s", kernel.path, reason)
        return chosen

    def call(self, *args: Any, **kwargs: Any) -> Any:
        if is_called_to_train(self):
            self.check_plain_fit()
        return super().call(*args, **kwargs)

    def check_plain_fit(self) -> None:
        has_none = self.built and not self.masks
        if self.has_begun or has_none or PruneRegistry.is_plain(self.layer):
            return
        raise ValueError(
            f"'{self.name}' is trained without the callback UpdatePruningStep, which "
            "updates its masks. Add it: `model.fit(..., "
            "callbacks=[UpdatePruningStep()])`; in a loop of your own, call "
            "`on_train_begin` of the callback before the first step."
        )

    # The count of steps.

    @property
    def pruning_step(self) -> keras.Variable:
        return self._count.variable

    @property
    def has_begun(self) -> bool:
        """Whether `UpdatePruningStep` was in use, now or before the model was saved."""
        return self._count.has_begun

    def set_pruning_step(self, step: Any) -> None:
        """Sets the number of optimizer updates; -1 for a layer that was not trained."""
        self._count.variable.assign(step)
        self._count.has_begun = step >= 0

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        store["pruning_step"] = ops.convert_to_numpy(self.pruning_step)

    def load_own_variables(self, store: Any) -> None:
        super().load_own_variables(store)
        self.set_pruning_step(int(store["pruning_step"][()]))

    # Names of tfmot.

    @property
    def prunable_weights(self) -> list[Any]:
        return self.layer.get_prunable_weights() if self.layer.built else []

    @property
    def pruning_vars(self) -> list[Any]:
        pairs = [(weight, self.mask_of(weight)) for weight in self.prunable_weights]
        return [
            (weight, mask, _least_kept(weight, mask))
            for weight, mask in pairs
            if mask is not None
        ]

    def get_weights(self) -> list[np.ndarray]:
        """Returns the weights of the wrapped layer, without masks, as arrays."""
        return self.layer.get_weights()

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the weights of the wrapped layer."""
        self.layer.set_weights(weights)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["config"]
        return config | {
            "pruning_schedule": self.pruning_schedule.get_config(),
            "block_size": list(self.block_size),
            "block_pooling_type": self.block_pooling_type,
            "sparsity_m_by_n": self.sparsity_m_by_n and list(self.sparsity_m_by_n),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = dict(config)
        schedule = config["pruning_schedule"]
        if not isinstance(schedule, PruningSchedule):
            config["pruning_schedule"] = keras.saving.deserialize_keras_object(
                schedule, custom_objects=_SCHEDULES
            )
        config["layer"] = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**config)


class _Count:
    """Holds a count that is no weight of the layer, as copies have none."""

    def __init__(self):
        self.variable = keras.Variable(
            -1, dtype="int32", trainable=False, name="pruning_step"
        )
        self.has_begun = False


def collect_prunable_layers(model):
    """Returns the list of the `PruneLowMagnitude`s of a model, through all nesting."""
    return [w for w in find_wrapped(model) if isinstance(w, PruneLowMagnitude)]


def refuse_unsupported(layer):
    """Raises a `ValueError` if `layer` is no layer that `PruneLowMagnitude` takes."""
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError(
            "PruneLowMagnitude wraps a `keras.layers.Layer`. You passed: "
            f"{layer!r} of type {type(layer).__name__}"
        )
    if not hasattr(layer, "get_prunable_weights") and not PruneRegistry.supports(layer):
        raise ValueError(
            f"'{layer.name}' cannot be wrapped: {type(layer).__name__} is no supported "
            "layer. Supported are the classes of Keras that PruneRegistry knows, and "
            "layers that extend `PrunableLayer` or have a method "
            "`get_prunable_weights`. PruningCallback prunes more layers of Keras."
        )


def _pair(value, name):
    """Returns a pair of integers as a tuple."""
    try:
        pair = tuple(value)
    except TypeError:
        pair = ()
    are_integers = all(isinstance(one, numbers.Integral) for one in pair)
    if len(pair) != 2 or not are_integers or min(pair) < 1:
        raise ValueError(
            f"`{name}` must be a tuple or list of 2 integers >= 1. Received: {value!r}"
        )
    return pair


def _check_two_axes(layer):
    for weight in weights_of(layer):
        if len(weight.shape) != 2:
            raise ValueError(
                f"Layer '{layer.name}' has the weight '{weight.name}' of shape "
                f"{tuple(weight.shape)}, but blocks need weights with 2 axes. Use "
                "`block_size=(1, 1)` for it, or PruningCallback with a pattern such as "
                "'4x1', which also takes convolutions."
            )


def _least_kept(weight, mask):
    magnitudes = ops.abs(ops.convert_to_tensor(weight))
    highest = ops.full_like(magnitudes, float("inf"))
    return ops.min(ops.where(read_mask(mask), magnitudes, highest))


def _snake_case(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()

"""Defines the base class of recoveries, and their registry."""

from typing import Any

import keras

from keras_pruner.registry import Component, Registry


class Recovery(Component):
    """Repairs a pruned model with the samples that pruned it.

    Subclasses define `recover`; see `batch_normalization.py` for a short one.
    """

    def check(self, model: keras.Model, dense_target: bool) -> None:
        """Raises or warns before anything is pruned, if the recovery cannot help.

        Args:
            model: The model that will be pruned.
            dense_target: Whether each kernel approaches the dense model's outputs.
        """

    def recover(
        self,
        model: keras.Model,
        teacher: Any,
        samples: Any,
        *,
        seed: int = 0,
        verbose: bool = False,
    ) -> Any:
        """Changes weights of a model in place. Zeros of its kernels stay.

        Args:
            model: Built Keras model.
            teacher: The dense model, or a function from inputs to its outputs.
            samples: `Samples`.
            seed: Integer.
            verbose: Whether to show a progress bar.

        Returns:
            Object whose text is a line of the report.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `recover`.")


RECOVERIES = Registry("recovery", Recovery)


register_recovery = RECOVERIES.register


def recoveries_of(identifier):
    """Returns a tuple of `Recovery`s: of `None`, of one identifier, or of several.

    Example:

    >>> recoveries_of(None)
    ()
    >>> recoveries_of("batch_normalization")
    (BatchNormalizationRecovery(),)
    """
    if identifier is None:
        return ()
    if isinstance(identifier, tuple | list):
        return tuple(map(RECOVERIES.get, identifier))
    return (RECOVERIES.get(identifier),)


class DenseModel:
    """Computes what a model computed before it was pruned in place.

    Args:
        model: Built Keras model.
        values: List of `(variable, value)` of all its weights before.
    """

    def __init__(self, model, values):
        self._model = model
        self._mapping = list(values)

    def __call__(self, inputs):
        with keras.StatelessScope(state_mapping=self._mapping):
            return self._model(inputs, training=False)

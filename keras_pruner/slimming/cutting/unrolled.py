"""Runs the `call` of a composite layer with other sublayers."""

import inspect

import keras

from keras_pruner.backend import Patch, keras_mask_of


class Unrolled:
    """Stands for a composite layer whose sublayers are called one by one.

    Args:
        error: Why it cannot be created.
    """

    def __init__(self, error):
        self.error = error


class StandIn:
    """Stands for a sublayer in the attributes of a layer that is unrolled.

    Args:
        call: Function of the copy and the arguments of its call.
        copy: The sublayer's copy.
        old: The sublayer.
    """

    def __init__(self, call, copy, old):
        self._call, self._copy, self._old = call, copy, old

    def __call__(self, *args, **kwargs):
        # Keras passes the mode of the whole model on.
        kwargs = {k: v for k, v in kwargs.items() if not isinstance(v, _Training)}
        return self._call(self._copy, *args, **kwargs)

    def __getattr__(self, name):
        return getattr(self._copy if hasattr(self._copy, name) else self._old, name)


class _Training:
    """Stands for `training` in a `call` that is run once for both of its values."""

    def __bool__(self):
        raise ValueError("it computes something else in training.")


def call_with(stand_ins, layer, args, kwargs):
    """Returns the outputs of a layer's `call` on symbolic tensors.

    Args:
        stand_ins: Dict from the names of attributes to what replaces them.
        layer: Keras layer.
        args: Positional arguments of the call.
        kwargs: Named ones.

    Raises:
        ValueError: If the operations in the `call` are not all that the layer does.
    """
    if layer.activity_regularizer is not None:
        raise ValueError("it has an `activity_regularizer`.")
    parameters = inspect.signature(layer.call).parameters
    inputs = [x for x in keras.tree.flatten((args, kwargs)) if _is_symbolic(x)]
    masks = [keras_mask_of(x) for x in inputs]
    if "mask" in parameters and "mask" not in kwargs:
        kwargs = kwargs | {"mask": keras_mask_of(keras.tree.flatten(args)[0])}
    if "training" in parameters and kwargs.get("training") is None:
        kwargs = kwargs | {"training": _Training()}
    with Patch(layer, **stand_ins):
        outputs = layer.call(*args, **kwargs)
    passes_mask = layer.supports_masking and any(mask is not None for mask in masks)
    tensors = filter(_is_symbolic, keras.tree.flatten(outputs))
    if passes_mask and any(keras_mask_of(x) is None for x in tensors):
        raise ValueError("it passes the mask of its inputs on, and they do not.")
    return outputs


def _is_symbolic(value):
    return isinstance(value, keras.KerasTensor)

"""Shows the calls of layers and operations while a model runs on symbolic tensors."""

import contextlib
import functools
import inspect
import threading

import keras
import numpy as np

from keras_pruner.backend import (
    Patch,
    all_layers,
    is_view,
    own_non_trainables_of,
    trainables_in,
)


@contextlib.contextmanager
def symbolic_calls_by(on_layer, on_operation, on_read, on_loss):
    """Hands the symbolic calls of this thread to functions, for some time.

    No call adds a node to a layer, so models do not change.

    Args:
        on_layer: Function from a layer, its positional and its named arguments to the
            outputs of the call.
        on_operation: The same for an operation that is not a layer.
        on_read: Function that is called with each variable whose value is read.
        on_loss: Function that gets each loss that a layer adds.

    Yields:
        Function that returns a context in which Keras makes the calls itself.
    """
    thread, state = threading.get_ident(), {"is_on": True}
    call_layer = keras.layers.Layer.__call__
    call_operation = keras.Operation.symbolic_call

    def is_on():
        return state["is_on"] and threading.get_ident() == thread

    def layer_call(self, *args, **kwargs):
        if not is_on():
            return call_layer(self, *args, **kwargs)
        return on_layer(self, args, kwargs)

    def operation_call(self, *args, **kwargs):
        if not is_on():
            return call_operation(self, *args, **kwargs)
        return on_operation(self, args, kwargs)

    @contextlib.contextmanager
    def paused():
        before, state["is_on"] = state["is_on"], False
        try:
            yield
        finally:
            state["is_on"] = before

    value = inspect.getattr_static(keras.Variable, "value")

    def read(self):
        if is_on():
            on_read(self)
        return value.__get__(self)

    def compared_by(operation):
        def compare(self, other):
            return _compared(operation, self, other) if is_on() else NotImplemented

        return compare

    add_loss = keras.layers.Layer.add_loss

    def losses_added(self, loss):
        (on_loss if is_on() else functools.partial(add_loss, self))(loss)

    equal, differ = compared_by(keras.ops.equal), compared_by(keras.ops.not_equal)
    with (
        Patch(keras.Variable, value=property(read)),
        # Otherwise operators of JAX's arrays refuse symbolic tensors, which know them.
        Patch(keras.KerasTensor, __jax_array__=None, __eq__=equal, __ne__=differ),
        Patch(keras.layers.Layer, __call__=layer_call, add_loss=losses_added),
        Patch(keras.Operation, symbolic_call=operation_call),
    ):
        yield paused


def _compared(operation, tensor, other):
    """Compares a symbolic tensor as backends compare their tensors.

    Keras compares the objects, so the result would not depend on the tensor.
    """
    is_number = isinstance(other, bool | int | float | np.ndarray | np.generic)
    if is_number or keras.ops.is_tensor(other) or isinstance(other, keras.KerasTensor):
        return operation(tensor, other)
    return NotImplemented


@contextlib.contextmanager
def variables_shown_as(symbols, model):
    """Puts symbolic tensors in place of variables into the attributes of layers.

    Args:
        symbols: Dict from the id of a variable to its symbolic tensor.
        model: Keras model or layer; its sublayers are changed too.
    """
    patches = []
    try:
        for layer in all_layers(model):
            tracked = id(trainables_in(layer)), id(own_non_trainables_of(layer))
            shown = {
                name: _exchanged(held, symbols)
                for name, held in vars(layer).items()
                if id(held) not in tracked and not name.startswith("_self_")
            }
            patches.append(Patch(layer, **_changes(vars(layer), shown)))
        yield
    finally:
        for patch in patches:
            patch.undo()


@contextlib.contextmanager
def attributes_put_back(model):
    """Gives the attributes of layers their old values after a time.

    A `call` may assign tensors to attributes. Attributes that are new stay.
    """
    before = [(layer, dict(vars(layer))) for layer in all_layers(model)]
    try:
        yield
    finally:
        for layer, attributes in before:
            Patch(layer, **_changes(vars(layer), attributes))


def _changes(old, new):
    """Returns the new attributes that are other objects than the old ones."""
    return {name: held for name, held in new.items() if old.get(name) is not held}


def _exchanged(held, symbols):
    """Returns a value, or a copy of it in which symbols replace the variables."""
    if isinstance(held, keras.Variable):
        variable = held.variable if is_view(held) else held
        return symbols.get(id(variable), held)
    if isinstance(held, dict):
        items = {key: _exchanged(item, symbols) for key, item in held.items()}
        same = all(items[key] is held[key] for key in items)
        return held if same else items
    if isinstance(held, list | tuple):
        items = [_exchanged(item, symbols) for item in held]
        if all(new is old for new, old in zip(items, held, strict=True)):
            return held
        if hasattr(held, "_fields"):
            return type(held)(*items)
        return tuple(items) if isinstance(held, tuple) else items
    return held

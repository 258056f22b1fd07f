"""Provides the classes and functions that a model has and nobody registered."""

import contextlib
import types

import keras

from keras_pruner.backend import Patch, all_layers

# Parts of training, which no config of a layer holds.
_OF_TRAINING = (keras.optimizers.Optimizer, keras.metrics.Metric)
# Modules whose names strings in configs stand for.
_NAMED_BY_KERAS = (
    keras.activations,
    keras.constraints,
    keras.initializers,
    keras.regularizers,
)


@contextlib.contextmanager
def custom_objects_of(model):
    """Lets Keras create the parts of a model from their configs without registration.

    Within the context, configs name the classes and functions that the model's layers
    have, e.g. as activations, initializers or in a `Lambda`. A lambda, a second
    function of one name, and a function with a name of Keras' own have other names
    for this time.

    Args:
        model: Keras model.

    Yields:
        Dict from names to the classes and functions.

    Raises:
        ValueError: If two classes that are not registered have equal names.
    """
    found = {}
    with contextlib.ExitStack() as patches:
        for part in _parts_of(model):
            if isinstance(part, types.FunctionType):
                name = part.__name__
                if found.get(name) is part:
                    continue
                if name in found or name == "<lambda>" or _is_keras_name(name):
                    name = f"keras_pruner_function_{len(found)}"
                    patches.enter_context(Patch(part, __name__=name))
            else:
                part, name = type(part), type(part).__name__
                if found.get(name, part) is not part:
                    raise ValueError(
                        f"'{model.name}' has parts of two classes named {name}, which "
                        "its config cannot tell apart. Register one of them under "
                        "another name, by `keras.saving.register_keras_serializable`."
                    )
            found[name] = part
        patches.enter_context(keras.saving.custom_object_scope(found))
        yield found


def _parts_of(model):
    """Yields the layers, functions and config objects that are not registered."""
    for layer in all_layers(model):
        for part in [layer, *_values_of(layer)]:
            is_function = isinstance(part, types.FunctionType)
            is_object = hasattr(part, "get_config")
            if isinstance(part, _OF_TRAINING) or not (is_function or is_object):
                continue
            kind = part if is_function else type(part)
            is_named = keras.saving.get_registered_name(kind) != kind.__name__
            if not is_named and not (kind.__module__ or "").startswith("keras."):
                yield part


def _values_of(layer):
    """Yields the attributes of a layer, and the items of lists and dicts in them."""
    for name, value in vars(layer).items():
        # Keras wraps methods, e.g. `build`, and keeps them in the layer.
        if hasattr(type(layer), name):
            continue
        if isinstance(value, dict):
            yield from value.values()
        elif isinstance(value, list | tuple):
            yield from value
        elif not isinstance(value, type):
            yield value


def _is_keras_name(name):
    return any(hasattr(module, name) for module in _NAMED_BY_KERAS)

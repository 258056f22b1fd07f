"""Creates smaller layers from the configs of larger ones."""

import copy
import itertools

import keras

from keras_pruner.backend import sublayers_of
from keras_pruner.checks import one_line
from keras_pruner.slimming.cutting.alike import Trial
from keras_pruner.slimming.cutting.registry import cutter_of, is_own_code

# Values that may hold sizes are tried in so many combinations.
_MOST_TRIALS = 100
# Messages quote at most so many characters of another message.
_SHOWN = 300


def smaller_layer(layer, part, name=None):
    """Creates a layer or operation from its config, with fewer channels.

    Args:
        layer: Keras layer or operation.
        part: `Part`.
        name: Name of the new layer, or `None` for the old one.

    Returns:
        Layer or operation, not built.

    Raises:
        ValueError: If its config cannot say its sizes.
    """
    try:
        config = _smaller_config(
            keras.saving.serialize_keras_object(layer), layer, part
        )
        if name is not None:
            config["config"]["name"] = name
        smaller = _from_config(config)
    except Exception as error:
        raise ValueError(
            f"'{layer.name}' ({type(layer).__name__}) cannot be created from its "
            f"config with fewer channels: {shortened(error)}"
        ) from error
    if isinstance(layer, keras.layers.Layer) and is_own_code(layer):
        if part.takes_fewer(layer):
            return _fitted(layer, part, config, smaller)
    return smaller


def _from_config(config):
    # The config is no file, and holds only code that runs in the model. A class may
    # change the config that it gets.
    return keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=False)


def _fitted(layer, part, config, smaller):
    """Replaces sizes in the config of a layer without variables until it fits.

    Args:
        layer: Keras layer.
        part: `Part`.
        config: Serialized form of the smaller layer.
        smaller: The layer of this config.

    Raises:
        ValueError: If no size makes the layer compute the same.
    """
    trial = Trial(layer, part)
    if trial.is_passed_by(smaller):
        return smaller
    for change in resizings(config["config"], layer, part):
        try:
            changed = config | {"config": config["config"] | change}
            smaller = _from_config(changed)
        except Exception:
            # The class allows no such size.
            continue
        if trial.is_passed_by(smaller):
            part.remember(layer, change)
            return smaller
    raise refusal(
        layer,
        "its config does not say their number, and its `call` computes something else "
        "with fewer inputs. Leave its channels out.",
    )


def resizings(values, layer, part):
    """Yields changes of values that may hold sizes of a layer, likely ones first.

    Args:
        values: Dict from a name to a value of any kind.
        layer: Keras layer.
        part: `Part`.

    Yields:
        Dicts from a name to a new value.
    """
    sizes = part.sizes_in(layer)
    options = [
        (name, smaller)
        for name, value in values.items()
        for old, choices in sizes.items()
        for new in sorted(choices)
        if (smaller := resized(value, {old: new})) is not value
    ]
    changes = itertools.chain.from_iterable(
        itertools.combinations(options, number) for number in (1, 2, len(options), 3, 4)
    )
    changes = itertools.islice(map(dict, changes), _MOST_TRIALS)
    return itertools.chain(part.remembered(layer), changes)


def refusal(layer, reason):
    """Returns the error of a layer that cannot be smaller."""
    return ValueError(
        f"'{layer.name}' ({type(layer).__name__}) cannot be created with fewer "
        f"channels: {reason}"
    )


def shortened(error):
    """Returns the beginning of an error's message as one line."""
    text = one_line(error)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."


def _smaller_config(config, layer, part):
    """Returns the serialized form of a smaller layer."""
    # It holds the shapes of old inputs.
    config = {key: value for key, value in config.items() if key != "build_config"}
    inner = {sublayer.name: sublayer for sublayer in _known_layers(layer)}
    values = {
        key: _replaced(_without_array(value), inner, part)
        for key, value in config["config"].items()
    }
    cutter = cutter_of(layer)
    if cutter is not None:
        values |= cutter(layer, part)
    elif isinstance(layer, keras.layers.Layer):
        values = _guessed(values, layer, part)
    if id(layer) in part.new_biases:
        values |= {"use_bias": True, "bias_initializer": "zeros"}
    config["config"] = values
    return config


def _without_array(value):
    """Replaces an initializer that holds the values of a whole variable.

    The variable gets its values from the old one, and its shape may be smaller.
    """
    if not isinstance(value, dict) or value.get("class_name") != "Constant":
        return value
    held = value.get("config", {}).get("value", 0.0)
    return value if isinstance(held, int | float) else "zeros"


def _known_layers(layer):
    if not isinstance(layer, keras.layers.Layer):
        return []
    return sublayers_of(layer)


def _replaced(value, inner, part):
    """Replaces the serialized forms of sublayers in a config."""
    if isinstance(value, dict):
        config = value.get("config")
        if "class_name" in value and isinstance(config, dict):
            layer = inner.get(config.get("name"))
            if layer is not None and type(layer).__name__ == value["class_name"]:
                return _smaller_config(value, layer, part)
        return {key: _replaced(item, inner, part) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, inner, part) for item in value)
    return value


def _guessed(values, layer, part):
    """Replaces integers that equal an old size of an axis by its new size.

    The layer that is built of it is used only if it has exactly the wanted shapes.
    """
    new_sizes = {}
    for variable in layer.variables:
        for old, new in zip(variable.shape, part.shape_of(variable), strict=True):
            if new_sizes.setdefault(old, new) != new:
                # An axis of equal size may stay. Its number decides only if it must.
                new_sizes[old] = min(new, new_sizes[old])
    new_sizes = {old: new for old, new in new_sizes.items() if old != new}

    return {key: resized(value, new_sizes) for key, value in values.items()}


def resized(value, new_sizes):
    """Replaces integers, also in nested lists, tuples and dicts.

    Args:
        value: Any value. What holds none of the integers is returned itself.
        new_sizes: Dict from an integer to another.
    """
    if type(value) is int:
        return new_sizes.get(value, value)
    if isinstance(value, dict):
        new = {key: resized(item, new_sizes) for key, item in value.items()}
        return value if all(new[key] is value[key] for key in value) else new
    if isinstance(value, list | tuple):
        new = [resized(item, new_sizes) for item in value]
        same = all(a is b for a, b in zip(new, value, strict=True))
        return value if same else tuple(new) if isinstance(value, tuple) else new
    return value

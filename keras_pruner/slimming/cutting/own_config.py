"""Creates a smaller model from the config of its class, if that says its sizes."""

from keras_pruner.backend import functional_of, without_initial_values
from keras_pruner.slimming.cutting.alike import Trial
from keras_pruner.slimming.cutting.edit import resized
from keras_pruner.slimming.cutting.registry import has_unknown_layers
from keras_pruner.training import hand_over, ready_to_copy

# A model is built so often at most to find what its config says.
_MOST_BUILDS = 60


def from_own_config(model, part):
    """Returns a smaller model of the same class, or `None` if its config says no such.

    Numbers of the config are scaled one after the other, each by the share of an axis
    that stays, as long as more axes get the size that they shall have. So repeated
    blocks, whose width is one number, must keep equally many channels.

    Args:
        model: Built Keras model whose class has a `get_config`.
        part: `Part`.

    Returns:
        Keras model with the values that stay, or `None`.
    """
    wanted = [part.shape_of(v) for v in model.variables]
    ratios = {
        (new, old)
        for variable, shape in zip(model.variables, wanted, strict=True)
        for old, new in zip(variable.shape, shape, strict=True)
        if old != new
    }
    with ready_to_copy(model), without_initial_values():
        try:
            smaller = _search(model, wanted, ratios)
            if smaller is None:
                return None
            hand_over(model, smaller, {}, part)
        except Exception:
            return None
    return smaller if Trial(model, part).is_passed_by(smaller) else None


def loads_from_config(model):
    """Whether a model is created from its config with the shapes that it has."""
    try:
        with ready_to_copy(model), without_initial_values():
            made = _built(model, model.get_config())
    except NotImplementedError:
        # A layer has no config.
        return False
    return made is not None and sorted(_shapes(made)) == sorted(_shapes(model))


def note_on_saving(smaller):
    """Returns a sentence on a smaller model that no file holds, or `None`.

    Args:
        smaller: Model that `cut` returned.
    """
    is_known = functional_of(smaller) is not None and not has_unknown_layers(smaller)
    if is_known or loads_from_config(smaller):
        return None
    return (
        "The configs of some layers do not say their new sizes, so save the result by "
        "`save_weights` or `export`: its `.keras` file cannot be loaded. "
        "With `uniform=True`, `prune_structured` cuts only what the "
        "config of the model can say."
    )


def _search(model, wanted, ratios):
    """Changes a config until it says the wanted shapes; returns the model or `None`."""
    config, smaller, left = model.get_config(), None, _MOST_BUILDS
    wrong = _count_wrong(_shapes(model), wanted)
    while wrong:
        for key, value in _changes(config, ratios):
            left -= 1
            smaller = _built(model, config | {key: value}) if left >= 0 else None
            rest = None if smaller is None else _count_wrong(_shapes(smaller), wanted)
            if rest is not None and rest < wrong:
                config[key], wrong = value, rest
                break
        else:
            return None
    return smaller


def _changes(config, ratios):
    """Yields a key of a config and a new value, for each number that may be a size."""
    for key, value in config.items():
        done = set()
        for new, old in sorted(ratios):
            sizes = {n: n * new // old for n in _numbers(value) if n * new % old == 0}
            changed = resized(value, sizes)
            if changed is not value and repr(changed) not in done:
                done.add(repr(changed))
                yield key, changed


def _numbers(value):
    if isinstance(value, list | tuple):
        return {number for item in value for number in _numbers(item)}
    return {value} if type(value) is int and value > 1 else set()


def _built(model, config):
    try:
        made = type(model).from_config(dict(config))
        if not made.built:
            made.build_from_config(model.get_build_config())
    except Exception:
        return None
    return made if len(made.variables) == len(model.variables) else None


def _shapes(model):
    return [tuple(v.shape) for v in model.variables]


def _count_wrong(made, wanted):
    """Returns how many axes have other sizes than wanted, or `None` if axes differ."""
    if any(len(a) != len(b) for a, b in zip(made, wanted, strict=True)):
        return None
    return sum(
        a != b
        for one, other in zip(made, wanted, strict=True)
        for a, b in zip(one, other, strict=True)
    )

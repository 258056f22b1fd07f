"""What of a pruning run is saved with its optimizer, and how it is taken on."""

import json

from keras import ops

from keras_pruner.masks import check_variables, read_mask, read_state, write_state
from keras_pruner.training.saving.variable_matching import find_positions

_OWNER = "the optimizer"


def save_run(optimizer, store):
    """Writes masks, counts and states of a `PruningOptimizer`, and what they mean.

    Args:
        optimizer: Built `PruningOptimizer`.
        store: Dict-like store of Keras.
    """
    masks = {name: mask for name, (mask, _) in _masks(optimizer).items()}
    arrays = {name: variable for name, (variable, _) in _arrays(optimizer).items()}
    write_state(store, describe(optimizer), masks, arrays)


def load_run(optimizer, store):
    """Reads what `save_run` wrote; checks all of it before it assigns any.

    Args:
        optimizer: Built `PruningOptimizer`.
        store: Dict-like store of Keras.

    Raises:
        ValueError: If it is damaged, or of other kernels, another pattern, criterion or
            pruner; the message names the first difference.
    """
    description, masks, arrays = read_state(store, _OWNER)
    if description.get("trainables") and optimizer.trainables:
        positions = find_positions(description["trainables"], optimizer.trainables)
        description, masks, arrays = _moved(positions, description, masks, arrays)
    _check_fit(optimizer, description, masks, arrays)
    for known, values in (_masks(optimizer), masks), (_arrays(optimizer), arrays):
        for name, (variable, _) in known.items():
            variable.assign(values[name])
    optimizer.plan = description["plan"]
    optimizer.meanings = _by_index(description["meanings"])


def take_over(optimizer, restored):
    """Copies masks, counts and states of an optimizer that was loaded with the model.

    Args:
        optimizer: Built `PruningOptimizer` of the run that goes on.
        restored: Built `PruningOptimizer` of the model.

    Raises:
        ValueError: As `load_run`; nothing is assigned.
    """
    description, masks, arrays = _moved(
        _positions_here(optimizer, restored),
        describe(restored),
        _masks(restored),
        _arrays(restored),
    )
    _check_fit(
        optimizer,
        description,
        {name: variable for name, (variable, _) in masks.items()},
        {name: variable for name, (variable, _) in arrays.items()},
    )
    for known, values in (_masks(optimizer), masks), (_arrays(optimizer), arrays):
        for name, (variable, _) in known.items():
            # A copy, for JAX donates each buffer but once.
            variable.assign(ops.copy(read_mask(values[name][0])))
    optimizer.plan = restored.plan


def _positions_here(optimizer, restored):
    """Dict from a variable's index in one optimizer to its index in another.

    Raises:
        ValueError: If one with a mask is not trained any more.
    """
    here = {id(v): index for index, v in enumerate(optimizer._trainable_variables)}
    found = {
        index: here[id(variable)]
        for index, variable in enumerate(restored._trainable_variables)
        if id(variable) in here
    }
    for index in (*restored.masks, *(index for index, _ in restored.states)):
        if index not in found:
            raise ValueError(
                f"'{restored._trainable_variables[index].path}' was pruned when the "
                "model was saved, and is frozen now. Train it, or load the model with "
                "`compile=False` and compile it anew. Nothing of the pruning state was "
                "assigned."
            )
    return found


def _moved(positions, description, masks, arrays):
    """Renames what was saved, by where variables are here.

    Args:
        positions: Maps a variable's index then to its index here.
        description: See `describe`.
        masks: Dict from `mask_{index}` to anything.
        arrays: Dict from `state_{index}_{key}`, and names without index, to anything.

    Returns:
        The three anew.
    """

    def renamed(name):
        kind, *rest = name.split("_", 2)
        if kind in ("mask", "state"):
            rest[0] = str(positions[int(rest[0])])
        return "_".join([kind, *rest])

    meanings = description["meanings"].items()
    return (
        description | {"meanings": {str(positions[int(i)]): m for i, m in meanings}},
        {renamed(name): mask for name, mask in masks.items()},
        {renamed(name): array for name, array in arrays.items()},
    )


def _masks(optimizer):
    """Dict from the name of a mask to the pair of its variable and what it is."""
    variables = optimizer._trainable_variables
    return {
        f"mask_{index}": (mask, f"mask of kernel '{variables[index].path}'")
        for index, mask in optimizer.masks.items()
    }


def _arrays(optimizer):
    """Dict from the name of a count or state to its variable and what it is."""
    variables = optimizer._trainable_variables
    found = {"step": (optimizer.step, "count of steps")}
    for number, update in enumerate(optimizer.updates):
        found[f"updated_at_{number}"] = update, f"step of update of pruner {number}"
    for (index, key), state in optimizer.states.items():
        words = f"state '{key}' of kernel '{variables[index].path}'"
        found[f"state_{index}_{key}"] = state, words
    return found


def describe(optimizer):
    """Returns what is known of the run of a `PruningOptimizer`, as plain values.

    Returns:
        Dict of `"plan"`, how the steps were laid out; `"trainables"`, see
        `freezing.trainables_of`; and `"meanings"`, what each mask was made by. The
        first two are `None` if not known.
    """
    variables = optimizer._trainable_variables
    description = {
        "plan": optimizer.plan,
        "trainables": optimizer.trainables,
        "meanings": {
            str(index): {"path": variables[index].path if variables else "", **meaning}
            for index, meaning in optimizer.meanings.items()
        },
    }
    return json.loads(json.dumps(description))


def take_run(optimizer, description):
    """Takes on the plan of a run whose variables were loaded by themselves.

    Args:
        optimizer: Built `PruningOptimizer`.
        description: What `describe` returned, or `None` if the run was not pruned.

    Raises:
        ValueError: If masks or states were made by something else than here.
    """
    if description is None:
        raise ValueError("The checkpoint was saved without pruning.")
    _check_meanings(optimizer, description)
    optimizer.plan = description["plan"]


def take_description(optimizer, description):
    """Sets what `describe` returned.

    Raises:
        ValueError, TypeError: If it has another form.
    """
    trainables = description.get("trainables")
    optimizer.trainables = trainables and [
        [str(path), [int(size) for size in shape], bool(is_trained)]
        for path, shape, is_trained in trainables
    ]
    optimizer.meanings = _by_index(description["meanings"])
    optimizer.plan = description["plan"]


def _by_index(meanings):
    return {
        int(index): {key: value for key, value in meaning.items() if key != "path"}
        for index, meaning in meanings.items()
    }


def _check_fit(optimizer, description, masks, arrays):
    """Raises at the first difference between what was saved and what is here."""
    owner = "this model and pruning config"
    paths = {f"mask_{i}": m["path"] for i, m in description["meanings"].items()}
    for name, array in masks.items():
        if name not in _masks(optimizer):
            raise ValueError(
                f"The checkpoint does not fit {owner}: it has a mask of shape "
                f"{tuple(array.shape)} for kernel '{paths.get(name, name)}', which is "
                "not pruned here: other kernels were pruned. Use the same model and "
                "config, or load a saved model with `compile=False` and compile it "
                "anew. Nothing of the pruning state was assigned."
            )
    for name, (_, words) in _masks(optimizer).items():
        if name not in masks:
            raise ValueError(
                f"The checkpoint does not fit {owner}: it has no {words}. If layers "
                "were frozen when it was saved, freeze them again: Keras does not save "
                "that for models with a config of their own. Nothing of the pruning "
                "state was assigned."
            )
    check_variables(masks, _masks(optimizer), owner)
    _check_meanings(optimizer, description)
    check_variables(arrays, _arrays(optimizer), owner)


def _check_meanings(optimizer, description):
    """Raises if a mask was made by something else than it is made by here."""
    owner = "this model and pruning config"
    variables = optimizer._trainable_variables
    saved = _by_index(description["meanings"])
    for index, meaning in optimizer.meanings.items():
        for key, here in meaning.items():
            there = saved.get(index, {}).get(key, here)
            if there != here:
                raise ValueError(
                    f"The checkpoint does not fit {owner}: kernel "
                    f"'{variables[index].path}' was pruned with {key}={there!r}, and "
                    f"is with {key}={here!r} now. Use the same config, or load a saved "
                    "model with `compile=False` and compile it anew. Nothing of the "
                    "pruning state was assigned."
                )

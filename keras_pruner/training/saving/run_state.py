"""Saves the state of a run with its optimizer, and checks it at loading."""

import dataclasses
import math

import keras
from keras import ops

from keras_pruner.checks import check_in_range, shown
from keras_pruner.masks import (
    check_provenance,
    check_variables,
    read_mask,
    read_state,
    write_state,
)
from keras_pruner.training.saving.variable_matching import find_positions

_OWNER = "the optimizer"
_HERE = "this model and pruning config"


@dataclasses.dataclass(frozen=True)
class RunState:
    """Holds the part of a run that no variable holds, as plain values.

    Args:
        plan: Dict of the planned steps, or `None` while unknown: `"total_steps"`,
            `"first_step"`, and `"pinned"` groups of each pruner; while the first
            epoch measures the length of the run, `"measured_from"`, its first step.
        trainables: List of `[path, shape, is_trained]` of the model's variables, see
            `variable_matching.trainables_of`; `None` if unknown.
        provenance: Dict from the index of a masked variable to its path and to the
            pruning type, pattern and criterion that made its mask.
    """

    plan: dict | None = None
    trainables: list | None = None
    provenance: dict = dataclasses.field(default_factory=dict)

    def to_dict(self):
        """Returns plain values from which `from_dict` makes an equal state."""
        return {
            "plan": self.plan,
            "trainables": self.trainables,
            # The name of `provenance` in all files.
            "meanings": {str(i): dict(made) for i, made in self.provenance.items()},
        }

    @classmethod
    def from_dict(cls, values):
        """Builds a state from the values that `to_dict` returns.

        Raises:
            ValueError: If the values have another form.
        """
        try:
            trainables = values["trainables"] and [
                [str(path), [int(size) for size in shape], bool(is_trained)]
                for path, shape, is_trained in values["trainables"]
            ]
            provenance = {
                int(index): dict(made) for index, made in values["meanings"].items()
            }
            return cls(_checked_plan(values["plan"]), trainables, provenance)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"The state of a pruning run has another form: {error!r}."
            ) from error

    def moved(self, positions):
        """Returns the state with renumbered variables.

        Args:
            positions: Maps a variable's old index to its new one.
        """
        provenance = {positions[i]: made for i, made in self.provenance.items()}
        return dataclasses.replace(self, provenance=provenance)


def _checked_plan(plan):
    """Returns a copy of a saved plan after it checked the steps and counts in it."""
    if plan is None:
        return None
    for key in ("total_steps", "first_step", "measured_from"):
        if key in plan:
            check_in_range(plan[key], f"`{key}`", 0, integer=True)
    for counts in plan.get("pinned", ()):
        for count in counts or ():
            check_in_range(count, "`pinned`", 0, integer=True)
    return dict(plan)


def checked_specs(num_pruners, states):
    """Returns two arguments of a `PruningOptimizer`, which may come from a file.

    Args:
        num_pruners: Number of pruners.
        states: List of `(index, name, shape, dtype)`.

    Raises:
        TypeError: If `num_pruners` is no integer.
        ValueError: If it is negative, or `states` have another form.
    """
    num_pruners = check_in_range(num_pruners, "`num_pruners`", 0, integer=True)
    try:
        specs = [
            (
                int(index),
                str(key),
                tuple(check_in_range(n, "a size", 0, integer=True) for n in shape),
                keras.backend.standardize_dtype(dtype),
            )
            for index, key, shape, dtype in states
        ]
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            "The `states` of a PruningOptimizer are lists of an index, a name, a shape "
            f"and a dtype: {error}. Received: {shown(states)}"
        ) from error
    return num_pruners, specs


def check_state_size(key, shape, variable):
    """Raises a `ValueError` if a saved state is far larger than its variable.

    Loading a damaged or hostile file must not fill the memory. A criterion may keep
    some numbers for each weight, or one for each pair of groups.

    Args:
        key: Name of the state.
        shape: Its shape.
        variable: The variable that it belongs to.
    """
    size = math.prod(variable.shape)
    is_of_pairs = len(shape) == 2 and shape[0] == shape[1] <= size
    if math.prod(shape) > max(1024, 64 * size) and not is_of_pairs:
        raise ValueError(
            f"State '{key}' of '{variable.path}' has the shape {shown(shape)}, which "
            f"does not fit a variable of {size} numbers. The file is damaged."
        )


def save_run(optimizer, store):
    """Writes masks, counts, states and the `RunState` of a `PruningOptimizer`.

    Args:
        optimizer: Built `PruningOptimizer`.
        store: Dict-like store of Keras.
    """
    masks = {name: mask for name, (mask, _) in _masks(optimizer).items()}
    arrays = {name: variable for name, (variable, _) in _arrays(optimizer).items()}
    write_state(store, optimizer.run_state.to_dict(), masks, arrays)


def load_run(optimizer, store):
    """Loads the values of `save_run`; checks all of them before it assigns any.

    Args:
        optimizer: Built `PruningOptimizer`.
        store: Dict-like store of Keras.

    Returns:
        The `RunState` of the resumed run.

    Raises:
        ValueError: If the values are damaged, or of other kernels, another pattern,
            criterion or pruner; the message names the first difference.
    """
    description, masks, arrays = read_state(store, _OWNER)
    run, trainables = RunState.from_dict(description), optimizer.run_state.trainables
    if run.trainables and trainables:
        positions = find_positions(run.trainables, trainables)
        run, masks, arrays = _moved(positions, run, masks, arrays)
    return _assign(optimizer, run, masks, arrays, masks | arrays)


def take_over(optimizer, restored):
    """Copies masks, counts and states of an optimizer that was loaded with the model.

    Args:
        optimizer: Built `PruningOptimizer` of the resumed run.
        restored: Built `PruningOptimizer` of the model.

    Returns:
        The `RunState` of the resumed run.

    Raises:
        ValueError: See `load_run`. Nothing is assigned then.
    """
    run, masks, arrays = _moved(
        _positions_here(optimizer, restored),
        restored.run_state,
        {name: mask for name, (mask, _) in _masks(restored).items()},
        {name: array for name, (array, _) in _arrays(restored).items()},
    )
    # Copies, because JAX donates each buffer only once.
    values = {name: ops.copy(read_mask(v)) for name, v in (masks | arrays).items()}
    return _assign(optimizer, run, masks, arrays, values)


def _assign(optimizer, run, masks, arrays, values):
    """Checks and assigns a state, and returns the optimizer's new `RunState`."""
    _check_fit(optimizer, run, masks, arrays)
    for name, (variable, _) in (_masks(optimizer) | _arrays(optimizer)).items():
        variable.assign(values[name])
    here = optimizer.run_state
    provenance = here.provenance or run.provenance
    return dataclasses.replace(here, plan=run.plan, provenance=provenance)


def _positions_here(optimizer, restored):
    """Returns a dict from a variable's index in `restored` to that in `optimizer`.

    Raises:
        ValueError: If a variable with a mask or state is no longer trained.
    """
    here = {id(v): index for index, v in enumerate(optimizer.trained_variables)}
    found = {
        index: here[id(variable)]
        for index, variable in enumerate(restored.trained_variables)
        if id(variable) in here
    }
    for index in (*restored.masks, *(index for index, _ in restored.states)):
        if index not in found:
            raise ValueError(
                f"'{restored.trained_variables[index].path}' was pruned when the "
                "model was saved, and is frozen now. Train it, or load the model with "
                "`compile=False` and compile it again. Nothing of the pruning state "
                "was assigned."
            )
    return found


def _moved(positions, run, masks, arrays):
    """Renumbers a saved state by the positions of its variables here.

    Args:
        positions: Maps a variable's saved index to its index here.
        run: `RunState`.
        masks: Dict from `mask_{index}` to anything.
        arrays: Dict from `state_{index}_{key}`, and names without index, to anything.

    Returns:
        The three, renamed.
    """

    def renamed(name):
        kind, *rest = name.split("_", 2)
        if kind in ("mask", "state"):
            rest[0] = str(positions[int(rest[0])])
        return "_".join([kind, *rest])

    return (
        run.moved(positions),
        {renamed(name): mask for name, mask in masks.items()},
        {renamed(name): array for name, array in arrays.items()},
    )


def _masks(optimizer):
    """Returns a dict from the name of a mask to its variable and its description."""
    variables = optimizer.trained_variables
    return {
        f"mask_{index}": (mask, f"mask of kernel '{variables[index].path}'")
        for index, mask in optimizer.masks.items()
    }


def _arrays(optimizer):
    """Returns a dict from a count's or state's name to its variable and description."""
    variables = optimizer.trained_variables
    found = {"step": (optimizer.step, "count of steps")}
    for number, step in enumerate(optimizer.last_update_steps):
        found[f"updated_at_{number}"] = step, f"step of update of pruner {number}"
    for (index, key), state in optimizer.states.items():
        words = f"state '{key}' of kernel '{variables[index].path}'"
        found[f"state_{index}_{key}"] = state, words
    return found


def _check_fit(optimizer, run, masks, arrays):
    """Raises an error at the first difference of a saved state and the optimizer's."""
    here = _masks(optimizer)
    for name, array in masks.items():
        if name not in here:
            made = run.provenance.get(int(name.removeprefix("mask_")), {})
            raise ValueError(
                f"The checkpoint does not fit {_HERE}: it has a mask of shape "
                f"{tuple(array.shape)} for kernel '{made.get('path', name)}', which is "
                "not pruned here: other kernels were pruned. Use the same model and "
                "config, or load a saved model with `compile=False` and compile it "
                "again. Nothing of the pruning state was assigned."
            )
    for name, (_, words) in here.items():
        if name not in masks:
            raise ValueError(
                f"The checkpoint does not fit {_HERE}: it has no {words}. If layers "
                "were frozen when it was saved, freeze them again: Keras does not save "
                "that for models with a config of their own. Nothing of the pruning "
                "state was assigned."
            )
    check_variables(masks, here, _HERE)
    check_run(optimizer, run)
    check_variables(arrays, _arrays(optimizer), _HERE)


def check_run(optimizer, run):
    """Raises an error if another config made the saved masks than the masks here.

    Args:
        optimizer: Built `PruningOptimizer`.
        run: Saved `RunState`.
    """
    check_provenance(
        optimizer.run_state.provenance,
        run.provenance,
        _HERE,
        "Use the same config, or load a saved model with `compile=False` and compile "
        "it again.",
    )

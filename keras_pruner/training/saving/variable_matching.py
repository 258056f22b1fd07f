"""Matches the variables of a saved optimizer if other layers are frozen than before.

An optimizer numbers the variables that a model trains. A model with its own config,
e.g. a subclassed one, does not save which of its layers are frozen. So it trains more
variables after loading, and their numbers shift. The variables that can be trained,
frozen or not, stay the same, in the same order. Files list them with the numbers.
"""

import functools
import warnings
import weakref

from keras import ops

from keras_pruner.backend import Patch, all_layers, innermost, trainables_in

# Maps an optimizer whose `load_own_variables` is replaced to the patch.
_waiting = weakref.WeakKeyDictionary()


def trainables_of(model):
    """Lists the variables of a model that can be trained, frozen or not.

    Args:
        model: Built Keras model.

    Returns:
        List of `[path, shape, is_trained]`, in the order of the model's variables.
    """
    trained = {id(variable) for variable in model.trainable_variables}
    able = trained | {
        id(variable) for layer in all_layers(model) for variable in trainables_in(layer)
    }
    return [
        [variable.path, list(variable.shape), id(variable) in trained]
        for variable in model.variables
        if id(variable) in able
    ]


def as_trainables(variables):
    """Lists variables that are all trained, in the form of `trainables_of`."""
    return [[variable.path, list(variable.shape), True] for variable in variables]


def find_again(trainables, variables, indices):
    """Returns the positions of a saved optimizer's variables among a model's.

    Args:
        trainables: List from `trainables_of` at saving; `None` if unknown, which
            assumes that the variables are the same.
        variables: List of the variables that the model trains.
        indices: Numbers of the saved optimizer's variables that are in use.

    Returns:
        Sequence of positions, one for each variable that was trained.

    Raises:
        ValueError: If a variable is not found, or an index has no variable.
    """
    found = range(len(variables))
    if trainables is not None:
        found = find_positions(trainables, as_trainables(variables))
    for index in indices:
        if not 0 <= index < len(found):
            raise ValueError(
                f"The optimizer was saved with a mask for variable {index}, but the "
                f"model has {len(found)} trainable variables."
            )
    return found


def find_positions(saved, here):
    """Returns the positions of the saved, trained variables among those trained here.

    Of a path, only the variable's own name is compared, because the numbers in layer
    names depend on the other layers of a process.

    Args:
        saved: List from `trainables_of` when the optimizer was saved.
        here: The same list of this model; frozen variables may be missing.

    Returns:
        List of positions, one for each saved variable that was trained, in order.

    Raises:
        ValueError: If one of them is not trained here, or if names and shapes match
            several variables.
    """
    if [_kind(one) for one in saved] == [_kind(one) for one in here]:
        pairs = list(zip(saved, here, strict=True))
        lost = next((old[0] for old, new in pairs if old[2] and not new[2]), None)
        if lost is not None:
            raise _misfit(saved, here, f"'{lost}' was trained then and is frozen here")
        trained = [old[2] for old, new in pairs if new[2]]
        return [position for position, was in enumerate(trained) if was]
    kinds = [_kind(one) for one in here if one[2]]
    # `before[i]` holds each number of first variables here that the first i saved ones
    # can match; `after` is the same from the end. A frozen one may be here or not.
    before = _reach(saved, kinds)
    after = [
        {len(kinds) - k for k in ends} for ends in _reach(saved[::-1], kinds[::-1])
    ][::-1]
    positions = []
    for i, one in enumerate(saved):
        if not one[2]:
            continue
        found = [
            k
            for k in before[i]
            if k < len(kinds) and kinds[k] == _kind(one) and k + 1 in after[i + 1]
        ]
        if len(found) != 1:
            reason = f"'{one[0]}', which was trained then, "
            reason += "may be one of several here" if found else "is not found here"
            raise _misfit(saved, here, reason)
        positions += found
    return positions


def _kind(trainable):
    path, shape, _ = trainable
    return path.rpartition("/")[2], tuple(shape)


def _reach(saved, kinds):
    """Returns, for each number of first saved variables, how many here they match."""
    reached = [{0}]
    for one in saved:
        ends = {k + 1 for k in reached[-1] if kinds[k : k + 1] == [_kind(one)]}
        reached.append(ends if one[2] else ends | reached[-1])
    return reached


def _misfit(saved, here, reason):
    frozen = [path for path, _, is_trained in saved if not is_trained]
    return ValueError(
        "Other layers were frozen when the pruning state was saved than are here: "
        f"{reason}. Then {len(saved) - len(frozen)} variables were trained, and now "
        f"{sum(is_trained for *_, is_trained in here)}; frozen were "
        f"{', '.join(frozen[:5]) or 'none'}{', ...' if frozen[5:] else ''}. Load a "
        "saved model with `compile=False`, freeze its layers as they were, compile it, "
        "and call `model.load_weights` with the file in `fit`, beside PruningCallback. "
        "Nothing of the pruning state was assigned."
    )


def built_for(optimizer, variables):
    """Builds an optimizer for other variables, with the state of the known ones.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`.
        variables: List of variables.

    Raises:
        ValueError: If two variables have the same name, so that states are ambiguous.
    """
    twin = type(optimizer).from_config(optimizer.get_config())
    twin.build(variables)
    _copy_state(optimizer, twin)
    return twin


def load_what_was_trained(optimizer, variables):
    """Lets an optimizer load the state of one that was built for fewer variables.

    Keras would skip that state, because its length differs. This replaces
    `load_own_variables` of the optimizer, and of those inside it, until it is called
    once, or until `forget_load`.

    Args:
        optimizer: Built `keras.optimizers.Optimizer`.
        variables: List of its variables for which the saved one was built.
    """

    def load(level, store):
        _waiting.pop(level).undo()
        twin = type(level).from_config(level.get_config())
        twin.build(variables)
        twin.load_own_variables(store)
        try:
            _copy_state(twin, level)
        except ValueError as error:
            # Keras also warns if a state does not fit.
            message = f"Skipping variable loading for optimizer '{level.name}': {error}"
            warnings.warn(message, stacklevel=2)

    for level in _levels(optimizer):
        loader = functools.partial(load, level)
        _waiting[level] = Patch(level, load_own_variables=loader)


def forget_load(optimizer):
    """Undoes `load_what_was_trained` if nothing was loaded since."""
    for level in _levels(optimizer):
        patch = _waiting.pop(level, None)
        if patch is not None:
            patch.undo()


def _levels(optimizer):
    levels = [optimizer]
    while levels[-1] is not innermost(optimizer):
        levels.append(levels[-1].inner_optimizer)
    return levels


def _copy_state(source, target):
    """Copies variables of equal names; their name scopes may differ."""

    def names(optimizer):
        return ["/".join(v.path.split("/")[-2:]) for v in optimizer.variables]

    for optimizer in (source, target):
        found = names(optimizer)
        twice = next((name for name in found if found.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"two of its variables have the name '{twice}'. Give the layers of the "
                "model different names."
            )
    values = dict(zip(names(source), source.variables, strict=True))
    for name, variable in zip(names(target), target.variables, strict=True):
        if name in values:
            # A copy, because JAX donates each buffer only once.
            variable.assign(ops.copy(values[name]))

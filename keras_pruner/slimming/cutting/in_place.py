"""Makes a copy of a layer or model smaller, whose config cannot say its sizes."""

import contextlib

import keras

from keras_pruner.backend import (
    all_layers,
    forget_calls,
    functional_of,
    let_be_duplicated,
    resize,
    sublayers_of,
    without_initial_values,
)
from keras_pruner.kernels import own_variables
from keras_pruner.slimming.cutting.alike import Trial
from keras_pruner.slimming.cutting.edit import refusal, resizings, smaller_layer
from keras_pruner.slimming.cutting.rebuild import rebuild
from keras_pruner.slimming.cutting.registry import cutter_of, is_of_keras
from keras_pruner.training import (
    hand_over,
    is_plain,
    plain_copy,
    ready_to_copy,
    tied_layers,
)


def cut_in_place(model, part):
    """Returns a copy of a model, in which each changed layer is a smaller one.

    Args:
        model: Built Keras model.
        part: `Part`.

    Raises:
        ValueError: If a layer cannot be created with fewer channels.
    """
    copy = plain_copy(model)
    with ready_to_copy(model), without_initial_values():
        _InPlace(part, tied_layers(model)).make_smaller(model, copy)
    return copy


def copies_of(model, part):
    """Returns a function that finds a smaller copy of a layer of a model.

    The model is copied as a whole, because configs of layers alone may be incomplete. A
    layer without sublayers has a copy only if its model has a `get_config` of its own,
    or it is a part of other layers: other models should load from their configs.
    """
    tied = tied_layers(model)
    pairs, in_place = {}, _InPlace(part, tied)

    def find(layer):
        if not pairs:
            pairs[None] = None
            with contextlib.suppress(ValueError):
                own_config = not is_plain(model)
                _pair(model, plain_copy(model), pairs, own_config, tied)
        if id(layer) not in pairs:
            return None
        if sublayers_of(layer) or id(layer) not in tied:
            in_place.make_smaller(layer, pairs[id(layer)])
        else:
            in_place.replace(layer, pairs[id(layer)])
        return pairs[id(layer)]

    return find


def _pair(old, new, pairs, own_config, tied):
    for one, other in zip(sublayers_of(old), sublayers_of(new), strict=True):
        is_taken = own_config or sublayers_of(one) or id(one) in tied
        if id(one) not in pairs and is_taken:
            pairs[id(one)] = other
        is_model = isinstance(one, keras.Model)
        own = own_config or (is_model and not is_plain(one))
        _pair(one, other, pairs, own, tied)


class _InPlace:
    """Makes copies of layers smaller, each once.

    Args:
        part: `Part`.
        tied: Ids of layers that share a layer with others; see `tied_layers`.
    """

    def __init__(self, part, tied):
        self._part, self._tied = part, tied
        # Ids of old layers whose copies are smaller.
        self._done = set()

    def replace(self, old, new):
        """Puts a layer from a smaller config in the place of a copy, if there is one.

        Args:
            old: Built Keras layer or model.
            new: Its copy, also built.

        Raises:
            ValueError: If the copy computes something else.
        """
        if id(old) in self._done:
            return
        if not (self._part.changes(old) or self._part.takes_fewer(old)):
            return
        shares = id(old) in self._tied and sublayers_of(old)
        if cutter_of(old) is not None and not is_of_keras(old) and not shares:
            # The object of a subclass may hold more than its config says.
            done = set(self._done)
            try:
                self.make_smaller(old, new)
                return
            except ValueError:
                self._done = done
        smaller = None if shares else _smaller(old, self._part)
        if smaller is None:
            self.make_smaller(old, new)
        else:
            _become(new, smaller)
            self._done.update(map(id, all_layers(old)))

    def make_smaller(self, old, new):
        """Makes a copy smaller that stays the object that it is.

        Sublayers whose configs say their sizes are replaced. All others, and the layer,
        keep their objects: their variables get smaller, and so do numbers in their
        attributes, if otherwise they do not compute the same.

        Args:
            old: Built Keras layer or model.
            new: Its copy, also built.

        Raises:
            ValueError: If the copy computes something else.
        """
        part = self._part
        if id(old) in self._done:
            return
        self._done.add(id(old))
        if not (part.changes(old) or part.takes_fewer(old)):
            forget_calls(new)
            return
        for pair in zip(sublayers_of(old), sublayers_of(new), strict=True):
            self.replace(*pair)
        own = own_variables(old), own_variables(new)
        if len(own[0]) != len(own[1]):
            raise refusal(
                old, "it holds variables of its sublayers. Leave its channels out."
            )
        for old_variable, new_variable in zip(*own, strict=True):
            if not part.is_whole(old_variable):
                resize(new_variable, part.shape_of(old_variable))
        _take_config(old, new, part)
        hand_over(old, new, {}, part)
        let_be_duplicated(new)
        forget_calls(new)
        _fit_attributes(old, new, part)


def _take_config(old, new, part):
    """Writes what a smaller config would say into attributes of the same names."""
    if (cutter := cutter_of(old)) is None:
        return
    with contextlib.suppress(Exception):
        changes = cutter(old, part)
        vars(new).update({k: v for k, v in changes.items() if k in vars(new)})


def _smaller(old, part):
    """Returns a smaller layer with the same state, or `None` if none can be built."""
    if functional_of(old) is not None:
        return rebuild(old, part)
    factors = dict(part.factors)
    with contextlib.suppress(Exception):
        new = smaller_layer(old, part)
        if old.variables:
            new.build_from_config(_build_config(old, part.tensors_of(old)))
            hand_over(old, new, {}, part)
        # A subclass of a known class may compute something else.
        is_known = cutter_of(old) is not None and is_of_keras(old)
        if is_known or Trial(old, part).is_passed_by(new):
            return new
    # A scale belongs to the layer that is not used.
    part.factors = factors
    return None


def _build_config(layer, tensors):
    """Returns a layer's build config with the shapes of smaller inputs."""
    config = layer.get_build_config()
    if tensors is None:
        return config
    smaller = {
        tuple(shape): tuple(
            size if kept is None else len(kept)
            for size, kept in zip(shape, indices, strict=True)
        )
        for shape, indices in tensors[0]
    }

    def fits(shape, old):
        return all(a in (None, b) for a, b in zip(shape[1:], old[1:], strict=True))

    def replaced(shape):
        # Shapes of the recorded call have no open axes. Those of masks fit too, if only
        # the rank counts.
        same_rank = [pair for pair in smaller.items() if len(pair[0]) == len(shape)]
        for _, new in sorted(same_rank, key=lambda pair: not fits(shape, pair[0])):
            return tuple(
                b if a is not None and a != b else a
                for a, b in zip(shape, new, strict=True)
            )
        for old, new in smaller.items():
            # A layer that works on the last axis may be built for another rank.
            if shape[-1] == old[-1]:
                return (*shape[:-1], new[-1])
        return shape

    return keras.tree.map_shape_structure(replaced, config)


def _become(target, source):
    """Gives a layer the state of another, so that all that hold it see the other."""
    vars(target).clear()
    vars(target).update(vars(source))


def _fit_attributes(old, new, part):
    """Replaces sizes in the attributes of a layer until it computes the same."""
    trial = Trial(old, part)
    if trial.is_passed_by(new):
        return
    before = dict(vars(new))
    values = {k: v for k, v in before.items() if not k.startswith("_self_")}
    for change in resizings(values, old, part):
        vars(new).update(change)
        if trial.is_passed_by(new):
            part.remember(old, change)
            return
        vars(new).update((name, before[name]) for name in change)
    raise refusal(
        old,
        "its config does not say their number, and its `call` computes something else "
        "with smaller weights. Leave its channels out.",
    )

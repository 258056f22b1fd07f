"""Rebuilds a Sequential or Functional model with smaller layers."""

import copy
import itertools
import json

import keras

from keras_pruner.backend import (
    class_of_keras_operation,
    functional_of,
    functional_steps,
    sublayers_of,
    without_initial_values,
)
from keras_pruner.kernels import own_variables
from keras_pruner.slimming.cutting.alike import Trial
from keras_pruner.slimming.cutting.edit import refusal, shortened, smaller_layer
from keras_pruner.slimming.cutting.families.shapes import cut_key
from keras_pruner.slimming.cutting.registry import cutter_of
from keras_pruner.slimming.cutting.unrolled import StandIn, Unrolled, call_with
from keras_pruner.training import (
    clone_graph,
    hand_over,
    is_graph,
    ready_to_copy,
    tied_layers,
)

_ADVICE = (
    "Register how its config says its sizes, by `register_cutter`, or leave its "
    "channels out."
)


def rebuild(model, part, passes=None, copies=None):
    """Returns a model with the part of each variable that stays.

    Args:
        model: Built Sequential or Functional model.
        part: `Part`.
        passes: Dict from the id of an operation that only passes an input on, e.g. an
            `Add` of zeros, to the number of this input.
        copies: Function from a layer that cannot be created from its config, or run by
            its sublayers, to a smaller copy with its state, or to `None`.

    Returns:
        Keras model of plain layers, not compiled.

    Raises:
        ValueError: If a layer cannot be created with fewer channels. The message
            names it.
    """
    passes = passes or {}
    dead, tied = dead_operations(model, passes), tied_layers(model)
    builder = _Builder(part, passes, dead, tied, copies)
    with ready_to_copy(model), without_initial_values():
        new = builder.graph(model)
    builder.hand_over()
    return new


class _Builder:
    """Makes copies of layers and calls them; each old layer has one copy."""

    def __init__(self, part, passes, dead, tied, copies=None):
        self._part, self._passes, self._dead = part, passes, dead
        self._find_copy, self._found_copies = copies, {}
        self._tied = tied
        # How many layers are being run by their sublayers, and all names of layers.
        self._depth, self._names = 0, set()
        # By the id of the old operation, so that copies share what the model shares.
        self._copies, self._olds, self._calls = {}, {}, {}
        self._graphs, self._pairs = [], []

    def graph(self, model):
        """Rebuilds a model whose layers are known."""
        self._names.update(layer.name for layer in model.layers)
        new = self._sequential(model) if isinstance(model, keras.Sequential) else None
        if new is None:
            functional = functional_of(model)
            shapes = self._input_shapes(model, functional)
            new = clone_graph(functional, self._copy, self._call, shapes)
        self._graphs.append((model, new))
        return new

    def _input_shapes(self, model, functional):
        tensors = self._part.tensors_of(model)
        shapes = [x.shape for x in keras.tree.flatten(functional.input)]
        if tensors is None or len(tensors[0]) != len(shapes):
            return shapes
        return [
            tuple(
                size if kept is None else len(kept)
                for size, kept in zip(shape, indices, strict=True)
            )
            for shape, (_, indices) in zip(shapes, tensors[0], strict=True)
        ]

    def _sequential(self, model):
        """Rebuilds a Sequential model, or returns `None` if a layer is unrolled."""
        before = self._state()
        functional = functional_of(model)
        ((shape,), (tensor,)) = self._input_shapes(model, functional), functional.inputs
        try:
            layers = [self._copy(layer) for layer in model.layers]
            inputs = keras.Input(
                batch_shape=shape, dtype=tensor.dtype, name=tensor.name
            )
            new = keras.Sequential([inputs, *layers], name=model.name)
            for old in model.layers:
                if not is_graph(old):
                    self._check(old, self._copies[id(old)])
        except Exception:
            # The functional way names the layer, or unrolls it.
            self._set_state(before)
            return None
        if new.dtype_policy != model.dtype_policy:
            new.dtype_policy = model.dtype_policy
        return new

    def _state(self):
        names = ("_copies", "_pairs", "_graphs", "_calls", "_names")
        state = {name: copy.copy(getattr(self, name)) for name in names}
        return state, dict(self._part.factors)

    def _set_state(self, state):
        vars(self).update(state[0])
        self._part.factors = state[1]

    def _copy(self, old, name=None):
        """Returns the copy of a layer, model or operation."""
        if id(old) not in self._copies:
            if is_graph(old) and functional_of(old) is not None:
                new = self.graph(old)
            else:
                new = self._created(old, name)
            self._copies[id(old)], self._olds[id(new)] = new, old
        return self._copies[id(old)]

    def _created(self, old, name):
        """Creates a layer or operation from its config, or else finds a copy."""
        if id(old) in self._tied:
            new = self._found(old)
            if new is None:
                raise refusal(old, "it shares a layer with others.")
            return new
        try:
            new = smaller_layer(old, self._part, name)
        except ValueError as error:
            if isinstance(old, keras.layers.Layer) and sublayers_of(old):
                # Its sublayers may be created one by one.
                return Unrolled(error)
            new = self._found(old)
            if new is None:
                raise
            return new
        if isinstance(old, keras.layers.Layer):
            self._pairs.append((old, new))
        return new

    def _found(self, old):
        """Returns a smaller copy that has its state, or `None`.

        Within a layer that is run by its sublayers there is none, because the layer as
        a whole may have one.
        """
        if self._find_copy is None or self._depth:
            return None
        if not isinstance(old, keras.layers.Layer):
            return None
        new = self._find_copy(old)
        if new is not None:
            self._copies[id(old)] = self._found_copies[id(old)] = new
            self._olds[id(new)] = old
        return new

    def _call(self, new, *args, **kwargs):
        """Calls a copy as the model calls the old operation."""
        old = self._olds[id(new)]
        # Keras remembers the first copy, also if the layer has been unrolled since.
        new = self._copies[id(old)]
        if id(old) in self._dead:
            return keras.tree.map_structure(_like, old.output)
        if id(old) in self._passes:
            return keras.tree.flatten((args, kwargs))[self._passes[id(old)]]
        number = self._calls[id(old)] = self._calls.get(id(old), -1) + 1
        if class_of_keras_operation(old) == "GetItem":
            args, kwargs = self._cut_key(old, number, args, kwargs)
        if not isinstance(old, keras.layers.Layer) or is_graph(old):
            return new(*args, **kwargs)
        if isinstance(new, Unrolled):
            return self._unroll_or_copy(old, args, kwargs, new.error)
        try:
            outputs = new(*args, **kwargs)
            if number == 0 and new is not self._found_copies.get(id(old)):
                self._check(old, new)
        except Exception as error:
            self._pairs = [pair for pair in self._pairs if pair[0] is not old]
            if sublayers_of(old):
                return self._unroll_or_copy(old, args, kwargs, error)
            new = self._found(old)
            if new is None:
                raise refusal(old, f"{shortened(error)} {_ADVICE}") from error
            return new(*args, **kwargs)
        return outputs

    def _cut_key(self, old, number, args, kwargs):
        tensors = self._part.tensors_of(old, number)
        if tensors is None:
            return args, kwargs
        x, key = args + tuple(kwargs.values())
        return (x, cut_key(key, tensors[0][0])), {}

    def _check(self, old, new):
        """Raises an error unless a new layer has exactly the wanted variables."""
        wanted = [self._part.shape_of(v) for v in old.variables]
        for layer in [old, *sublayers_of(old)]:
            if id(layer) in self._part.new_biases:
                wanted.append(self._part.new_biases[id(layer)].shape)
        wanted.sort()
        made = sorted(tuple(v.shape) for v in new.variables)
        if wanted != made:
            raise ValueError(f"It builds variables of {made} instead of {wanted}.")
        part = self._part
        if cutter_of(old) is None and part.changes(old) and not part.has_constants:
            hand_over(old, new, {}, part)
            if not Trial(old, part).is_passed_by(new):
                raise ValueError("With these sizes it computes something else.")
            # As a file does. Its sublayers one by one may load instead.
            config = json.loads(json.dumps(keras.saving.serialize_keras_object(new)))
            again = keras.saving.deserialize_keras_object(config, safe_mode=False)
            if sorted(tuple(v.shape) for v in again.variables) != wanted:
                raise ValueError("Its config does not build it.")

    def _unroll_or_copy(self, old, args, kwargs, error):
        """Runs a composite layer by its sublayers, or else finds a copy."""
        before = self._state()
        self._depth += 1
        inputs = keras.tree.flatten((args, kwargs))
        inputs = [x for x in inputs if isinstance(x, keras.KerasTensor)]
        try:
            outputs = self._unroll(old, args, kwargs, error)
            self._check_unrolled(old, inputs, outputs, before)
            return outputs
        except ValueError:
            self._depth -= 1
            self._set_state(before)
            new = self._found(old)
            self._depth += 1
            if new is None:
                raise
            return new(*args, **kwargs)
        finally:
            self._depth -= 1

    def _check_unrolled(self, old, inputs, outputs, before):
        """Raises an error if the sublayers one by one do not run or differ."""
        if self._part.has_constants or self._depth > 1:
            return
        trial = Trial(old, self._part)
        for pair in self._pairs[len(before[0]["_pairs"]) :]:
            hand_over(*pair, {}, self._part)
        if not trial.is_passed_between(inputs, outputs):
            raise refusal(
                old,
                "its config does not say their number, and its sublayers one by one "
                "compute something else.",
            )

    def _unroll(self, old, args, kwargs, error):
        """Runs the `call` of a composite layer with smaller sublayers."""
        said = f"its config does not say their number ({shortened(error)})"
        if own_variables(old):
            raise refusal(
                old,
                f"{said}, and it uses variables beside its sublayers. {_ADVICE}",
            )
        stand_ins = {k: self._stand_in(old, v) for k, v in vars(old).items()}
        stand_ins = {k: v for k, v in stand_ins.items() if v is not vars(old)[k]}
        try:
            outputs = call_with(stand_ins, old, args, kwargs)
        except Exception as inner:
            raise refusal(
                old,
                f"{said}, and its `call` cannot run with smaller sublayers: "
                f"{shortened(inner)}",
            ) from inner
        # Other calls of the layer run in the same way.
        self._copies[id(old)] = unrolled = Unrolled(error)
        self._olds[id(unrolled)] = old
        return outputs

    def _stand_in(self, owner, value):
        """Replaces the layers in an attribute by smaller ones."""
        if isinstance(value, keras.layers.Layer):
            new = self._copy(value, self._unique(f"{owner.name}_{value.name}"))
            return StandIn(self._call, new, value)
        if isinstance(value, dict):
            new = {k: self._stand_in(owner, item) for k, item in value.items()}
            return new if any(new[k] is not value[k] for k in value) else value
        if isinstance(value, list | tuple):
            new = [self._stand_in(owner, item) for item in value]
            same = all(a is b for a, b in zip(new, value, strict=True))
            return value if same else type(value)(new) if type(value) is tuple else new
        return value

    def _unique(self, name):
        """Numbers a name that another layer has."""
        numbered = (f"{name}_{number}" for number in itertools.count(1))
        names = itertools.chain([name], numbered)
        name = next(one for one in names if one not in self._names)
        self._names.add(name)
        return name

    def hand_over(self):
        """Gives the new layers their part of the old ones' state."""
        for old, new in [*reversed(self._graphs), *self._pairs]:
            if new.trainable != old.trainable:
                new.trainable = old.trainable
        for old, new in self._pairs:
            # A layer of a branch that is left out is not built.
            if id(old) in self._part.new_biases:
                self._hand_over_with_bias(old, new)
            elif new.built:
                hand_over(old, new, {}, self._part)

    def _hand_over_with_bias(self, old, new):
        """Gives a layer the values of another that has no bias."""
        targets = {variable.name: variable for variable in own_variables(new)}
        targets["bias"].assign(self._part.new_biases[id(old)])
        for source in own_variables(old):
            target = targets[source.name]
            target.assign(self._part.part_of(source, source.value))
            target.trainable = source.trainable


def _like(tensor):
    return keras.KerasTensor(tensor.shape, tensor.dtype)


def dead_operations(model, passes):
    """Returns the ids of the operations that no output needs.

    Args:
        model: Sequential or Functional model.
        passes: See `rebuild`.
    """
    if not passes:
        return set()
    steps, outputs = functional_steps(model)
    needed, alive = set(outputs), set()
    for step in reversed(steps):
        if not needed.isdisjoint(step.writes):
            alive.add(id(step.operation))
            number = passes.get(id(step.operation))
            needed.update(step.reads if number is None else [step.reads[number]])
    return {id(step.operation) for step in steps} - alive

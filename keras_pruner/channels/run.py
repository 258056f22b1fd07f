"""Runs a model on symbolic tensors and follows the indices of all axes."""

import contextlib
import inspect

import keras

from keras_pruner.backend import (
    all_layers,
    class_of_keras_operation,
    own_non_trainables_of,
    sublayers_of,
    trainables_in,
)
from keras_pruner.channels.labels import Labels
from keras_pruner.channels.mean_square import mean_square_of
from keras_pruner.channels.records import Call, VariableSymbol
from keras_pruner.channels.rules.contractions import contract_quantized
from keras_pruner.channels.rules.normalization import mean_square
from keras_pruner.channels.rules.registry import rule_for_layer, rule_for_operation
from keras_pruner.channels.rules.zeros import mark_alive
from keras_pruner.channels.symbolic_calls import (
    attributes_put_back,
    symbolic_calls_by,
    variables_shown_as,
)
from keras_pruner.channels.trace import Trace, is_tensor

# Stands for the losses that layers add.
_LOSS = "loss"
# Keras gives the outputs of attention the shape of the queries, not of the values.
_WRONG_SHAPES = {"DotProductAttention"}


class ModelTrace(Trace):
    """One run of a model.

    Args:
        model: Built Keras model.
        inputs: Positional arguments of its call, with `keras.KerasTensor`s.
        kwargs: Named arguments of its call.
        skipped: Numbers of operations that only serve losses; see `for_losses`.

    Attributes:
        calls: List of `Call`s.
        variables: Dict from the path of each variable to a tuple of the variable, its
            layer and its `Labels`.
    """

    def __init__(self, model, inputs, kwargs, skipped=()):
        super().__init__()
        self._skipped, self._made, self._readers = set(skipped), [], {}
        self.calls, self.variables = [], {}
        self._model = model
        self._layers = [model]
        self._paths = {}
        # Number of each layer in the order of their first calls.
        self._order = {}
        self._symbols = {}
        # The arrays of ids of all variables, by their own ids.
        self._of_weights = {}
        self._find_variables()
        found = {id(layer): mean_square_of(layer) for layer in all_layers(model)}
        self.mean_squares = {key: each for key, each in found.items() if each}
        with (
            # Losses and assignments of a `call` are dropped.
            keras.StatelessScope(),
            attributes_put_back(model),
            symbolic_calls_by(
                self._on_layer, self._on_operation, self._on_read, self._on_loss
            ) as paused,
            contextlib.ExitStack() as shown,
        ):
            self._paused, self._shown = paused, shown
            self._show()
            self._run(inputs, kwargs)

    @property
    def path(self):
        return self._paths.get(id(self.layer), self.layer.name)

    @property
    def layer(self):
        return self._layers[-1]

    def _find_variables(self):
        """Gives each layer a path and each variable labels."""
        self._paths[id(self._model)] = ""
        pending, numbers, owners = [(self._model, "")], {}, {}
        while pending:
            layer, path = pending.pop()
            for variable in [*trainables_in(layer), *own_non_trainables_of(layer)]:
                owner = owners.get(id(variable))
                # A layer may hold a variable of one of its sublayers.
                if owner is None or path.startswith(f"{owner[2]}/" if owner[2] else ""):
                    owners[id(variable)] = variable, layer, path
            children = []
            for child in sublayers_of(layer):
                if id(child) not in self._paths:
                    inner = f"{path}/{child.name}" if path else child.name
                    self._paths[id(child)] = _unique(inner, numbers)
                    children.append((child, self._paths[id(child)]))
            pending += reversed(children)
        for variable, layer, path in owners.values():
            labels = Labels(tuple(map(self.fresh, variable.shape)), variable)
            name = f"{path}/{variable.name}" if path else variable.name
            self.variables[_unique(name, numbers)] = variable, layer, labels
            self._of_variable[id(variable)] = labels
            self._add_weights(labels)
            # Moving statistics count for nothing where gamma and beta are zero.
            is_statistic = isinstance(layer, keras.layers.BatchNormalization) and all(
                variable is not own for own in trainables_in(layer)
            )
            if not (variable.trainable or is_statistic):
                for ids in labels.axes:
                    self.classes.mark_alive(ids)
            if keras.backend.is_float_dtype(variable.dtype):
                symbol = self._symbols[id(variable)] = VariableSymbol(variable)
                self._labels[id(symbol)] = symbol, labels

    def _show(self):
        self._shown.enter_context(variables_shown_as(self._symbols, self._model))

    def _run(self, inputs, kwargs):
        self.input_shapes = []
        for tensor in keras.tree.flatten((inputs, kwargs)):
            if isinstance(tensor, keras.KerasTensor):
                self.input_shapes.append(tuple(tensor.shape))
                axes = tuple(
                    self.pinned(size, "input of the model") for size in tensor.shape
                )
                self._labels[id(tensor)] = tensor, Labels(axes)
        outputs = self._on_layer(self._model, inputs, kwargs)
        for labels in keras.tree.flatten(self.labelled(outputs)):
            for ids in labels.axes if isinstance(labels, Labels) else ():
                self.pin(ids, "output of the model")
        self.pin_unless_zero()
        # Python's sort keeps the order of the variables of one layer.
        last = len(self._order)
        self.variables = dict(
            sorted(
                self.variables.items(),
                key=lambda item: self._order.get(id(item[1][1]), last),
            )
        )

    def for_losses(self):
        """Returns the numbers of operations whose results only losses read."""
        found = {_LOSS}
        for number in reversed(range(len(self._made))):
            readers = [self._readers.get(id(x), [None]) for x in self._made[number]]
            if readers and all(one in found for own in readers for one in own):
                found.add(number)
        return found - {_LOSS}

    def _on_loss(self, loss):
        self._read_by(_LOSS, loss)

    def _read_by(self, reader, structure):
        """Notes which operation reads symbolic tensors; `None` stands for a layer."""
        for tensor in keras.tree.flatten(structure):
            if isinstance(tensor, keras.KerasTensor):
                self._readers.setdefault(id(tensor), []).append(reader)

    def _on_operation(self, operation, args, kwargs):
        number = len(self._made)
        self._made.append([])
        self._read_by(number, (args, kwargs))
        if number in self._skipped:
            outputs = operation.compute_output_spec(*args, **kwargs)
            self._pin_all((), outputs, "a part of a loss")
        else:
            outputs = self._follow(operation, args, kwargs)
        self._made[number] = keras.tree.flatten(outputs)
        return outputs

    def _follow(self, operation, args, kwargs):
        """Returns the outputs of an operation by its rule."""
        given, given_kwargs = self.labelled((args, kwargs))
        try:
            rule = rule_for_operation(class_of_keras_operation(operation))
            labels = rule(self, operation, *given, **given_kwargs)
            mark_alive(self, operation, (given, given_kwargs), labels)
            if self._has_only_weights((given, given_kwargs)):
                self._add_weights(labels)
            else:
                labels = self._with_own_ids(labels)
            outputs = self._symbols_for(operation, args, kwargs, labels)
        except Exception as error:
            outputs = operation.compute_output_spec(*args, **kwargs)
            reason = f"operation {type(operation).__name__}: {_first_line(error)}"
            self._pin_all((given, given_kwargs), outputs, reason)
        self._record(operation, args, kwargs, outputs)
        return outputs

    def is_of_weights(self, labels):
        return all(id(ids) in self._of_weights for ids in labels.axes)

    def _has_only_weights(self, structure):
        """Whether all tensors are variables, or made of variables only."""
        tensors = [x for x in keras.tree.flatten(structure) if isinstance(x, Labels)]
        return all(map(self.is_of_weights, tensors))

    def _add_weights(self, structure):
        for labels in keras.tree.flatten(structure):
            if isinstance(labels, Labels):
                self._of_weights |= {id(ids): ids for ids in labels.axes}

    def _with_own_ids(self, structure):
        """Returns labels that share no array with a variable.

        By its arrays, `ChannelGraph.operands` tells which variable a product reads.
        """

        def own(labels):
            shared = [id(ids) in self._of_weights for ids in labels.axes]
            pairs = zip(labels.axes, shared, strict=True)
            return Labels(tuple(x.copy() if same else x for x, same in pairs))

        return keras.tree.map_structure(own, structure)

    def _symbols_for(self, operation, args, kwargs, labels):
        """Returns the outputs of an operation that has a rule."""
        flat = keras.tree.flatten(labels)
        outputs = None
        if class_of_keras_operation(operation) not in _WRONG_SHAPES:
            # Keras cannot compute the shapes of all that it computes.
            with contextlib.suppress(Exception):
                outputs = operation.compute_output_spec(*args, **kwargs)
        if outputs is None:
            tensors = keras.tree.flatten((args, kwargs))
            dtype = next(x.dtype for x in tensors if isinstance(x, keras.KerasTensor))
            return keras.tree.map_structure(lambda x: self.symbol_for(x, dtype), labels)
        symbols = keras.tree.flatten(outputs)
        shapes = [tuple(symbol.shape) for symbol in symbols]
        if [x.shape for x in flat] != shapes:
            raise ValueError(f"its outputs have the shapes {shapes}")
        for symbol, x in zip(symbols, flat, strict=True):
            self._labels[id(symbol)] = symbol, x
        return outputs

    def _on_read(self, variable):
        """Pins a variable whose values Python reads, so that no call shows its use."""
        labels = self._of_variable.get(id(variable))
        for ids in labels.axes if labels else ():
            self.pin(ids, "its values are read outside of operations")

    def _record(self, operation, args, kwargs, outputs):
        tensors = filter(is_tensor, keras.tree.flatten((args, kwargs)))
        dtypes = tuple(keras.backend.standardize_dtype(x.dtype) for x in tensors)
        labelled = self.labelled((args, kwargs)), self.labelled(outputs)
        self.calls.append(Call(self.path, operation, *labelled[0], labelled[1], dtypes))

    def _pin_all(self, inputs, outputs, reason):
        """Pins all `Labels` of a structure, and gives symbols pinned labels."""
        for labels in keras.tree.flatten(inputs):
            if isinstance(labels, Labels):
                for ids in labels.axes:
                    self.pin(ids, reason)
        for symbol in keras.tree.flatten(outputs):
            axes = tuple(self.pinned(size, reason) for size in symbol.shape)
            self._labels[id(symbol)] = symbol, Labels(axes)

    def _on_layer(self, layer, args, kwargs):
        flat = keras.tree.flatten((args, kwargs))
        if not any(isinstance(x, keras.KerasTensor) for x in flat):
            if not layer.weights:
                with self._paused():
                    return layer(*args, **kwargs)
            args, kwargs = keras.tree.map_structure(self._lift, (args, kwargs))
        kwargs = _accepted(layer, args, kwargs)
        self._order.setdefault(id(layer), len(self._order))
        self._layers.append(layer)
        try:
            outputs = self._call(layer, args, kwargs)
        finally:
            self._layers.pop()
        self._read_by(None, (args, kwargs, outputs))
        return outputs

    def _lift(self, value):
        if not is_tensor(value):
            return value
        return self.symbol_for(self.labels_of(value), value.dtype)

    def _call(self, layer, args, kwargs):
        given, given_kwargs = self.labelled((args, kwargs))
        try:
            if getattr(layer, "quantization_mode", None) is not None:
                contract_quantized(self, layer, *given, **given_kwargs)
                raise ValueError("it is quantized")
            rule = rule_for_layer(layer)
            if rule is None and id(layer) in self.mean_squares:
                rule = mean_square
            if rule is None:
                outputs = self._open(layer, args, kwargs)
            else:
                labels = rule(self, layer, *given, **given_kwargs)
                if rule is not mean_square:
                    mark_alive(self, layer, (given, given_kwargs), labels)
                outputs = keras.tree.map_structure(
                    lambda x: self.symbol_for(x, layer.compute_dtype),
                    self._with_own_ids(labels),
                )
        except Exception as error:
            reason = f"its `call` cannot be followed: {_first_line(error)}"
            outputs = self._opaque(layer, args, kwargs, reason)
        self._record(layer, args, kwargs, outputs)
        return outputs

    def _open(self, layer, args, kwargs):
        """Runs the layer's own `call` on symbolic tensors."""
        return layer.call(*args, **kwargs)

    def _opaque(self, layer, args, kwargs, reason):
        """Pins all that goes into a layer, comes out of it, or belongs to it."""
        owned = [self.variable(v) for v in layer.weights if id(v) in self._of_variable]
        self._shown.close()
        try:
            with self._paused():
                outputs = layer.compute_output_spec(*args, **kwargs)
                if any(None in x.shape for x in keras.tree.flatten(outputs)):
                    outputs = _spec_by_values(layer, args, kwargs)
        finally:
            self._show()
        self._pin_all((self.labelled((args, kwargs)), owned), outputs, reason)
        return outputs


def _spec_by_values(layer, args, kwargs):
    """Returns symbols for a layer's outputs, of which Keras cannot tell the sizes."""

    def zeros(x):
        is_symbol = isinstance(x, keras.KerasTensor)
        return keras.ops.zeros(x.shape, x.dtype) if is_symbol else x

    args, kwargs = keras.tree.map_structure(zeros, (args, kwargs))
    return keras.tree.map_structure(
        lambda x: keras.KerasTensor(x.shape, keras.backend.standardize_dtype(x.dtype)),
        layer(*args, **kwargs),
    )


def _first_line(error):
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].partition(". ")[0]


def _accepted(layer, args, kwargs):
    """Returns the named arguments that a layer's `call` takes, in inference mode."""
    parameters = inspect.signature(layer.call).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        kwargs = {name: value for name, value in kwargs.items() if name in parameters}
    names = list(parameters)
    if "training" in names and kwargs.get("training") is None:
        if names.index("training") >= len(args):
            kwargs = kwargs | {"training": False}
    return kwargs


def _unique(name, numbers):
    """Numbers names that come up again."""
    numbers[name] = numbers.get(name, 0) + 1
    return name if numbers[name] == 1 else f"{name}#{numbers[name]}"

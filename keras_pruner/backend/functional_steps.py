"""Divides a Functional model into steps that can be run one by one."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_pruner.backend.keras_private import (
    functional_of,
    in_inference_mode,
    keras_mask_of,
    set_keras_mask,
)


class Step(NamedTuple):
    """One call of an operation of a Functional model.

    Args:
        operation: Layer or other operation; `None` where values are only passed on.
        reads: Keys of the values that it needs.
        writes: Keys of its results.
        compute: Function from a dict from keys to values, to a list of results.
    """

    operation: object
    reads: tuple
    writes: tuple
    compute: Callable


def functional_steps(model):
    """Divides a model into steps, in the order in which the model takes them.

    Nested Functional and Sequential models are divided too.

    Args:
        model: Built Keras model.

    Returns:
        List of `Step`s and tuple of the keys of the model's outputs, or `None` if the
        model has a `call` of its own. The first step reads the key `"inputs"`: the
        model's inputs, nested as it takes them.
    """
    graph = functional_of(model)
    if graph is None:
        return None
    return _divide(graph, ("inputs",), lambda values: values["inputs"])


def _divide(graph, reads, inputs_of, scopes=None):
    """Returns the steps of a graph and the keys of its outputs.

    Args:
        graph: `Functional`.
        reads: Keys of the values from which its inputs are made.
        inputs_of: Function from a dict of values to its inputs.
        scopes: Iterator over numbers. A model may be called twice, so each call has
            its own.
    """
    scopes = itertools.count() if scopes is None else scopes
    scope = next(scopes)

    def keys(tensors):
        return tuple((scope, id(tensor)) for tensor in tensors)

    def enter(values):
        inputs = inputs_of(values)
        masks = [keras_mask_of(value) for value in keras.tree.flatten(inputs)]
        tensors = graph._standardize_inputs(inputs)
        for tensor, mask in zip(tensors, masks, strict=True):
            set_keras_mask(tensor, mask)
        return tensors

    steps = [Step(None, reads, keys(graph.inputs), enter)]
    known = set(steps[0].writes)
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            reads, writes = keys(node.input_tensors), keys(node.outputs)
            if node.operation and not node.is_input and known.issuperset(reads):
                known.update(writes)
                steps += _divide_node(node, reads, writes, scopes)
    return steps, keys(graph.outputs)


def _divide_node(node, reads, writes, scopes):
    def arguments_of(values):
        tensors = zip(node.input_tensors, reads, strict=True)
        return node.arguments.fill_in({id(x): values[key] for x, key in tensors})

    def compute(values):
        args, kwargs = arguments_of(values)
        outputs = in_inference_mode(node.operation)(*args, **kwargs)
        return keras.tree.flatten(outputs)

    graph = functional_of(node.operation)
    if graph is None or not _takes_inputs_only(node.arguments):
        return [Step(node.operation, reads, writes, compute)]
    steps, outputs = _divide(graph, reads, lambda v: arguments_of(v)[0][0], scopes)
    leave = Step(None, outputs, writes, lambda values: [values[k] for k in outputs])
    return [*steps, leave]


def _takes_inputs_only(arguments):
    """Whether a model is called without a mask, and not in training mode."""
    given = {k: v for k, v in arguments.kwargs.items() if v not in (None, False)}
    return len(arguments.args) == 1 and not given

"""Finds branches of a model that only add zeros."""

import collections

import keras
from keras import layers

from keras_pruner.backend import (
    class_of_keras_operation,
    functional_of,
    functional_steps,
)


def sums_in(model):
    """Returns the sums of two tensors in a Functional model, nested ones included."""
    if functional_of(model) is None:
        return []
    steps, _ = functional_steps(model)
    counts = collections.Counter(id(step.operation) for step in steps)
    return [
        step.operation
        for step in steps
        if counts[id(step.operation)] == 1 and _is_sum(step.operation)
    ]


def _is_sum(operation):
    is_layer = type(operation) is layers.Add
    if not is_layer and class_of_keras_operation(operation) != "Add":
        return False
    terms = keras.tree.flatten(operation.input)
    return len(terms) == 2


def useless_terms(sums, runs):
    """Finds sums of which one term is always zero.

    Args:
        sums: List of operations.
        runs: List of `Run`s that have watched them.

    Returns:
        Dict from the id of a sum to the number of its other term.
    """
    found = {}
    for operation in sums:
        seen = [run.zeros.get(id(operation)) for run in runs]
        if not seen or any(zeros is None or len(zeros) != 2 for zeros in seen):
            continue
        output = operation.output
        for number, term in enumerate(keras.tree.flatten(operation.input)):
            is_same = term.shape == output.shape and term.dtype == output.dtype
            if is_same and all(zeros[1 - number] for zeros in seen):
                found[id(operation)] = number
                break
    return found

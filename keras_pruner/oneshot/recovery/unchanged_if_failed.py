"""Undoes what an exception or an interrupt leaves half done."""

import contextlib

from keras import ops


@contextlib.contextmanager
def unchanged_if_failed(model):
    """Puts all variables of a model back if the block raises an exception.

    Args:
        model: Built Keras model.

    Yields:
        List of `(variable, value before)`.
    """
    before = [(variable, ops.copy(variable)) for variable in model.variables]
    try:
        yield before
    except BaseException:
        for variable, value in before:
            variable.assign(value)
        raise

"""Undoes what an exception or an interrupt leaves half done."""

import contextlib

from keras import ops


@contextlib.contextmanager
def unchanged_if_failed(variables):
    """Puts variables back if the block raises an exception.

    Args:
        variables: List of `keras.Variable`s.

    Yields:
        List of `(variable, value before)`.
    """
    before = [(variable, ops.copy(variable)) for variable in variables]
    try:
        yield before
    except BaseException:
        put_back(before)
        raise


def put_back(values):
    """Assigns a list of `(variable, value)`."""
    for variable, value in values:
        variable.assign(value)

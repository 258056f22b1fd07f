"""Replaces attributes of objects that are not this package's own."""

import inspect

_MISSING = object()


class Patch:
    """Replaces attributes of a class or an object until `undo` is called.

    All changes of this package to Keras, to torch and to objects of the user that are
    not plain assignments of public attributes are made by this class.
    `tests/test_patches.py` lists them.

    Args:
        target: Class or object.
        **attributes: New values.

    Example:

    >>> class Greeter:
    ...     word = "hello"
    >>> patch = Patch(Greeter, word="bye")
    >>> Greeter.word
    'bye'
    >>> patch.undo()
    >>> Greeter.word
    'hello'
    """

    def __init__(self, target, **attributes):
        self._target = target
        self._before = {name: self._own(name) for name in attributes}
        for name, value in attributes.items():
            self._set(name, value)

    def undo(self):
        """Puts the old attributes back. A second call changes nothing."""
        before, self._before = self._before, {}
        for name, value in before.items():
            self._set(name, value)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.undo()

    def _is_set_by_class(self, name):
        """Whether assignments go through the class, e.g. a property."""
        if isinstance(self._target, type):
            return True
        managed = inspect.getattr_static(type(self._target), name, None)
        return hasattr(managed, "__set__")

    def _own(self, name):
        if self._is_set_by_class(name) and not isinstance(self._target, type):
            return getattr(self._target, name)
        return vars(self._target).get(name, _MISSING)

    def _set(self, name, value):
        if value is _MISSING:
            if isinstance(self._target, type):
                delattr(self._target, name)
            else:
                vars(self._target).pop(name, None)
        elif self._is_set_by_class(name):
            setattr(self._target, name, value)
        else:
            # Keras tracks what is assigned to a layer by `setattr`.
            vars(self._target)[name] = value

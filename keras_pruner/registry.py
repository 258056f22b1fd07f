"""Registers criteria, patterns, schedules, allocations and pruners by name."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar

from keras_pruner.checks import did_you_mean, naming, shown
from keras_pruner.types import ClassT


class Named:
    """Base class of everything that has a name in a `Registry`."""

    # `Registry.register` sets it.
    name: str | None = None


class Component(Named):
    """Base class of everything that you can name, configure, compare and save.

    Subclasses return the arguments of their constructor from `get_config`.
    """

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain Python values."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Builds the component from a config that `get_config` returned.

        Raises:
            ValueError: If the constructor takes other arguments.
        """
        parameters = inspect.signature(cls).parameters
        try:
            inspect.signature(cls).bind(**config)
        except TypeError as error:
            unknown = [name for name in config if name not in parameters]
            hint = did_you_mean(unknown[0], parameters) if unknown else ""
            raise ValueError(
                f"{error}.{hint} Its arguments: {', '.join(parameters) or 'none'}."
            ) from error
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self), repr(sorted(self.get_config().items()))))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"


ComponentT = TypeVar("ComponentT", bound=Named)


class Registry(Mapping[str, type[ComponentT]], Generic[ComponentT]):
    """Maps names to the classes of one family, e.g. of all criteria.

    A registry is a read-only mapping. `register` adds names, inside the package and
    in your code.

    Args:
        family: Singular noun for messages, e.g. `"criterion"`.
        base: Class that every registered class must extend.

    Example:

    >>> FRUITS = Registry("fruit", Component)
    >>> @FRUITS.register("apple", "pomme")
    ... class Apple(Component):
    ...     pass
    >>> FRUITS.get("pomme")
    Apple()
    >>> FRUITS.serialize(Apple())
    {'name': 'apple', 'config': {}}
    """

    def __init__(self, family: str, base: type[ComponentT]) -> None:
        self.family = family
        self.base = base
        self._classes: dict[str, type[ComponentT]] = {}
        # Messages begin with it: "A pattern", "An allocation".
        self._one = f"{'An' if family[0] in 'aeiou' else 'A'} {family}"

    def register(self, *names: str) -> Callable[[ClassT], ClassT]:
        """Returns a decorator that registers a class under one or more names.

        Args:
            *names: Strings. Files and messages use the first.

        Raises:
            ValueError: If another class has the name.
            TypeError: If the class does not extend the family's base.
        """
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(
                f"{self._one} is registered under one or more non-empty "
                f"strings. Received: names={names}"
            )

        def decorate(cls):
            if not (isinstance(cls, type) and issubclass(cls, self.base)):
                raise TypeError(
                    f"{self._one} must be a class that extends "
                    f"`{self.base.__name__}`. Received: {cls!r}"
                )
            for name in names:
                taken = self._classes.get(name)
                # A notebook cell redefines its class when you run it again.
                same = taken is not None and (
                    (taken.__module__, taken.__qualname__)
                    == (cls.__module__, cls.__qualname__)
                )
                if taken is not None and not same:
                    raise ValueError(
                        f"The {self.family} name '{name}' is already taken by "
                        f"`{taken.__module__}.{taken.__qualname__}`. Choose another."
                    )
            for name in names:
                self._classes[name] = cls
            cls.name = names[0]
            return cls

        return decorate

    def __getitem__(self, name: str) -> type[ComponentT]:
        return self._classes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def __repr__(self) -> str:
        return f"Registry({self.family}: {', '.join(self._classes)})"

    def knows(self, identifier: Any) -> bool:
        """Returns whether `get` makes an instance of a name."""
        return isinstance(identifier, str) and identifier in self._classes

    def unknown(self, identifier: Any) -> ValueError:
        """Returns the error for a name that is not registered."""
        return ValueError(
            f"Unknown {self.family} {shown(identifier)}. Known: "
            f"{', '.join(self._classes)}.{did_you_mean(identifier, self._classes)}"
        )

    def get(self, identifier: Any, default: Any = None) -> ComponentT:
        """Returns the instance that a name, a dict or an instance describes.

        Args:
            identifier: A registered name, a dict from `serialize`, an instance
                (returned unchanged), or `None`.
            default: Identifier that replaces `None`.

        Raises:
            ValueError: If the name is unknown or the dict is malformed.
            TypeError: If `identifier` has another type.
        """
        if identifier is None:
            identifier = default
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, str):
            return self._from_name(identifier)
        if isinstance(identifier, dict):
            return self._from_dict(identifier)
        raise TypeError(
            f"{self._one} is given by name, as a dict, or as an instance of "
            f"`{self.base.__name__}`. Received: {shown(identifier)} of type "
            f"{type(identifier).__name__}"
        )

    def _from_dict(self, identifier):
        if set(identifier) - {"name", "config"} or "name" not in identifier:
            raise ValueError(
                f"{self._one} given as a dict has the keys 'name' and 'config'. "
                f"Received: {shown(identifier)}"
            )
        name, config = identifier["name"], identifier.get("config")
        if not isinstance(name, str) or name not in self._classes:
            raise self.unknown(name)
        if config is not None and not isinstance(config, dict):
            raise TypeError(
                f"The 'config' of {self.family} '{name}' is a dict of arguments. "
                f"Received: {shown(config)}"
            )
        with naming(f"{self.family.capitalize()} '{name}'"):
            return self._classes[name].from_config(dict(config or {}))

    def _from_name(self, name):
        return self._from_dict({"name": name})

    def serialize(self, component: Component) -> dict[str, Any]:
        """Returns a dict of plain values that `get` turns into an equal instance."""
        return {"name": component.name, "config": component.get_config()}

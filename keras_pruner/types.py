"""Names the types of annotations that no class of Python says.

Tensors, batches and matplotlib's axes are `Any`, because each backend and each library
has a class of its own, and none of them has to be installed.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import keras

# A tensor of the backend, or what `keras.ops` takes in its place.
Tensor: TypeAlias = Any
# Arrays, nested as a model takes them, or an iterable of batches, e.g. a dataset.
Data: TypeAlias = Any
# Matplotlib's `Axes`.
Axes: TypeAlias = Any
# What Keras passes to callbacks.
Logs: TypeAlias = dict[str, Any] | None
Path: TypeAlias = str | os.PathLike[str]
Shape: TypeAlias = Sequence[int]
# Rows of a table, as plain values.
Rows: TypeAlias = list[dict[str, Any]]
# A cost: a share of the given model, or an amount, perhaps with a unit.
Amount: TypeAlias = float | str | None
# Names layers: a regular expression, the layer, or a function of a path and a layer.
Selector: TypeAlias = str | keras.layers.Layer | Callable[..., Any]
Where: TypeAlias = Selector | Sequence[Selector] | None
# One or several classes of layers.
Classes: TypeAlias = type | tuple[type, ...]
# Sums of a matrix over the groups of a pattern.
Pool: TypeAlias = Callable[[Tensor], Tensor]
# For functions that return the kind of model that they were given.
ModelT = TypeVar("ModelT")
# For decorators that return what they decorate.
ClassT = TypeVar("ClassT", bound=type)
FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

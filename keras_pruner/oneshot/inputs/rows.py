"""The rows that multiply a kernel's matrix, and how a layer's inputs become rows."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_pruner.types import Tensor


class Rows(NamedTuple):
    """What multiplies a kernel: `values[g] @ matrix[:, columns[g]]` is its output.

    Args:
        values: Float32 tensor (G, n, K): n rows for each of G groups.
        columns: NumPy int array (G, N_g): the columns of the kernel's matrix that each
            group computes. All groups of all `Rows` of a kernel cover each column once.
    """

    values: object
    columns: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class KernelInputs:
    """Everything that a kernel reads in one call of its layer.

    A position is a place of the output. Its row consists of the places of the input
    that the kernel's window covers there. Memory for rows is taken only when you call
    `take_rows`, for the positions that you choose.

    Args:
        places: Tensor (P, C): each place of the input, samples first.
        positions: Shape of the positions, samples first, e.g. `(batch, steps)`.
        groups: Number of groups of channels. Each group sees C / G of them.
        windows: For each spatial axis, its size and a NumPy int array (positions,
            window): the places along the axis that a position sees, -1 for padding.
            `None` if a position sees one place, its own.
        columns: NumPy int array (G, N_g): the columns of the kernel's matrix that each
            group computes. `None` divides all columns evenly, in order.
        num_classes: If given, `places` hold integers (P, 1), to become one-hot rows of
            this length.
        source: The layer's input tensor. Kernels with one source and one `form` have
            equal rows. `None` if no other kernel has them.
        form: Hashable that tells how the places were made of the source.
        is_pointwise: Whether a position sees only the place of the input with the same
            index, so that a masked step needs no row.
    """

    places: Tensor
    positions: tuple
    groups: int = 1
    windows: tuple | None = None
    columns: np.ndarray | None = None
    num_classes: int | None = None
    source: object = None
    form: tuple = ()
    is_pointwise: bool = False

    @property
    def num_positions(self) -> int:
        return math.prod(self.positions)

    @property
    def row_length(self) -> int:
        """K, the length of a row."""
        if self.num_classes is not None:
            return self.num_classes
        window = math.prod(places.shape[1] for _, places in self.windows or ())
        return window * (self.places.shape[-1] // self.groups)

    def take_rows(self, index: np.ndarray) -> Tensor:
        """Returns the rows of some positions, float32 (G, n, K).

        Args:
            index: NumPy int array (n,) of positions, numbered in C order.
        """
        index = index.astype("int32")
        if self.num_classes is not None:
            classes = ops.take(self.places[:, 0], index, axis=0)
            return ops.one_hot(classes, self.num_classes, dtype="float32")[None]
        places = self.places
        if self.windows is not None:
            # The place before all others is the zero that padding reads.
            places = ops.pad(places, [[1, 0], [0, 0]])
            index = self._seen(index)
        taken = ops.cast(ops.take(places, index.reshape(-1), axis=0), "float32")
        num_rows, row_length = len(index), self.row_length
        if self.groups == 1:
            return ops.reshape(taken, (1, num_rows, row_length))
        channels = places.shape[-1] // self.groups
        shape = (num_rows, row_length // channels, self.groups, channels)
        rows = ops.transpose(ops.reshape(taken, shape), (2, 0, 1, 3))
        return ops.reshape(rows, (self.groups, num_rows, row_length))

    def _seen(self, index):
        """Returns the places that positions see, (n, window): 0 for padding, then 1."""
        sample, *positions = np.unravel_index(index, self.positions)
        seen, is_padding = sample[:, None], np.zeros((len(index), 1), bool)
        for position, (size, places) in zip(positions, self.windows, strict=True):
            along = places[position][:, None]  # (n, 1, window)
            seen = (seen[:, :, None] * size + along).reshape(len(index), -1)
            is_padding = (is_padding[:, :, None] | (along < 0)).reshape(seen.shape)
        return np.where(is_padding, 0, seen + 1).astype("int32")

    def is_like(self, other: Any) -> bool:
        """Whether the positions of another call can follow these in one object."""
        windows, others = self.windows or (), other.windows or ()
        return (
            self.positions[1:] == other.positions[1:]
            and self.places.shape[1:] == other.places.shape[1:]
            and self.places.dtype == other.places.dtype
            and all(
                size == other_size and np.array_equal(seen, other_seen)
                for (size, seen), (other_size, other_seen) in zip(
                    windows, others, strict=True
                )
            )
        )


def joined(calls):
    """Joins the inputs of several calls, the positions one after the other.

    Args:
        calls: List of `KernelInputs` of one kernel.

    Returns:
        List of `KernelInputs`: one for each run of calls that are alike.
    """
    runs = []
    for call in calls:
        if runs and runs[-1][0].is_like(call):
            runs[-1].append(call)
        else:
            runs.append([call])
    return [
        run[0]
        if len(run) == 1
        else dataclasses.replace(
            run[0],
            places=ops.concatenate([call.places for call in run]),
            positions=(sum(c.positions[0] for c in run), *run[0].positions[1:]),
        )
        for run in runs
    ]


def rows_at(calls, index):
    """Returns rows of several calls, float32 (G, n, K).

    Args:
        calls: List of `KernelInputs` of one kernel.
        index: Sorted NumPy int array of positions, numbered through all calls.
    """
    parts, start = [], 0
    for call in joined(calls):
        stop = start + call.num_positions
        here = index[(index >= start) & (index < stop)] - start
        if len(here) or not len(index):
            parts.append(call.take_rows(here))
        start = stop
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)


def dense_inputs(inputs, **kwargs):
    """Returns the `KernelInputs` of a matrix that multiplies the last axis.

    Args:
        inputs: Tensor (..., K).
        **kwargs: Fields of `KernelInputs`, e.g. `columns`.
    """
    shape = tuple(inputs.shape)
    settings = {"source": inputs, "form": ("dense",), "is_pointwise": True} | kwargs
    places = ops.reshape(inputs, (-1, shape[-1]))
    return KernelInputs(places, shape[:-1] or (1,), **settings)

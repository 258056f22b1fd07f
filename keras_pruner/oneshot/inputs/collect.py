"""Collects the rows that multiply kernels, while a model runs on a batch."""

import dataclasses
import weakref

import keras
import numpy as np
from keras import ops

from keras_pruner.oneshot.inputs.rows import Rows, rows_at
from keras_pruner.oneshot.inputs.rules import COMPILED, find_readers
from keras_pruner.oneshot.inputs.watch import forward_of, watch_calls


@dataclasses.dataclass(frozen=True)
class CallOrder:
    """Tells when a model calls the layers of its kernels.

    Args:
        stages: Tuple of tuples of kernels, in the order of the first calls. The kernels
            of a stage belong to one layer, or to layers with the same inputs.
        shared: Tuple of tuples of kernels, two or more, whose rows are equal, e.g.
            query, key and value of an attention layer.
        left_out: Dict from each kernel whose rows cannot be collected to the reason.
    """

    stages: tuple
    shared: tuple
    left_out: dict


class InputCollector:
    """Collects the rows that multiply the kernels of a model.

    It runs the model eagerly, in inference mode, and changes nothing of it: `call` of
    the layers is replaced for the time of a pass only, and no variable is assigned.
    Rows of masked steps are dropped. The rows of a layer that is called several times
    follow one another. Kernels of one layer have rows of the same positions, so that
    `kernel` and `recurrent_kernel` of a cell fit together row by row.

    Args:
        model: Built Keras model, or `OneShotModule`.
        kernels: Iterable of its `Kernel`s.
        max_rows: Most rows of a kernel that a batch gives: an integer, or a function
            from a `Kernel` to one. A seeded random choice leaves the rest out. `None`
            gives all.
        seed: Integer, seed of the choice.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    >>> collector = InputCollector(model, find_kernels(model).kernels)
    >>> batch = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
    >>> def show(kernel, rows):
    ...     for values, columns in rows:
    ...         print(ops.convert_to_numpy(values).tolist(), columns.tolist())
    >>> collector.collect(batch, show)
    [[[1.0, 2.0], [3.0, 4.0]]] [[0, 1, 2]]
    """

    def __init__(self, model, kernels, *, max_rows=None, seed=0):
        self._model = model
        self._kernels = list(kernels)
        self._readers, self._left_out = find_readers(self._kernels)
        self._number = {kernel: i for i, kernel in enumerate(self._kernels)}
        self._max_rows = max_rows if callable(max_rows) else lambda kernel: max_rows
        self._seed = seed
        # Shapes of a batch -> {id of a layer: number of its calls}.
        self._num_calls = {}

    def order(self, batch):
        """Runs the model on a batch and tells when it calls which layer.

        Args:
            batch: The model's inputs, nested as it takes them.

        Returns:
            `CallOrder`.
        """
        log = _Log(self._readers)
        log.run(self._model, forward_of(self._model, batch), keeps_inputs=False)
        self._num_calls[_shapes_of(batch)] = log.num_calls
        left_out = dict(self._left_out)
        for reader in self._readers:
            missing = [k for k in reader.kernels if k not in log.signatures]
            left_out |= dict.fromkeys(missing, reader.reason_if_not_called)
        left_out |= log.reasons
        order = [k for k in log.signatures if k not in left_out]
        stages, shared = {}, {}
        for kernel in order:
            stages.setdefault(log.origins[kernel], []).append(kernel)
            shared.setdefault(tuple(log.signatures[kernel]), []).append(kernel)
        return CallOrder(
            tuple(map(tuple, stages.values())),
            tuple(tuple(group) for group in shared.values() if len(group) > 1),
            {k: left_out[k] for k in self._kernels if k in left_out},
        )

    def collect(
        self, batch, on_rows, kernels=None, *, state_mapping=None, number=0,
        forward=None,
    ):  # fmt: skip
        """Runs the model on a batch and hands over the rows of kernels.

        The pass ends early once the layers were called as often as in the pass of
        `order` on a batch of these shapes. Kernels with equal rows come one after the
        other, with the same tensors.

        Args:
            batch: The model's inputs, nested as it takes them.
            on_rows: Function that is called with each `Kernel` and its list of `Rows`,
                in the order of the first calls. Kernels that were not called, or are
                left out, have no call.
            kernels: The kernels to collect; all by default.
            state_mapping: List of `(variable, value)` to use in place of the model's,
                e.g. the weights before pruning. The rows are those of the same
                positions.
            number: Number of the batch, which decides with the seed which rows stay.
            forward: Function without arguments that runs the model on the batch, and
                calls at least the layers of `kernels`. `None` calls the model.

        Raises:
            ValueError: If an input of a layer is NaN or infinite.
        """
        wanted = set(self._kernels if kernels is None else kernels)
        readers = [
            dataclasses.replace(r, kernels=[k for k in r.kernels if k in wanted])
            for r in self._readers
        ]
        readers = [reader for reader in readers if reader.kernels]
        log = _Log(readers)
        expected = self._num_calls.get(_shapes_of(batch))
        forward = forward or forward_of(self._model, batch)
        log.run(self._model, forward, expected=expected, state_mapping=state_mapping)
        most = {k: self._most_rows(r) for r in readers for k in r.kernels}
        first = {k: r.kernels[0] for r in self._readers for k in r.kernels}
        groups = {}
        for kernel, signature in log.signatures.items():
            if kernel not in log.reasons:
                groups.setdefault(tuple(signature), []).append(kernel)
        for group in groups.values():
            parts = log.inputs.pop(group[0])
            for kernel in group[1:]:
                log.inputs.pop(kernel)
            seed = (self._seed, number, self._number[first[group[0]]])
            index = _choose(log.kept(group[0]), most[group[0]], seed)
            values = [rows_at(calls, index) for calls in parts]
            _check_finite(values, group[0])
            for kernel in group:
                columns = log.columns[kernel]
                on_rows(kernel, list(map(Rows, values, columns)))

    def _most_rows(self, reader):
        numbers = [self._max_rows(kernel) for kernel in reader.kernels]
        return None if None in numbers else max(numbers)


class _Log:
    """What layers read in one pass, by kernel, in the order of the first calls."""

    def __init__(self, readers):
        self._readers = {id(reader.layer): reader for reader in readers}
        self._tokens = {}
        self.num_calls = {}
        self.reasons = {}
        # What tells equal rows: the source and the form of each call's inputs.
        self.signatures = {}
        # The tensors of the layer's first call.
        self.origins = {}
        # Lists of calls, one for each part of the columns.
        self.inputs = {}
        self.columns = {}
        self._kept = {}

    def run(self, model, forward, expected=None, state_mapping=None, keeps_inputs=True):
        def on_call(layer, args, kwargs, is_compiled):
            reader = self._readers[id(layer)]
            self._add(reader, args, kwargs, is_compiled, watch, keeps_inputs)
            if expected is not None and all(
                self.num_calls.get(key, 0) >= expected.get(key, 0)
                for key in self._readers
            ):
                watch.stop()

        watched = [(reader.layer, reader.base) for reader in self._readers.values()]
        watch = watch_calls(model, watched, on_call)
        watch.run(forward, state_mapping)

    def kept(self, kernel):
        """Returns which positions of all calls are not masked, a bool array."""
        return np.concatenate(self._kept[kernel])

    def _add(self, reader, args, kwargs, is_compiled, watch, keeps_inputs):
        layer = reader.layer
        self.num_calls[id(layer)] = self.num_calls.get(id(layer), 0) + 1
        if is_compiled:
            self.reasons |= dict.fromkeys(reader.kernels, COMPILED)
            return
        origin = tuple(map(self._token, watch.tensors_behind(layer, args, kwargs)))
        mask = watch.mask_of(layer, args, kwargs)
        for kernel, parts in reader.inputs_of_call(args, kwargs).items():
            if isinstance(parts, str):
                self.reasons[kernel] = parts
                continue
            self.origins.setdefault(kernel, origin)
            self.signatures.setdefault(kernel, []).append(
                tuple(self._signature(part, mask) for part in parts)
            )
            if not keeps_inputs:
                continue
            self.columns[kernel] = [part.columns for part in parts]
            calls = self.inputs.setdefault(kernel, [[] for _ in parts])
            for earlier, part in zip(calls, parts, strict=True):
                earlier.append(part)
            kept = _kept_positions(parts[0], mask, watch.samples())
            self._kept.setdefault(kernel, []).append(kept)

    def _signature(self, inputs, mask):
        """Returns an object that is equal for inputs with equal rows only."""
        if inputs.source is None:
            return object()
        mask = None if mask is None else self._token(mask)
        return self._token(inputs.source), mask, inputs.form

    def _token(self, tensor):
        """Returns an object that stands for this tensor only, and keeps no memory."""
        known = self._tokens.get(id(tensor))
        if known is None or known[0]() is not tensor:
            known = self._tokens[id(tensor)] = (weakref.ref(tensor), object())
        return known[1]


def _kept_positions(inputs, mask, samples):
    """Returns which positions of a call are not masked, a flat bool array."""
    kept = np.ones(inputs.positions, bool)
    masks = list(samples)
    if mask is not None and inputs.is_pointwise:
        masks.append(ops.convert_to_numpy(mask).astype(bool))
    for part in masks:
        if part.shape == kept.shape[: part.ndim]:
            kept &= part.reshape(part.shape + (1,) * (kept.ndim - part.ndim))
    return kept.reshape(-1)


def _choose(kept, most, seed):
    """Chooses at most so many of the positions that are kept, sorted."""
    index = np.flatnonzero(kept)
    if most is not None and len(index) > most:
        index = np.random.default_rng(seed).choice(index, most, replace=False)
        index.sort()
    return index


def _check_finite(values, kernel):
    if not all(bool(ops.all(ops.isfinite(part))) for part in values):
        name = getattr(kernel.layer, "name", type(kernel.layer).__name__)
        raise ValueError(
            f"An input of layer '{name}' is NaN or infinite, so kernel "
            f"'{kernel.path}' cannot be pruned by it. Check the data and the layers "
            "before this one. In float16, activations may overflow."
        )


def _shapes_of(batch):
    return tuple(tuple(np.shape(leaf)) for leaf in keras.tree.flatten(batch))
